"""Speech to train on: a folder tree or a manifest in, batches of waveforms [B, S] out.

Crop i of a run is a pure function of (seed, i): the order does not depend on workers or ranks, and a resumed run goes
on where it stopped.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from mimo_codec.audio.files import load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.audio.waveform import check_sample_rate
from mimo_codec.common.checks import check_integer, check_number
from mimo_codec.common.errors import MimoError
from mimo_codec.data.augment import Augmentation, change_speed, mix, num_samples_before
from mimo_codec.data.manifest import (
    FIGURES,
    Fault,
    Utterance,
    find_utterances,
    read_faults,
    read_manifest,
    write_faults,
    write_manifest,
)
from mimo_codec.data.scan import Limits, scan

log = logging.getLogger(__name__)

WHOLE_SECONDS = 60.0
"""Longer utterances are not decoded as a whole, and kept in memory, for a crop of them."""

MAX_DRAWS = 100
"""Utterances in a row that may fail before training gives up."""

SHOWN_FAULTS = 20
"""Of each kind; the others are in skipped.jsonl only."""

LONG_SCAN_SECONDS = 60.0

Identity = tuple[str, float, float | None]


class Batch(NamedTuple):
    """Speech of B utterances, or pieces of them."""

    waveform: Tensor
    """[B, S] float32, zero-padded at the end."""
    lengths: Tensor
    """[B] int64: samples before the padding."""
    texts: tuple[str, ...]
    """Transcripts of the whole utterances; "" where there is none."""
    names: tuple[str, ...]
    """For messages: path, and start in it."""
    faults: tuple[Fault, ...] = ()
    """What could not be read meanwhile; `SpeechData` takes them out before a batch reaches the model."""


class Item(NamedTuple):
    """One row of a batch: waveform [S] float32."""

    waveform: Tensor
    text: str
    name: str
    faults: tuple[Fault, ...] = ()


def collate(items: Sequence[Item], num_samples: int = 0) -> Batch:
    """Items of any lengths -> a batch as long as the longest, or at least `num_samples`."""
    lengths = [len(item.waveform) for item in items]
    size = max(num_samples, *lengths)
    waveform = torch.stack([F.pad(item.waveform, (0, size - len(item.waveform))) for item in items])
    faults = tuple(fault for item in items for fault in item.faults)
    texts, names = tuple(item.text for item in items), tuple(item.name for item in items)
    return Batch(waveform, torch.tensor(lengths), texts, names, faults)


class Reader:
    """Utterances at one sample rate; those read last are kept in memory, with 16 bits."""

    def __init__(self, sample_rate: int, cache_bytes: int = 0):
        self.sample_rate, self.cache_bytes = sample_rate, cache_bytes
        self._kept: OrderedDict[Identity, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def whole(self, utterance: Utterance) -> Tensor:
        """[S] float32 in [-1, 1]. MimoError when it cannot be read."""
        key = _identity(utterance)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key].float() / 32767
        waveform = self._load(utterance.path, utterance.start, utterance.end)
        stored = (waveform * 32767).round().clamp(-32767, 32767).to(torch.int16)
        if stored.nbytes <= self.cache_bytes:
            self._kept[key] = stored
            self._kept_bytes += stored.nbytes
            while self._kept_bytes > self.cache_bytes:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return stored.float() / 32767

    def piece(self, utterance: Utterance, place: float, num_samples: int) -> Tensor:
        """[S] float32 of `num_samples`, or all of a shorter utterance; from its first (place 0) to its last piece (1).

        MimoError when it cannot be read.
        """
        if utterance.seconds is None or utterance.seconds <= WHOLE_SECONDS:
            waveform = self.whole(utterance)
            start = round(place * max(len(waveform) - num_samples, 0))
            return waveform[start : start + num_samples]
        seconds = num_samples / self.sample_rate
        begin = utterance.start + place * max(utterance.seconds - seconds, 0.0)
        rounding = 0.01
        return self._load(utterance.path, begin, begin + seconds + rounding)[:num_samples].clamp(-1, 1)

    def _load(self, path: Path, start: float, end: float | None) -> Tensor:
        try:
            return resample(*load_audio(path, start, end), self.sample_rate)
        except OSError as error:
            raise MimoError(f"{path}: cannot be read: {error.strerror}") from None


def late_fault(utterance: Utterance, error: MimoError) -> Fault:
    """What happened to an utterance that was fit to train on when it was scanned."""
    kind = "damaged" if os.path.exists(utterance.path) else "missing"
    return Fault(utterance.path, kind, str(error).removeprefix(f"{utterance.path}: "), utterance.start)


class DrawnUtterances(Dataset[Item]):
    """Utterances, or crops of them, drawn at random: item `number` is a pure function of (seed, stream, number).

    An utterance that cannot be read is a fault of the item, and another one is drawn.

    Args:
        weights: proportional to the probability of each utterance.
        num_samples: length of a crop; None: whole utterances.
        stream: tells apart what is drawn by one seed for several purposes.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        weights: Sequence[float],
        reader: Reader,
        num_samples: int | None,
        augmentation: Augmentation,
        seed: int,
        stream: int,
    ):
        self.utterances, self.reader, self.num_samples = list(utterances), reader, num_samples
        self.augmentation, self.seed, self.stream = augmentation, seed, stream
        self.cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
        if not self.cumulative[-1] > 0:
            raise MimoError("folder_weights: the weight of every file is 0")

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng((self.seed, self.stream, number))
        faults: list[Fault] = []
        while len(faults) < MAX_DRAWS:
            own = utterance = self._draw(rng)
            try:
                waveform = self._read(own, rng)
                if self.num_samples is not None and rng.random() < self.augmentation.mixture:
                    utterance = self._draw(rng)
                    waveform = mix(waveform, self._read(utterance, rng), rng)
            except MimoError as error:
                faults.append(late_fault(utterance, error))
                continue
            waveform = self.augmentation(waveform, self.reader.sample_rate, rng)
            return Item(waveform, own.text or "", own.name, tuple(faults))
        raise MimoError(f"{MAX_DRAWS} files in a row that were fit to train on cannot be read; the last: {faults[-1]}")

    def _draw(self, rng: np.random.Generator) -> Utterance:
        return self.utterances[int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], side="right"))]

    def _read(self, utterance: Utterance, rng: np.random.Generator) -> Tensor:
        place, speed = rng.random(), self.augmentation.draw_speed(rng)
        if self.num_samples is None:
            return change_speed(self.reader.whole(utterance), speed)
        piece = self.reader.piece(utterance, place, num_samples_before(self.num_samples, speed))
        return change_speed(piece, speed)[: self.num_samples]


