"""Utterances as items of a batch: read at one sample rate, drawn at random for training or taken as they are.

An utterance that cannot be read any more does not end training: it is a fault of the item, and another one is taken.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mimo_codec.audio.files import load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.data.augment import Augmentation, Effect, apply_effects, change_speed, mix, num_samples_before
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.utterance import Fault, Identity, Utterance

WHOLE_SECONDS = 60.0
"""Longer utterances are not decoded as a whole, and kept in memory, for a crop of them."""

MAX_DRAWS = 100
"""Utterances in a row that may fail before training gives up."""

_FULL_SCALE = 32767


class Item(NamedTuple):
    """One row of a batch: waveform [S] float32."""

    waveform: Tensor
    text: str
    """Transcript of the whole utterance; "" where there is none."""
    name: str
    """For messages: path, and start in it."""
    faults: tuple[Fault, ...] = ()
    """Utterances that could not be read before this one was."""


class Reader:
    """Reads utterances at one sample rate; those read last are kept in memory, with 16 bits."""

    def __init__(self, sample_rate: int, cache_bytes: int = 0):
        """sample_rate: in Hz; cache_bytes: most memory for what is kept, 0 for none."""
        self.sample_rate, self.cache_bytes = sample_rate, cache_bytes
        self._kept: OrderedDict[Identity, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def whole(self, utterance: Utterance) -> Tensor:
        """Read a whole utterance -> [S] float32 in [-1, 1]; raise MimoError when it cannot be read."""
        key = utterance.identity
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key].float() / _FULL_SCALE
        waveform = self._load(utterance, utterance.start, utterance.end)
        stored = (waveform * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE).to(torch.int16)
        if stored.nbytes <= self.cache_bytes:
            self._kept[key] = stored
            self._kept_bytes += stored.nbytes
            while self._kept_bytes > self.cache_bytes:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return stored.float() / _FULL_SCALE

    def piece(self, utterance: Utterance, place: float, num_samples: int) -> Tensor:
        """Read `num_samples` of an utterance, or all of a shorter one -> [S] float32 in [-1, 1].

        place: where the piece lies, from 0 for the utterance's first samples to 1 for its last.
        Raises MimoError when it cannot be read.
        """
        if utterance.seconds is None or utterance.seconds <= WHOLE_SECONDS:
            waveform = self.whole(utterance)
            start = round(place * max(len(waveform) - num_samples, 0))
            return waveform[start : start + num_samples]
        seconds = num_samples / self.sample_rate
        begin = utterance.start + place * max(utterance.seconds - seconds, 0.0)
        rounding = 0.01
        return self._load(utterance, begin, begin + seconds + rounding)[:num_samples].clamp(-1, 1)

    def _load(self, utterance: Utterance, start: float, end: float | None) -> Tensor:
        with wrap_errors(f"{utterance.path}: cannot be read", OSError), audio_file(utterance) as path:
            return resample(*load_audio(path, start, end, strict=True), self.sample_rate)


def late_fault(utterance: Utterance, error: MimoError) -> Fault:
    """Describe what happened to an utterance that was fit to train on when it was scanned."""
    kind = "damaged" if os.path.exists(utterance.path) else "missing"
    return utterance.fault(kind, utterance.without_name(error))


class DrawnUtterances(Dataset[Item]):
    """Utterances, or crops of them, drawn at random: item `number` is a pure function of (seed, stream, number)."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        weights: Sequence[float],
        reader: Reader,
        num_samples: int | None,
        augmentation: Augmentation,
        seed: int,
        stream: int,
        effects: Sequence[Effect] = (),
    ):
        """Make a dataset that draws; it has no length.

        Args:
            utterances: what to draw from.
            weights: proportional to the probability of each utterance.
            reader: reads them.
            num_samples: length of a crop; None: whole utterances.
            augmentation: random changes of every item.
            seed: of everything that is random.
            stream: tells apart what is drawn by one seed for several purposes.
            effects: more random changes, which come before `augmentation`.

        Raises:
            MimoError: when all weights are 0.
        """
        self.utterances, self.reader, self.num_samples = list(utterances), reader, num_samples
        self.augmentation, self.seed, self.stream = augmentation, seed, stream
        self.effects = tuple(effects)
        self.cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
        require(self.cumulative[-1] > 0, "folder_weights: the weight of every file is 0")

    def __getitem__(self, number: int) -> Item:
        """Draw item `number`; raise MimoError when 100 utterances in a row cannot be read."""
        rng = np.random.default_rng((self.seed, self.stream, number))
        faults: list[Fault] = []
        while len(faults) < MAX_DRAWS:
            drawn = utterance = self._draw(rng)
            try:
                waveform = self._read(drawn, rng)
                if self.num_samples is not None and rng.random() < self.augmentation.mixture:
                    utterance = self._draw(rng)
                    waveform = mix(waveform, self._read(utterance, rng), rng)
            except MimoError as error:
                faults.append(late_fault(utterance, error))
                continue
            waveform = apply_effects(self.effects, waveform, self.reader.sample_rate, rng)
            waveform = self.augmentation(waveform, self.reader.sample_rate, rng)
            return Item(waveform, drawn.text or "", drawn.name, tuple(faults))
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
        """sample_rate: of the items, in Hz."""
        self.utterances, self.reader = list(utterances), Reader(sample_rate)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.utterances)

    def __getitem__(self, index: int) -> Item:
        """Read an utterance, or the next that can be read; raise MimoError when none can."""
        faults: list[Fault] = []
        for utterance in self.utterances[index:] + self.utterances[:index]:
            try:
                return Item(self.reader.whole(utterance), utterance.text or "", utterance.name, tuple(faults))
            except MimoError as error:
                faults.append(late_fault(utterance, error))
        raise MimoError(f"none of the {len(faults)} validation files can be read any more; the last: {faults[-1]}")
