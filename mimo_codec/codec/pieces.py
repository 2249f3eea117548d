"""Long waveforms and codes in pieces, short ones in batches. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import ArrayT, is_array, is_tensor, to_numpy
from mimo_codec.common.checks import check_number
from mimo_codec.common.errors import MimoError
from mimo_codec.common.spooled import is_content

Item = TypeVar("Item")
MAX_LEVEL = 1e12
"""Largest sample: the spectrum of larger ones would overflow."""


def segments(blocks: Iterable[NDArray[np.float32]], config: CodecConfig) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Blocks [S] of one waveform -> samples of each segment, and how many before and after it only surround it.

    Segments are coded each for itself, but their mel frames are those of the whole waveform.
    """
    hop, half_window = config.mel.hop_length, config.mel.n_fft // 2
    segment = (config.segment_frames or 0) * config.samples_per_frame
    samples, before = np.zeros(0, np.float32), 0
    for block, last in with_last(blocks):
        samples = np.concatenate((samples, block))
        while len(samples) - before >= segment + (0 if last else half_window):
            part = samples[: before + segment + half_window]
            yield part, before, len(part) - before - (segment - hop)
            samples, before = samples[before + segment - half_window - 1 :], half_window + 1
    yield samples, before, 0  # more than half a window, enough to be reflected


def pieces(x: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """[..., N] in pieces [..., size], the last one perhaps shorter."""
    for start in range(0, x.shape[-1], size):
        yield x[..., start : start + size]


def padded(items: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Arrays [..., N] -> all of them [B, ..., longest], with zeros at their ends, and their lengths [B]."""
    lengths = np.array([item.shape[-1] for item in items])
    batch = np.zeros((len(items), *items[0].shape[:-1], lengths.max()), items[0].dtype)
    for row, item in zip(batch, items, strict=True):
        row[..., : item.shape[-1]] = item
    return batch, lengths


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last."""
    iterator = iter(items)
    try:
        current = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield current, False
        current = following
    yield current, True


def groups(sizes: Mapping[int, int], most: float) -> Iterator[list[int]]:
    """Indices in groups of similar size, padded size at most `most` (or one item)."""
    group: list[int] = []
    for index in sorted(sizes, key=lambda i: sizes[i]):
        if group and (len(group) + 1) * sizes[index] > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def as_batch(name: str, items: Iterable[Item], batch_seconds: float) -> list[Item]:
    """The items of a batch; MimoError for a single one where several are needed, and for a bad limit."""
    check_number("batch_seconds", batch_seconds, 0, float("inf"))
    is_single = isinstance(items, (str, os.PathLike, Mapping, AudioCodes)) or hasattr(items, "shape")
    if is_single or is_content(items) or not isinstance(items, Iterable):
        raise MimoError(f"{name}: is a single {type(items).__name__}; a list of items is needed")
    return list(items)


def each_rate(sample_rate: Any, count: int) -> Sequence[float | None]:
    """One rate for each of `count` items."""
    if is_array(sample_rate):
        sample_rate = sample_rate.tolist()
    is_one = sample_rate is None or not isinstance(sample_rate, Iterable)
    rates: Sequence[float | None] = [sample_rate] * count if is_one else list(sample_rate)
    if len(rates) != count:
        raise MimoError(f"sample_rate: {len(rates)} rates were given for {count} items")
    return rates


def check_level(waveform: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """The waveform; MimoError for samples whose spectrum would overflow."""
    if np.abs(waveform).max(initial=0) > MAX_LEVEL:
        raise MimoError(f"{where}: has samples beyond {MAX_LEVEL:g}; full scale is 1")
    return waveform


def check_finite(waveform: ArrayT) -> ArrayT:
    """The waveform that codes decode to; MimoError for NaN and infinite values, which no valid weights give."""
    is_finite = waveform.isfinite() if is_tensor(waveform) else np.isfinite(to_numpy(waveform))
    if not bool(is_finite.all()):
        raise MimoError("codes: decode to NaN or infinite values; the weights are damaged, or too large for this dtype")
    return waveform