class WholeUtterances(Dataset[Item]):
    """Utterances as they are; for one that cannot be read, the next that can."""

    def __init__(self, utterances: Sequence[Utterance], sample_rate: int):
        self.utterances, self.reader = list(utterances), Reader(sample_rate)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Item:
        faults: list[Fault] = []
        for utterance in self.utterances[index:] + self.utterances[:index]:
            try:
                return Item(self.reader.whole(utterance), utterance.text or "", utterance.name, tuple(faults))
            except MimoError as error:
                faults.append(late_fault(utterance, error))
        raise MimoError(f"none of the {len(faults)} validation files can be read any more; the last: {faults[-1]}")


class RunSampler(DistributedSampler[int]):
    """The numbers of a rank's items: its batch k has `batch_size` numbers from (k * world_size + rank) * batch_size on.

    So all ranks together see what one process with their batches' sum would. Iteration starts where training stands
    and has no end, as steps may be skipped; the length is that of a run without. It is a DistributedSampler because
    Lightning leaves those as they are.
    """

    def __init__(self, batches_seen: Callable[[], int], num_batches: int, batch_size: int, rank: int, world_size: int):
        """batches_seen: how many batches this rank has trained on; num_batches: of a rank in the whole run."""
        numbers: Any = range(num_batches * batch_size * world_size)
        super().__init__(numbers, world_size, rank, shuffle=False)
        self.batches_seen, self.batch_size = batches_seen, batch_size

    def __iter__(self) -> Iterator[int]:
        k = self.batches_seen()
        while True:
            first = (k * self.num_replicas + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)
            k += 1


