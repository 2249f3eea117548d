"""Systems under test, which give decoded waveforms: a codec with some of its codebooks, or files decoded elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mimo_codec.audio.files import load_audio
from mimo_codec.codec.base import Codec
from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import to_numpy
from mimo_codec.common.checks import check_integer
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.codec.items import Item
from mimo_codec.evaluation.codec.results import Codebook, System

Sound = tuple[NDArray[np.float32], int]
"""A waveform [S] and its rate in Hz; an array, because it is sent between processes."""
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""System -> file -> metric -> value."""
Value = TypeVar("Value")


class Coder(Protocol):
    """What gives the decoded waveforms of an item."""

    def __call__(self, item: Item, original: Tensor, rate: int) -> dict[str, Sound]:
        """Code an original [S] at `rate` -> the decoded waveform of each system, by name."""

    def systems(self, scores: Scores) -> list[System]:
        """Describe the systems, with their scores by system, file and metric."""

    def codebooks(self) -> list[Codebook]:
        """Describe how all items together have used each codebook."""


class DecodedFiles:
    """Files that were decoded elsewhere."""

    name = "decoded files"

    def __call__(self, item: Item, original: Tensor, rate: int) -> dict[str, Sound]:
        """Read the item's decoded file; MimoError when there is none."""
        if item.decoded is None:
            raise MimoError(f"{item.path}: there is no decoded file to compare with")
        waveform, decoded_rate = load_audio(item.decoded)
        return {self.name: (waveform.numpy(), decoded_rate)}

    def systems(self, scores: Scores) -> list[System]:
        """Describe the one system."""
        return [System(self.name, "files", scores[self.name])]

    def codebooks(self) -> list[Codebook]:
        """Return nothing: files have no codebooks."""
        return []


class Model:
    """A codec, with the time that it takes and the entries of its codebooks that it uses."""

    def __init__(self, codec: Codec[Any], num_quantizers: int | None, codebooks: Sequence[int]):
        """Measure with the first `num_quantizers` codebooks, and with each smaller number in `codebooks` too."""
        num_quantizers = codec.check_num_quantizers(num_quantizers)
        silence = np.zeros(codec.sample_rate, np.float32)  # so that what happens on first use is not timed
        codec.decode(codec.encode(silence, codec.sample_rate, num_quantizers))
        for number in codebooks:
            check_integer("codebooks", number, 1, num_quantizers)
        self._codec, self._num_quantizers = codec, num_quantizers
        label = codec.name if codec.precision == "float32" else f"{codec.name} {codec.precision}"
        self._names = {number: f"{label} q{number}" for number in sorted({*codebooks, num_quantizers})}
        self._counts = [np.zeros(size, dtype=np.int64) for size in codec.codebook_sizes[:num_quantizers]]
        self._bits_per_second: dict[int, float] = {}
        self._seconds = self._encode_seconds = 0.0
        self._decode_seconds = dict.fromkeys(self._names, 0.0)

    def __call__(self, item: Item, original: Tensor, rate: int) -> dict[str, Sound]:
        """Encode an original once and decode it with each number of codebooks."""
        codes, elapsed = _timed(lambda: self._codec.encode(original.numpy(), rate, self._num_quantizers))
        self._encode_seconds += elapsed
        self._seconds += codes.duration
        for counts, row in zip(self._counts, codes.to_numpy(), strict=True):
            counts += np.bincount(row, minlength=len(counts))
        return {
            name: (self._decode(codes.first(number)), self._codec.sample_rate) for number, name in self._names.items()
        }

    def _decode(self, codes: AudioCodes) -> NDArray[np.float32]:
        waveform, elapsed = _timed(lambda: self._codec.decode(codes))
        self._decode_seconds[codes.num_quantizers] += elapsed
        self._bits_per_second[codes.num_quantizers] = codes.bitrate
        return to_numpy(waveform)

    def systems(self, scores: Scores) -> list[System]:
        """Describe the codec with each number of codebooks."""
        encode_factor = self._encode_seconds / self._seconds
        return [
            System(
                name,
                "model",
                scores[name],
                self._bits_per_second[number],
                encode_factor,
                self._decode_seconds[number] / self._seconds,
            )
            for number, name in self._names.items()
        ]

    def codebooks(self) -> list[Codebook]:
        """Describe the use of each codebook so far."""
        return [Codebook.of(counts) for counts in self._counts]


def _timed(compute: Callable[[], Value]) -> tuple[Value, float]:
    started = time.perf_counter()
    return compute(), time.perf_counter() - started
