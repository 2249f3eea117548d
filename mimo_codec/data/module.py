"""The Lightning data module: a folder tree or a manifest in, batches of waveforms [B, S] out.

Crop i of a run is a pure function of (seed, i): the order does not depend on workers or ranks, and a resumed run goes
on where it stopped.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch.utils.data import DataLoader

from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import make_folder
from mimo_codec.data.augment import Augmentation, Effect
from mimo_codec.data.batch import Batch, RunSampler, collate, expect_resuming, leave_interrupts_to_training
from mimo_codec.data.dataset import DrawnUtterances, Item, Reader, WholeUtterances
from mimo_codec.data.find import find_utterances
from mimo_codec.data.manifest import read_faults, read_manifest, write_faults, write_manifest
from mimo_codec.data.options import DataOptions
from mimo_codec.data.scan import scan
from mimo_codec.data.skipped import SKIPPED, SkippedUtterances
from mimo_codec.data.sources import Source, share_out, sources_of
from mimo_codec.data.utterance import FIGURES, Fault, Identity, Utterance, drop_long_texts

LONG_SCAN_SECONDS = 60.0
"""Time between two messages of a scan that takes long."""


class SpeechData(lightning.LightningDataModule):
    """Training crops, transcribed utterances and validation files.

    Before training every file of a folder is decoded once (those of a manifest with figures are trusted), and lists are
    written to `trainer.default_root_dir`/data: train.jsonl (train-0.jsonl and so on if there are several roots),
    validation.jsonl, and skipped.jsonl with the files that are not used and why. A file that cannot be read later is
    replaced by another one. When training ends, all skipped files are logged.

    Args:
        root: the training audio: a folder, a manifest (.jsonl), a data set or shards (see `find_utterances`), or a list
            of several such sources with their weights.
        validation_root: held-out audio, which is used as whole files, as `root`; null: no validation.
        split: use only the rows of `root` that have this "split".
        validation_split: use only the rows of `validation_root` that have this "split".
        augmentation: random changes of the training audio.
        effects: changes of your own, which come before `augmentation`.
        options: see `DataOptions`.
    """

    def __init__(
        self,
        root: list[Source] | str,
        validation_root: list[Source] | str | None = None,
        split: str | None = None,
        validation_split: str | None = None,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        effects: list[Effect] | None = None,
        **options: Any,
    ):
        """See the class for the arguments; MimoError names one whose value cannot be."""
        super().__init__()
        roots = {"root": root, "validation_root": validation_root}
        objects = ["augmentation", "effects", *(name for name, value in roots.items() if isinstance(value, list))]
        self.save_hyperparameters(ignore=objects)  # checkpoints hold plain values only
        self.options = h = DataOptions(**options)
        self.batch_size, self.text_batch_size = h.batch_size, h.text_batch_size
        self.sample_rate, self.num_samples = h.sample_rate, round(h.segment_seconds * h.sample_rate)
        self.augmentation, self.effects = augmentation, list(effects or ())
        self.sources = {"train": sources_of("root", root, split)}
        if validation_root is not None:
            self.sources["validation"] = sources_of("validation_root", validation_root, validation_split)
            weighted = any(source.weight is not None for source in self.sources["validation"])
            require(not weighted, "validation_root: every file is used once, so weights have no meaning")
        self.found: dict[str, list[list[Utterance]]] = {}
        self.skipped = SkippedUtterances()

    # ---- lists ---------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Decide what to train on, in one process of each machine, and write it where all others read it."""
        folder = self._folder()
        if folder is None:
            return
        make_folder(folder)
        for old in folder.glob("skipped-*.jsonl"):
            old.unlink(missing_ok=True)
        faults = []
        for part, sources in self.sources.items():
            for source, target in zip(sources, self._lists(folder, part), strict=True):
                is_source = target.exists() and os.path.exists(source.path) and os.path.samefile(target, source.path)
                require(
                    not is_source,
                    f"{source.path}: training would write its own list there: choose another default_root_dir",
                )
                good, bad = self._scan(source, target)
                write_manifest(target, good)
                faults += bad
        write_faults(folder / SKIPPED, faults)

    def setup(self, stage: str | None = None) -> None:
        """Read the lists that `prepare_data` wrote, or scan where there is no trainer.

        Raises MimoError when `folder_weights` names no folder and, without `optional_text`, when transcripts are wanted
        and there are none.
        """
        folder = self._folder()
        faults: list[Fault] = []
        for part, sources in self.sources.items():
            if folder is None:
                scanned = [self._scan(source) for source in sources]
                self.found[part] = [good for good, _ in scanned]
                faults += [fault for _, bad in scanned for fault in bad]
            else:
                self.found[part] = [read_manifest(path) for path in self._lists(folder, part)]
        if folder is not None:
            faults = read_faults(folder / SKIPPED)
        self.skipped = SkippedUtterances(faults)
        root = ", ".join(source.path for source in self.sources["train"])
        for name in self.options.folder_weights or ():
            is_there = any(name in utterance.path.parts for group in self.found["train"] for utterance in group)
            require(is_there, f"folder_weights: {root} has no audio below a folder {name!r}")
        if self.text_batch_size and not any(self._transcribed()):
            require(
                self.options.optional_text,
                f"{root}: text_batch_size is {self.text_batch_size}, but no utterance of at most "
                f"{self.options.max_text_seconds:g} s has text; give some, or set text_batch_size to 0",
            )
            self.text_batch_size = 0
            rank_zero_info(f"{root}: no transcripts, so training goes without audio to text")

    def _folder(self) -> Path | None:
        """Return the folder with the lists of a run; None without a trainer."""
        return Path(self.trainer.default_root_dir) / "data" if self.trainer is not None else None

    def _lists(self, folder: Path, part: str) -> list[Path]:
        """The files that list what is used, one for each source."""
        number = len(self.sources[part])
        return [folder / (f"{part}-{index}.jsonl" if number > 1 else f"{part}.jsonl") for index in range(number)]

    def _scan(self, source: Source, earlier: Path | None = None) -> tuple[list[Utterance], list[Fault]]:
        """Decide what to use of a source; files that have not changed since an earlier list are trusted."""
        root = source.path
        found, faults = find_utterances(root, source.split)
        known = _unchanged(earlier) if earlier is not None else {}
        found = [replace(u, **known.get(u.identity, {})) if u.seconds is None else u for u in found]
        start = last_message = time.monotonic()

        def progress(index: int) -> None:
            nonlocal last_message
            if time.monotonic() - last_message > LONG_SCAN_SECONDS:
                last_message = time.monotonic()
                rank_zero_info(
                    f"{root}: {index + 1} of {len(found)} files are examined; to do this once and for all runs: "
                    f"mimo-codec data scan {root} -o manifest.jsonl"
                )

        good, bad = scan(found, self.options, progress=progress, trust=True)
        good, unspoken = drop_long_texts(good)
        bad += unspoken
        kinds = Counter(fault.kind for fault in bad)
        texts = kinds.pop("bad text", 0) + sum(fault.kind == "bad text" for fault in faults)
        left_out = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        if not good:
            raise MimoError(f"{root}: no utterance is fit to train on ({left_out}); the first: {bad[0]}")
        hours, seconds = sum(u.seconds or 0.0 for u in good) / 3600, time.monotonic() - start
        message = f"{root}: {len(good)} of {len(found)} utterances, {hours:.2f} h, examined in {seconds:.1f} s"
        message += f"; left out: {left_out}" if left_out else ""
        rank_zero_info(message + (f"; texts that are not used: {texts}" if texts else ""))
        return good, faults + bad

    # ---- batches -------------------------------------------------------------------------------------------------

    @property
    def utterances(self) -> dict[str, list[Utterance]]:
        """What is used, by part: train, and validation if there is any."""
        return {part: [utterance for group in groups for utterance in group] for part, groups in self.found.items()}

    def texts(self) -> list[str]:
        """List all transcripts that training draws from."""
        return [utterance.text or "" for group in self._transcribed() for utterance in group]

    def crops(self) -> DrawnUtterances:
        """Make the dataset of crops of all utterances, drawn by the sources' weights, duration and folder weight."""
        groups = self.found["train"]
        weights = [[self._folder_weight(u) * (u.seconds or 0.0) for u in group] for group in groups]
        return self._drawn(groups, weights, self.num_samples, 0)

    def spoken(self) -> DrawnUtterances:
        """Make the dataset of whole transcribed utterances, drawn by the sources' weights and folder weight."""
        groups = self._transcribed()
        return self._drawn(groups, [[self._folder_weight(u) for u in group] for group in groups], None, 1)

    def _drawn(
        self, groups: list[list[Utterance]], weights: list[list[float]], num_samples: int | None, stream: int
    ) -> DrawnUtterances:
        return DrawnUtterances(
            [utterance for group in groups for utterance in group],
            share_out(self.sources["train"], weights),
            self._reader(),
            num_samples,
            self.augmentation,
            self.options.seed,
            stream,
            self.effects,
        )

    def _transcribed(self) -> list[list[Utterance]]:
        most = self.options.max_text_seconds
        return [[u for u in group if u.text and (u.seconds or 0.0) <= most] for group in self.found["train"]]

    def _folder_weight(self, utterance: Utterance) -> float:
        factors = self.options.folder_weights or {}
        return float(np.prod([factor for name, factor in factors.items() if name in utterance.path.parts]))

    def _reader(self) -> Reader:
        """Make a reader; every loader and worker has one, and they share the memory."""
        sharing = max(self.options.num_workers, 1) * (2 if self.text_batch_size else 1)
        return Reader(self.sample_rate, int(self.options.cache_gb * 1e9) // sharing)

    def train_dataloader(self) -> CombinedLoader:
        """Make the loader of batches {"crops": Batch} and, with `text_batch_size`, also "spoken": Batch."""
        expect_resuming()
        loaders = {"crops": self._loader(self.crops(), self.batch_size, partial(collate, num_samples=self.num_samples))}
        if self.text_batch_size:
            loaders["spoken"] = self._loader(self.spoken(), self.text_batch_size, collate)
        return CombinedLoader(loaders, "min_size")

    def _loader(
        self, dataset: DrawnUtterances, batch_size: int, collate_fn: Callable[[list[Item]], Batch]
    ) -> DataLoader[Item]:
        trainer = self.trainer
        assert trainer is not None, "training batches depend on the trainer's steps and ranks"
        require(
            trainer.max_steps > 0, "trainer.max_steps must be set: training has no epochs that it could count instead"
        )
        module = trainer.lightning_module
        accumulate = getattr(module, "accumulate", trainer.accumulate_grad_batches)
        sampler = RunSampler(
            lambda: getattr(module, "batches_seen", 0),
            trainer.max_steps * accumulate,
            batch_size,
            trainer.global_rank,
            trainer.world_size,
            self.options.distinct_batches,
        )
        # so that the loader draws nothing from the global one
        generator = torch.Generator().manual_seed(self.options.seed)
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=self.options.num_workers,
            collate_fn=collate_fn,
            generator=generator,
            worker_init_fn=leave_interrupts_to_training,
        )

    def val_dataloader(self) -> DataLoader[Item] | list[object]:
        """Make the loader of validation batches, one whole file each."""
        found = self.utterances.get("validation", [])
        if not found:
            return []
        count = min(self.options.num_validation_files or len(found), len(found))
        chosen = [found[i * len(found) // count] for i in range(count)]
        return DataLoader(WholeUtterances(chosen, self.sample_rate), batch_size=1, collate_fn=collate)

    # ---- faults --------------------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch | dict[str, Batch]:
        """Take the faults out of a batch, or of several by name, and keep them, each once."""
        if isinstance(batch, dict):
            return {name: self._without_faults(part) for name, part in batch.items()}
        return self._without_faults(batch)

    def _without_faults(self, batch: Batch) -> Batch:
        if not batch.faults:
            return batch
        self.skipped.add(batch.faults, self._folder(), self.trainer.global_rank if self.trainer is not None else 0)
        return batch._replace(faults=())

    def teardown(self, stage: str) -> None:
        """Log what was skipped when training has ended."""
        if stage == "fit":
            self._finish()

    def on_exception(self, exception: BaseException) -> None:
        """Log what was skipped when training breaks off."""
        self._finish()

    def _finish(self) -> None:
        folder, trainer = self._folder(), self.trainer
        if folder is not None and folder.is_dir() and trainer is not None and trainer.is_global_zero:
            self.skipped.finish(folder)


def _unchanged(manifest: Path) -> dict[Identity, dict[str, Any]]:
    """Return the figures of the utterances in an earlier list whose files have not been touched since."""
    try:
        written = manifest.stat().st_mtime
        listed = [u for u in read_manifest(manifest) if os.path.exists(u.path) and os.stat(u.path).st_ctime < written]
    except (OSError, MimoError):
        return {}
    return {u.identity: {name: getattr(u, name) for name in FIGURES} for u in listed}