class SpeechData(lightning.LightningDataModule):
    """Training crops, transcribed utterances and validation files.

    Before training every file of a folder is decoded once (those of a manifest with figures are trusted), and
    `trainer.default_root_dir`/data gets the lists: train.jsonl, validation.jsonl, and skipped.jsonl with what is not
    used and why. A file that breaks later is replaced by another one. When training ends, what was skipped is logged.

    Args:
        root: folder with the training audio, sub-folders included, or manifest (.jsonl).
        validation_root: the same for held-out audio, used as whole files; none: no validation.
        batch_size: crops per batch and device.
        segment_seconds: length of a crop.
        text_batch_size: transcribed utterances per batch and device, beside the crops; 0: none.
        max_text_seconds: longest transcribed utterance.
        optional_text: where nothing is transcribed, train without these utterances instead of refusing.
        folder_weights: factor on the probability of files below a folder of that name, e.g. {"wakewords": 0.3}; there
            must be some.
        augmentation: random changes of the training audio.
        seed: makes the order of crops reproducible.
        num_workers: processes that prepare batches, for crops and for transcribed utterances each; 0: in the training
            process.
        cache_gb: decoded files kept in memory (16 bit, 12 hours in 2 GB), all workers of a device together; 0: none.
        sample_rate: of the codec.
        num_validation_files: how many of the held-out files to use, spread evenly; 0: all.
        split: use the rows of the manifest `root` with this "split" only.
        validation_split: the same for `validation_root`.
        min_seconds: shorter utterances are skipped.
        max_clipped: largest share of samples at full scale in an utterance.
        max_silence: largest share of blocks of 20 ms below -60 dBFS in an utterance.
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
        super().__init__()
        self.save_hyperparameters(ignore=["augmentation"])  # checkpoints hold plain values only
        self.batch_size = check_integer("batch_size", batch_size, 1, 2**20)
        self.text_batch_size = check_integer("text_batch_size", text_batch_size, 0, 2**20)
        self.sample_rate = check_sample_rate(sample_rate)
        self.num_samples = round(check_number("segment_seconds", segment_seconds, 0.01, 3600) * sample_rate)
        self.optional_text = optional_text
        self.max_text_seconds = check_number("max_text_seconds", max_text_seconds, 0, 3600)
        self.folder_weights = folder_weights or {}
        for name, factor in self.folder_weights.items():
            check_number(f"folder_weights: {name}", factor, 0, 1e9)
        self.augmentation, self.seed = augmentation, check_integer("seed", seed, 0, 2**63)
        self.num_workers = check_integer("num_workers", num_workers, 0, 1024)
        self.cache_bytes = int(check_number("cache_gb", cache_gb, 0, 1e6) * 1e9)
        self.num_validation_files = check_integer("num_validation_files", num_validation_files, 0, 2**40)
        self.limits = Limits(min_seconds, max_clipped, max_silence)
        self.sources = {"train": (root, split)}
        if validation_root is not None:
            self.sources["validation"] = (validation_root, validation_split)
        self.utterances: dict[str, list[Utterance]] = {}
        self.faults: dict[str, Fault] = {}
        self.late_faults: list[Fault] = []

    # ---- lists ---------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Decide what to train on, in one process of each machine, and write it where all others read it."""
        folder = self._folder()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MimoError(f"{folder}: cannot make this folder ({error.strerror})") from None
        for old in folder.glob("skipped-*.jsonl"):
            old.unlink(missing_ok=True)
        faults = []
        for part, (source, _) in self.sources.items():
            target = folder / f"{part}.jsonl"
            if os.path.exists(target) and os.path.exists(source) and os.path.samefile(target, source):
                raise MimoError(f"{source}: training writes a list of its own there: choose another default_root_dir")
            good, bad = self._scan(part, target)
            write_manifest(target, good)
            faults += bad
        write_faults(folder / "skipped.jsonl", faults)

    def setup(self, stage: str | None = None) -> None:
        folder = self._folder()
        faults: list[Fault] = []
        for part in self.sources:
            if folder is None:
                self.utterances[part], bad = self._scan(part)
                faults += bad
            else:
                self.utterances[part] = read_manifest(folder / f"{part}.jsonl")
        if folder is not None:
            faults = read_faults(folder / "skipped.jsonl")
        self.faults = {fault.name: fault for fault in faults}
        self.late_faults = []
        for name in self.folder_weights:
            if not any(name in utterance.path.parts for utterance in self.utterances["train"]):
                raise MimoError(f"folder_weights: {self.sources['train'][0]} has no audio below a folder {name!r}")
        if self.text_batch_size and not self._transcribed():
            if self.optional_text:
                self.text_batch_size = 0
                rank_zero_info(f"{self.sources['train'][0]}: no transcripts, so training goes without audio to text")
                return
            raise MimoError(
                f"{self.sources['train'][0]}: text_batch_size is {self.text_batch_size}, but no utterance of at most "
                f"{self.max_text_seconds:g} s has text; give some, or set text_batch_size to 0"
            )

    def _folder(self) -> Path | None:
        """Where the lists of a run lie."""
        return Path(self.trainer.default_root_dir) / "data" if self.trainer is not None else None

    def _scan(self, part: str, earlier: Path | None = None) -> tuple[list[Utterance], list[Fault]]:
        """What to use of a source, and what not; files that have not changed since an earlier list are trusted."""
        source, split = self.sources[part]
        found, faults = find_utterances(source, split)
        known = _unchanged(earlier) if earlier is not None else {}
        found = [replace(u, **known.get(_identity(u), {})) if u.seconds is None else u for u in found]
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
        if not good:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(fault.kind for fault in bad).items())
            raise MimoError(f"{source}: no utterance is fit to train on ({kinds}); the first: {bad[0]}")
        hours, seconds = sum(u.seconds or 0.0 for u in good) / 3600, time.monotonic() - start
        rank_zero_info(f"{source}: {len(good)} of {len(found)} utterances, {hours:.2f} h, examined in {seconds:.1f} s")
        return good, faults + bad

    # ---- batches -------------------------------------------------------------------------------------------------

    def texts(self) -> list[str]:
        """All transcripts that training draws from."""
        return [utterance.text or "" for utterance in self._transcribed()]

    def crops(self) -> DrawnUtterances:
        """Crops of all utterances, drawn by duration and folder weight."""
        utterances = self.utterances["train"]
        weights = [self._folder_weight(u) * (u.seconds or 0.0) for u in utterances]
        return DrawnUtterances(utterances, weights, self._reader(), self.num_samples, self.augmentation, self.seed, 0)

    def spoken(self) -> DrawnUtterances:
        """Whole transcribed utterances, drawn by folder weight."""
        utterances = self._transcribed()
        weights = [self._folder_weight(u) for u in utterances]
        return DrawnUtterances(utterances, weights, self._reader(), None, self.augmentation, self.seed, 1)

    def _transcribed(self) -> list[Utterance]:
        return [u for u in self.utterances["train"] if u.text and (u.seconds or 0.0) <= self.max_text_seconds]

    def _folder_weight(self, utterance: Utterance) -> float:
        return float(np.prod([factor for name, factor in self.folder_weights.items() if name in utterance.path.parts]))

    def _reader(self) -> Reader:
        """Every loader and worker has one of its own."""
        sharing = max(self.num_workers, 1) * (2 if self.text_batch_size else 1)
        return Reader(self.sample_rate, self.cache_bytes // sharing)

    def train_dataloader(self) -> CombinedLoader:
        """Batches {"crops": Batch} and, with `text_batch_size`, also "spoken": Batch."""
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
        if trainer.max_steps <= 0:
            raise MimoError("trainer.max_steps must be set: training has no epochs that it could count instead")
        module = trainer.lightning_module
        accumulate = getattr(module, "accumulate", trainer.accumulate_grad_batches)
        sampler = RunSampler(
            lambda: getattr(module, "batches_seen", 0),
            trainer.max_steps * accumulate,
            batch_size,
            trainer.global_rank,
            trainer.world_size,
        )
        generator = torch.Generator().manual_seed(self.seed)  # so that the loader draws nothing from the global one
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_fn,
            generator=generator,
            worker_init_fn=_leave_interrupts_to_training,
        )

    def val_dataloader(self) -> DataLoader[Item] | list[object]:
        """Batches of one whole file each: Batch."""
        found = self.utterances.get("validation", [])
        if not found:
            return []
        count = min(self.num_validation_files or len(found), len(found))
        chosen = [found[i * len(found) // count] for i in range(count)]
        return DataLoader(WholeUtterances(chosen, self.sample_rate), batch_size=1, collate_fn=collate)

    # ---- faults --------------------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Takes the faults out of a batch and keeps them, each once."""
        if isinstance(batch, dict):
            return {name: self.on_before_batch_transfer(part) for name, part in batch.items()}
        if isinstance(batch, Batch) and batch.faults:
            self._keep(batch.faults)
            return batch._replace(faults=())
        return batch

    def _keep(self, faults: Iterable[Fault]) -> None:
        new = {fault.name: fault for fault in faults if fault.name not in self.faults}
        for fault in new.values():
            log.warning("skipped %s", fault)
        self.faults |= new
        self.late_faults += new.values()
        folder, trainer = self._folder(), self.trainer
        if folder is not None and trainer is not None and new:
            write_faults(folder / f"skipped-{trainer.global_rank}.jsonl", self.late_faults)

    def teardown(self, stage: str) -> None:
        if stage == "fit":
            self._list_faults()

    def on_exception(self, exception: BaseException) -> None:
        self._list_faults()

    def _list_faults(self) -> None:
        """Gather the faults of all ranks in skipped.jsonl and log them by kind."""
        folder, trainer = self._folder(), self.trainer
        if folder is None or not folder.is_dir() or trainer is None or not trainer.is_global_zero:
            return
        faults = dict(self.faults)
        for other in sorted(folder.glob("skipped-*.jsonl")):
            faults |= {fault.name: fault for fault in read_faults(other)}
        if not faults:
            return
        write_faults(folder / "skipped.jsonl", faults.values())
        lines = [f"{len(faults)} utterances were skipped, see {folder / 'skipped.jsonl'}"]
        for kind, count in Counter(fault.kind for fault in faults.values()).most_common():
            shown = [fault for fault in faults.values() if fault.kind == kind][:SHOWN_FAULTS]
            lines += [f"{kind}: {count}", *(f"  {fault.name}: {fault.reason}" for fault in shown)]
            lines += [f"  and {count - len(shown)} more"] if count > len(shown) else []
        log.warning("\n".join(lines))


def _leave_interrupts_to_training(worker: int) -> None:
    """Ctrl-C reaches workers too, but training still needs them to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _identity(utterance: Utterance) -> Identity:
    return os.path.abspath(utterance.path), utterance.start, utterance.end


def _unchanged(manifest: Path) -> dict[Identity, dict[str, Any]]:
    """The figures of those in an earlier list whose files have not been touched since."""
    try:
        written = manifest.stat().st_mtime
        listed = [u for u in read_manifest(manifest) if os.path.exists(u.path) and os.stat(u.path).st_ctime < written]
    except (OSError, MimoError):
        return {}
    return {_identity(u): {name: getattr(u, name) for name in FIGURES} for u in listed}
