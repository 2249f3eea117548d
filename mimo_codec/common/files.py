"""Files that appear whole or not at all, and JSON that says what is wrong with it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from mimo_codec.common.checks import require, wrap_errors

JSON: TypeAlias = Any
"""What `json.loads` returns: a dictionary, a list, a string, a number, a bool or None."""


def cache_folder() -> Path:
    """Return the folder for what is made once and kept for this user; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimo-codec"


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place when the block ends well.

    The temporary file is hidden, empty, unique and has the suffix of `path`, from which writers
    may tell the format. When the block raises anything, KeyboardInterrupt included, the temporary
    file is removed and `path` stays as it was. A symbolic link is written through, not replaced.
    Do only the writing inside the block: an OSError raised there is reported as this file's.

    Raises MimoError when `path` is a folder or a device, when it exists and `overwrite` is False
    (looked at again at the end, so that a file made meanwhile survives), when its folder is
    missing or not writable, and when writing fails.
    """
    path = Path(path)
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    temporary = target.parent / f".mimo-codec-{secrets.token_hex(8)}{target.suffix}"
    try:
        with wrap_errors(f"{path}: cannot be written", OSError):
            check_target(path, overwrite)
            temporary.touch(exist_ok=False)
            yield temporary
            check_target(path, overwrite)
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_target(path: Path, overwrite: bool) -> None:
    """Raise MimoError unless a file can be made, or with `overwrite` replaced, at `path`."""
    require(not path.is_dir(), f"{path} is a folder; the name of a file is needed")
    require(path.parent.is_dir(), f"{path}: there is no folder {path.parent}")
    require(path.is_file() or not path.exists(), f"{path} is not a regular file; the name of a file is needed")
    require(overwrite or not path.exists(), f"{path} already exists; pass overwrite=True (--overwrite)")


def make_folder(path: Path) -> None:
    """Make a folder, its parents included, unless it is there; raise MimoError when it cannot be made."""
    with wrap_errors(f"{path}: cannot make this folder", OSError):
        path.mkdir(parents=True, exist_ok=True)


def read_json(path: str | os.PathLike[str]) -> JSON:
    """Return what a JSON file holds; raise MimoError, which names it, when it cannot be read or is not JSON."""
    with wrap_errors(f"{path}: cannot be read", OSError):
        data = Path(path).read_bytes()
    with wrap_errors(f"{path}: not valid JSON", ValueError, RecursionError):
        return json.loads(data.decode("utf-8"))
