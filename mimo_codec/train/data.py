"""Crops of speech files: a folder tree in, batches of waveforms [B, S] out.

Crop i of a run is a pure function of (seed, i): the order does not depend on workers, and a resumed run goes on where
it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mimo_codec.audio import audio_info, iter_audio, load_audio
from mimo_codec.errors import MimoError
from mimo_codec.jobs import AUDIO, find_files
from mimo_codec.resampling import resample

log = logging.getLogger(__name__)


def audio_below(root: str) -> list[Path]:
    """Audio files of a folder tree; MimoError when it is no folder or holds none."""
    if not Path(root).is_dir():
        raise MimoError(f"{root}: not a folder; data.root is the folder that holds the audio files")
    return find_files(root, AUDIO)


class CropDataset(Dataset[Tensor]):
    """Random crops [S] float32 in [-1, 1], files drawn by duration x weight, decoded files kept in memory as int16."""

    def __init__(self, paths: Sequence[Path], weights: Sequence[float], sample_rate: int, num_samples: int, seed: int,
                 cache: bool = True):  # fmt: skip
        self.paths, self.sample_rate, self.num_samples = list(paths), sample_rate, num_samples
        self.probabilities = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.seed = seed
        self.cache: dict[int, Tensor] | None = {} if cache else None

    def waveform(self, index: int) -> Tensor:
        """One whole file at the codec's rate: [S] int16."""
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        waveform = resample(*load_audio(self.paths[index]), self.sample_rate)
        stored = (waveform * 32767).round().clamp(-32768, 32767).to(torch.int16)
        if self.cache is not None:
            self.cache[index] = stored
        return stored

    def __getitem__(self, number: int) -> Tensor:
        """Crop `number` of the run: [S] float32, zero-padded if its file is shorter, with a random gain and sign."""
        rng = np.random.default_rng((self.seed, number))
        waveform = self.waveform(int(rng.choice(len(self.paths), p=self.probabilities)))
        start = int(rng.integers(0, max(len(waveform) - self.num_samples, 0) + 1))
        crop = waveform[start : start + self.num_samples].float() / 32767
        crop = F.pad(crop, (0, self.num_samples - len(crop)))
        peak = float(crop.abs().max())
        gain = 10 ** (rng.uniform(-8, 6) / 20) * rng.choice((-1.0, 1.0))
        return crop * min(gain, 0.99 / max(peak, 1e-4), key=abs)


class CropSampler(Sampler[int]):
    """The numbers of a run's crops, ranks taking turns; iteration starts where training stands."""

    def __init__(self, position: Callable[[], int], stop: int, rank: int = 0, world_size: int = 1):
        """position: number of the first crop that has not been trained on; stop: crops in the whole run."""
        self.position, self.stop, self.rank, self.world_size = position, stop, rank, world_size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.position() + self.rank, self.stop, self.world_size))

    def __len__(self) -> int:
        """Of the whole run: Lightning counts a resumed run's earlier batches too."""
        return len(range(self.rank, self.stop, self.world_size))


class SpeechData(lightning.LightningDataModule):
    """Training crops and validation files.

    Args:
        root: folder with the training audio; sub-folders are searched.
        validation_root: folder with held-out audio, whole files; none: no validation.
        batch_size: crops per step and device.
        segment_seconds: length of a crop.
        folder_weights: factor on the probability of files below a folder of that name, e.g. {"wakewords": 0.3}.
        seed: makes the order of crops reproducible.
        num_workers: processes that prepare batches; 0: in the training process.
        cache: keep decoded files in memory (16 bit).
        sample_rate: of the codec.
        num_validation_files: how many of the held-out files to use, spread evenly; 0: all.
    """

    def __init__(self, root: str, validation_root: str | None = None, batch_size: int = 16,
                 segment_seconds: float = 1.5, folder_weights: dict[str, float] | None = None, seed: int = 0,
                 num_workers: int = 0, cache: bool = True, sample_rate: int = 24000,
                 num_validation_files: int = 0):  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        self.root, self.validation_root = root, validation_root
        self.batch_size, self.num_samples = batch_size, round(segment_seconds * sample_rate)
        self.folder_weights = folder_weights or {}
        self.seed, self.num_workers, self.cache, self.sample_rate = seed, num_workers, cache, sample_rate
        self.num_validation_files = num_validation_files
        self.crops: CropDataset | None = None
        self.validation_paths: list[Path] = []

    def setup(self, stage: str | None = None) -> None:
        paths, weights = [], []
        for path in audio_below(self.root):
            try:
                info = audio_info(path)
            except MimoError as error:
                log.warning("skipped %s", error)
                continue
            factor = np.prod([f for name, f in self.folder_weights.items() if name in path.parts])
            num_samples = info.num_samples
            if num_samples is None:  # the header does not say, so count
                num_samples = sum(block.shape[-1] for block in iter_audio(path))
            paths.append(path)
            weights.append(num_samples / info.sample_rate * float(factor))
        if not paths:
            raise MimoError(f"{self.root}: none of the audio files can be read")
        self.crops = CropDataset(paths, weights, self.sample_rate, self.num_samples, self.seed, self.cache)
        if self.validation_root is not None:
            found = audio_below(self.validation_root)
            every = max(len(found) // self.num_validation_files, 1) if self.num_validation_files else 1
            self.validation_paths = found[::every][: self.num_validation_files or None]

    def train_dataloader(self) -> DataLoader[Tensor]:
        assert self.crops is not None and self.trainer is not None
        trainer = self.trainer
        per_step = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        sampler = CropSampler(lambda: per_step * trainer.global_step, per_step * trainer.max_steps,
                              trainer.global_rank, trainer.world_size)  # fmt: skip
        return DataLoader(self.crops, self.batch_size, sampler=sampler, num_workers=self.num_workers, drop_last=True)

    def val_dataloader(self) -> DataLoader[Tensor] | list[object]:
        if not self.validation_paths:
            return []
        return DataLoader(WholeFiles(self.validation_paths, self.sample_rate), batch_size=1)


class WholeFiles(Dataset[Tensor]):
    """Whole files [S] float32 at the codec's rate."""

    def __init__(self, paths: Sequence[Path], sample_rate: int):
        self.paths, self.sample_rate = list(paths), sample_rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return resample(*load_audio(self.paths[index]), self.sample_rate)
