"""Checkpoints that appear whole or not at all, and the choice of the one that a run goes on from.

A checkpoint is a zip archive in which torch.save stores a CRC-32 of every part, by which damage is found.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import lightning
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path, make_folder
from mimo_codec.common.signals import interrupts_deferred
from mimo_codec.common.temporaries import temporary_name

CHECKPOINTS = "checkpoints"
"""Folder below trainer.default_root_dir; the same in every run, so that --ckpt_path last finds what is there."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The state of training when it was saved last, and the one before it."""
EXPORTS = ("export", "best")
"""Folders below trainer.default_root_dir with the codec."""
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError, KeyError)


def last_checkpoint(trainer: lightning.Trainer) -> Path:
    """Return the path at which a run saves its state."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.save_last and callback.dirpath:
            return Path(callback.dirpath) / LAST
    return Path(trainer.default_root_dir) / CHECKPOINTS / LAST


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their target and then replaces it; reads those that are whole, and plain values only.

    The state before `last.ckpt` is kept as `previous.ckpt`. At any time, also when the process is killed or the disk is
    full, the last checkpoint that was written completely is there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; MimoError, and the file of before, when it cannot be written."""
        path = Path(path)
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            with open(temporary, "wb") as file, interrupts_deferred():
                _write(checkpoint, file)
            if path.name == LAST:
                _keep_previous(path)
        with suppress(OSError):  # not every system can do this to folders
            _sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, whatever `weights_only` is as tensors and plain values only.

        Raises MimoError when it is damaged, with the one to use instead, or holds other objects.
        """
        # Lightning's function leaves everything in memory, as "cpu" does, which states of 8 bits understand too
        return read_checkpoint(Path(path), "cpu" if callable(map_location) else map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a whole checkpoint of tensors and plain values; MimoError says what is wrong with another."""
    check_whole(path)
    try:
        with wrap_errors(f"{path}: cannot be read", OSError):
            checkpoint = torch.load(path, map_location, weights_only=True)
    except MimoError:
        raise
    except Exception as error:  # torch.load raises many kinds
        refused = type(error).__name__ == "UnpicklingError"
        reason = "not loaded, because it holds more than tensors and plain values"
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise MimoError(f"{path}: {reason if refused else f'is not a checkpoint of training: {first_line}'}") from None
    require(isinstance(checkpoint, dict), f"{path}: is not a checkpoint of training")
    return checkpoint


def _write(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    """Write and wait until it is on the disk; OSError, of which torch.save itself would say something else."""
    target: Any = _KeepsError(file)
    torch.save(checkpoint, target)
    if target.error is not None:
        raise target.error
    file.flush()
    os.fsync(file.fileno())


class _KeepsError:
    """A file for torch.save, whose C++ code loses what `write` raises."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        if self.error is None:
            self.file.flush()


def _keep_previous(path: Path) -> None:
    """Give the file that is about to be replaced a second name; file systems without links go without."""
    link = temporary_name(path.parent, path.suffix)
    with suppress(OSError):
        os.link(path, link)
        os.replace(link, path.with_name(PREVIOUS))


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# ---- what is there ---------------------------------------------------------------------------------------------------


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's bytes; None: nothing."""
    try:
        size = path.stat().st_size
        if size == 0:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            return "its content has changed" if archive.testzip() is not None else None
    except (FileNotFoundError, PermissionError) as error:
        return f"it cannot be read ({error.strerror})"
    except _BROKEN_ZIP:  # NotImplementedError is a RuntimeError
        return f"the end or the index of its {size} bytes is missing"


def check_whole(path: Path) -> None:
    """Raise MimoError when a checkpoint is damaged; it names one that is not."""
    problem = damage(path)
    if problem is None:
        return
    others = [p for p in _checkpoints(path.parent) if p != path and damage(p) is None]
    newest = max(others, key=lambda p: p.stat().st_mtime, default=None)
    advice = f"continue with --ckpt_path {newest}" if newest else "there is no other one: copy it again, or start anew"
    raise MimoError(f"{path}: this checkpoint is damaged, {problem}; {advice}")


def starting_point(asked: str | None, root: Path, folder: Path) -> str | None:
    """Return the checkpoint that a run goes on from; None: it starts anew.

    Args:
        asked: path of a checkpoint, or "last" or "best", which are looked for.
        root: folder of the run (trainer.default_root_dir).
        folder: where its checkpoints are.

    Raises:
        MimoError: when the checkpoint is not there, and when the run would write over another one that it does not go
            on with.
    """
    kept = {"last": sorted(folder.glob("last*.ckpt"), key=os.path.getmtime, reverse=True)}
    kept["last"] += [path for path in [folder / PREVIOUS] if path.exists()]
    kept["best"] = [path for path in [folder / "best.ckpt"] if path.exists()]
    earlier = [p for p in (*_checkpoints(folder), *(root / name for name in EXPORTS)) if p.exists()]
    if asked in kept:
        if kept[asked]:
            return str(kept[asked][0])
        require(
            not earlier, f"{folder}: there is no {asked}.ckpt to continue from, but {_names(earlier, root)}: {_OTHER}"
        )
        rank_zero_info(f"{folder}: there is nothing to continue from yet: training starts from the beginning")
        return None
    if asked is not None and asked != "hpc":  # the latter is Lightning's name for what SLURM has interrupted
        require(os.path.isfile(asked), f"{asked}: there is no such checkpoint to continue from")
        if _is_inside(Path(asked), root):
            return asked
    requeued = asked == "hpc" or any(root.glob("hpc_ckpt_*.ckpt"))
    require(
        requeued or not earlier,
        f"{root}: an earlier run is there ({_names(earlier, root)}), which this one would write over: continue it"
        f" with --ckpt_path last, or {_OTHER}",
    )
    return asked


_OTHER = "give this run a folder of its own with --trainer.default_root_dir"


def _checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, without what killed processes left of theirs."""
    return sorted(path for path in folder.glob("*.ckpt") if not path.name.startswith("."))


def _names(paths: list[Path], root: Path) -> str:
    return ", ".join(os.path.relpath(path, root) for path in paths)


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents
