"""What every codec does with its arguments, whatever it computes with: checks, pieces and batches. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mimo_codec.codes import AudioCodes
from mimo_codec.common.checks import check_number
from mimo_codec.common.errors import MimoError

Item = TypeVar("Item")
BLOCK_SECONDS = 20.0
"""Audio worked on at a time by models that stream, and read from files by all."""


def check_fit(codes: AudioCodes, model_id: str, sizes: tuple[int, ...], sample_rate: int, frame_rate: float) -> None:
    """MimoError unless these codes can be of the model that is described."""
    if codes.model is not None and codes.model.rpartition("@")[2] != model_id.rpartition("@")[2]:
        raise MimoError(f"codes: made by {codes.model}, this model is {model_id}: use the one that made them")
    if codes.codebook_sizes != sizes[: codes.num_quantizers]:
        raise MimoError(
            f"codes: codebook sizes {list(codes.codebook_sizes)} do not fit {model_id}, which has {list(sizes)}"
        )
    if (codes.sample_rate, codes.frame_rate) != (sample_rate, frame_rate):
        raise MimoError(
            f"codes: {codes.frame_rate:g} frames of audio at {codes.sample_rate} Hz a second do not fit"
            f" {model_id}, which has {frame_rate:g} at {sample_rate} Hz"
        )


def check_batch(name: str, items: object, batch_seconds: float) -> None:
    """MimoError for a single item where a list is needed, and for a bad limit."""
    single = isinstance(items, (str, bytes, os.PathLike, AudioCodes)) or hasattr(items, "shape")
    if single:
        raise MimoError(f"{name}: is a single {type(items).__name__}; a list of items is needed")
    check_number("batch_seconds", batch_seconds, 0, float("inf"))


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


def decode_stream(
    codes: Iterable[Any],
    as_array: Callable[[Any], Any],
    decode_chunk: Callable[..., tuple[Any, Any]],
    samples_per_frame: int,
) -> Iterator[Any]:
    """Chunks of codes [Q, n] (or AudioCodes) as they come -> waveforms [S] as soon as they are complete.

    as_array: a chunk -> its checked codes; decode_chunk: those, a state and `last` -> samples and the next state.
    Raises MimoError for a chunk after one that ended inside a frame.
    """
    state = chunk = None
    num_samples, emitted, ended = 0, 0, False
    for item in codes:
        if ended:
            raise MimoError("codes: a chunk that ends before its last frame does must be the last of its stream")
        chunk = as_array(item)
        whole = chunk.shape[1] * samples_per_frame
        length = item.num_samples if isinstance(item, AudioCodes) else whole
        num_samples, ended = num_samples + length, length < whole
        waveform, state = decode_chunk(chunk, state, last=ended)
        waveform = waveform[: num_samples - emitted]
        emitted += len(waveform)
        yield waveform
    if chunk is not None and emitted < num_samples:
        yield decode_chunk(chunk[:, :0], state, last=True)[0][: num_samples - emitted]


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
