"""The Lightning data module: a folder tree or a manifest in, batches of waveforms [B, S] out.

Crop i of a run is a pure function of (seed, i): the order does not depend on workers or ranks, and a resumed run goes
on where it stopped.
"""

from __future__ import annotations

import os
import time
import warnings
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

from mimo_codec.audio.waveform import check_sample_rate
from mimo_codec.common.checks import check_integer, check_number, require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import make_folder
from mimo_codec.data.augment import Augmentation
from mimo_codec.data.batch import Batch, RunSampler, collate, leave_interrupts_to_training
from mimo_codec.data.dataset import DrawnUtterances, Item, Reader, WholeUtterances
from mimo_codec.data.manifest import (
    FIGURES,
    Fault,
    Identity,
    Utterance,
    drop_long_texts,
    find_utterances,
    read_faults,
    read_manifest,
    write_faults,
    write_manifest,
)
from mimo_codec.data.scan import Limits, scan
from mimo_codec.data.skipped import SKIPPED, SkippedUtterances

LONG_SCAN_SECONDS = 60.0
"""Time between two messages of a scan that takes long."""


class SpeechData(lightning.LightningDataModule):
    """Training crops, transcribed utterances and validation files.

    Before training every file of a folder is decoded once (those of a manifest with figures are trusted), and lists are
    written to `trainer.default_root_dir`/data: train.jsonl, validation.jsonl, and skipped.jsonl with the files that are
    not used and why. A file that cannot be read later is replaced by another one. When training ends, all skipped files
    are logged.

    Args:
        root: folder with the training audio, sub-folders included, or manifest (.jsonl).
        validation_root: folder or manifest of held-out audio, which is used as whole files; null: no validation.
        batch_size: number of crops per batch and device.
        segment_seconds: length of a crop in seconds.
        text_batch_size: number of transcribed utterances per batch and device, beside the crops; 0: none.
        max_text_seconds: length in seconds of the longest transcribed utterance that is used.
        optional_text: whether to train without transcribed utterances if there are none, instead of stopping.
        folder_weights: factor on the probability of files below a folder of this name, e.g. {"wakewords": 0.3}; there
            must be such files.
        augmentation: random changes of the training audio.
        seed: seed of the order of crops.
        distinct_batches: train on the first so many batches again and again, to see whether a model can learn them by
            heart; 0: all are different. trainer.overfit_batches sets it.
        num_workers: number of processes that prepare crops, and as many for transcribed utterances; 0: the training
            process prepares them.
        cache_gb: memory in GB for decoded files (16 bit, 12 hours in 2 GB), for all workers of a device together; 0:
            none.
        sample_rate: sample rate of the codec in Hz.
        num_validation_files: number of held-out files to use, spread evenly; 0: all.
        split: use only the rows of the manifest `root` that have this "split".
        validation_split: use only the rows of the manifest `validation_root` that have this "split".
        min_seconds: shortest utterance that is used, in seconds.
        max_clipped: largest share of samples at full scale in an utterance that is used.
        max_silence: largest share of blocks of 20 ms below -60 dBFS in an utterance that is used.
    """

    def __init__(
        self,
        root: str,
        validation_root: str | None = None,
        batch_size: int = 16,
        segment_seconds: float = 1.5,
        text_batch_size: int = 0,
        max_text_seconds: float = 20.0,
        optional_text: bool = False,
        folder_weights: dict[str, float] | None = None,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        seed: int = 0,
        distinct_batches: int = 0,
        num_workers: int = 0,
        cache_gb: float = 2.0,
        sample_rate: int = 24000,
        num_validation_files: int = 0,
        split: str | None = None,
        validation_split: str | None = None,
        min_seconds: float = 0.1,
        max_clipped: float = 0.01,
        max_silence: float = 0.9,
    ):
        """See the class for the arguments; MimoError names one whose value cannot be."""
        super().__init__()
        self.save_hyperparameters(ignore=["augmentation"])  # checkpoints hold plain values only
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.text_batch_size = check_integer("text_batch_size", text_batch_size, 0)
        self.sample_rate = check_sample_rate(sample_rate)
        self.num_samples = round(check_number("segment_seconds", segment_seconds, 0.01, 3600) * sample_rate)
        self.optional_text = optional_text
        self.max_text_seconds = check_number("max_text_seconds", max_text_seconds, 0, 3600)
        self.folder_weights = folder_weights or {}
        for name, factor in self.folder_weights.items():
            check_number(f"folder_weights: {name}", factor, 0, 1e9)
        self.augmentation, self.seed = augmentation, check_integer("seed", seed, 0, 2**63)
        self.distinct_batches = check_integer("distinct_batches", distinct_batches, 0)
        self.num_workers = check_integer("num_workers", num_workers, 0)
        self.cache_bytes = int(check_number("cache_gb", cache_gb, 0, 1e6) * 1e9)
        self.num_validation_files = check_integer("num_validation_files", num_validation_files, 0)
        self.limits = Limits(min_seconds, max_clipped, max_silence)
        self.sources = {"train": (root, split)}
        if validation_root is not None:
            self.sources["validation"] = (validation_root, validation_split)
        self.utterances: dict[str, list[Utterance]] = {}
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
        for part, (source, _) in self.sources.items():
            target = folder / f"{part}.jsonl"
            is_source = os.path.exists(target) and os.path.exists(source) and os.path.samefile(target, source)
            require(
                not is_source, f"{source}: training would write its own list there: choose another default_root_dir"
            )
            good, bad = self._scan(part, target)
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
        for part in self.sources:
            if folder is None:
                self.utterances[part], bad = self._scan(part)
                faults += bad
            else:
                self.utterances[part] = read_manifest(folder / f"{part}.jsonl")
        if folder is not None:
            faults = read_faults(folder / SKIPPED)
        self.skipped = SkippedUtterances(faults)
        root = self.sources["train"][0]
        for name in self.folder_weights:
            is_there = any(name in utterance.path.parts for utterance in self.utterances["train"])
            require(is_there, f"folder_weights: {root} has no audio below a folder {name!r}")
        if self.text_batch_size and not self._transcribed():
            require(
                self.optional_text,
                f"{root}: text_batch_size is {self.text_batch_size}, but no utterance of at most "
                f"{self.max_text_seconds:g} s has text; give some, or set text_batch_size to 0",
            )
            self.text_batch_size = 0
            rank_zero_info(f"{root}: no transcripts, so training goes without audio to text")

    def _folder(self) -> Path | None:
        """Return the folder with the lists of a run; None without a trainer."""
        return Path(self.trainer.default_root_dir) / "data" if self.trainer is not None else None

    def _scan(self, part: str, earlier: Path | None = None) -> tuple[list[Utterance], list[Fault]]:
        """Decide what to use of a source; files that have not changed since an earlier list are trusted."""
        source, split = self.sources[part]
        found, faults = find_utterances(source, split)
        known = _unchanged(earlier) if earlier is not None else {}
        found = [replace(u, **known.get(u.identity, {})) if u.seconds is None else u for u in found]
        start = last_message = time.monotonic()

        def progress(index: int) -> None:
            nonlocal last_message
            if time.monotonic() - last_message > LONG_SCAN_SECONDS:
                last_message = time.monotonic()
                rank_zero_info(
                    f"{source}: {index + 1} of {len(found)} files are examined; to do this once and for all runs: "
                    f"mimo-codec data scan {source} -o manifest.jsonl"
                )

        good, bad = scan(found, self.limits, progress=progress, trust=True)
        good, unspoken = drop_long_texts(good)
        bad += unspoken
        if not good:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(fault.kind for fault in bad).items())
            raise MimoError(f"{source}: no utterance is fit to train on ({kinds}); the first: {bad[0]}")
        hours, seconds = sum(u.seconds or 0.0 for u in good) / 3600, time.monotonic() - start
        rank_zero_info(f"{source}: {len(good)} of {len(found)} utterances, {hours:.2f} h, examined in {seconds:.1f} s")
        return good, faults + bad

    # ---- batches -------------------------------------------------------------------------------------------------

    def texts(self) -> list[str]:
        """List all transcripts that training draws from."""
        return [utterance.text or "" for utterance in self._transcribed()]

    def crops(self) -> DrawnUtterances:
        """Make the dataset of crops of all utterances, drawn by duration and folder weight."""
        utterances = self.utterances["train"]
        weights = [self._folder_weight(u) * (u.seconds or 0.0) for u in utterances]
        return DrawnUtterances(utterances, weights, self._reader(), self.num_samples, self.augmentation, self.seed, 0)

    def spoken(self) -> DrawnUtterances:
        """Make the dataset of whole transcribed utterances, drawn by folder weight."""
        utterances = self._transcribed()
        weights = [self._folder_weight(u) for u in utterances]
        return DrawnUtterances(utterances, weights, self._reader(), None, self.augmentation, self.seed, 1)

    def _transcribed(self) -> list[Utterance]:
        return [u for u in self.utterances["train"] if u.text and (u.seconds or 0.0) <= self.max_text_seconds]

    def _folder_weight(self, utterance: Utterance) -> float:
        return float(np.prod([factor for name, factor in self.folder_weights.items() if name in utterance.path.parts]))

    def _reader(self) -> Reader:
        """Make a reader; every loader and worker has one, and they share the memory."""
        sharing = max(self.num_workers, 1) * (2 if self.text_batch_size else 1)
        return Reader(self.sample_rate, self.cache_bytes // sharing)

    def train_dataloader(self) -> CombinedLoader:
        """Make the loader of batches {"crops": Batch} and, with `text_batch_size`, also "spoken": Batch."""
        # They are resumable, by the sampler, but not in the way that Lightning knows.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
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
            self.distinct_batches,
        )
        generator = torch.Generator().manual_seed(self.seed)  # so that the loader draws nothing from the global one
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_fn,
            generator=generator,
            worker_init_fn=leave_interrupts_to_training,
        )

    def val_dataloader(self) -> DataLoader[Item] | list[object]:
        """Make the loader of validation batches, one whole file each."""
        found = self.utterances.get("validation", [])
        if not found:
            return []
        count = min(self.num_validation_files or len(found), len(found))
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
