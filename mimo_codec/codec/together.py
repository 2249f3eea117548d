"""Independent streams that are computed in one step: those that are alike, as the rows of a batch. Needs no torch.

A stream that has gone on for a while no longer depends on where it began. Its counters can then be those of any other
such stream, so that streams that began at different times are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.streaming import as_count, as_flag
from mimo_codec.common.arrays import ArrayT, concatenate, is_array, is_tensor
from mimo_codec.common.checks import require
from mimo_codec.common.rounding import ceil_div

_FRAMES = ("encoder.num_frames", "caches.num_frames", "num_frames")
"""Values of states that count code frames; the first that is there says how old a stream is."""
_SAMPLES = "num_samples"


class Stream(NamedTuple):
    """The next chunk of one of several streams."""

    chunk: Any
    """Samples [S], or codes [Q, n]."""
    state: dict[str, Any]
    marks: dict[str, Any]
    """What is added to the state that it returns."""
    last: bool


def step_together(
    streams: Sequence[Stream],
    step: Callable[[NDArray[Any], dict[str, Any], bool], tuple[ArrayT, dict[str, Any]]],
    config: CodecConfig,
    in_batches: bool,
) -> tuple[list[ArrayT], list[dict[str, Any]]]:
    """Make one step of every stream -> what each gives, and its new state; those that are alike in one batch.

    step: (chunks [B, ...], state of these B streams, whether they end) -> (outputs [B, ...], the new state).
    """
    outputs: dict[int, ArrayT] = {}
    states: dict[int, dict[str, Any]] = {}
    alone = [([i], [0]) for i in range(len(streams))]
    for indices, shifts in groups_of_streams(streams, config) if in_batches else alone:
        past = [moved(streams[i].state, -shift, config) for i, shift in zip(indices, shifts, strict=True)]
        chunks = np.stack([streams[i].chunk for i in indices])
        found, state = step(chunks, joined(past), streams[indices[0]].last)
        for row, (i, shift, new) in enumerate(zip(indices, shifts, separate(state, len(indices)), strict=True)):
            outputs[i], states[i] = found[row], moved(new, shift, config) | streams[i].marks
    order = range(len(streams))
    return [outputs[i] for i in order], [states[i] for i in order]


def settled_after(config: CodecConfig) -> int | None:
    """Code frames after which a stream does not depend on where it began; None where it always does."""
    if config.segment_frames is not None or not (config.streams_encode and config.streams_decode):
        return None
    pool, vocoder = config.encoder.pool, config.vocoder
    frames = [ceil_div(left, pool) for left, _ in (*config.encoder.layer_windows(), *config.decoder.layer_windows())]
    overlap = ceil_div(config.mel.n_fft, config.mel.hop_length)
    mels = sum(getattr(vocoder, "window", (0, 0))) + (vocoder.look_ahead or 0) + overlap
    return max(frames, default=0) + ceil_div(mels, config.mels_per_frame) + 2


def groups_of_streams(streams: Sequence[Stream], config: CodecConfig) -> list[tuple[list[int], list[int]]]:
    """Sort streams into groups that are computed together: (which streams, by how many frames each is put back)."""
    settled = settled_after(config)
    groups: dict[Hashable, tuple[list[int], list[int]]] = {}
    for i, stream in enumerate(streams):
        age = next((as_count(_plain(stream.state[name])) for name in _FRAMES if name in stream.state), None)
        shift = 0 if settled is None or age is None else max(age - settled, 0)
        shifted = moved(stream.state, -shift, config)
        key = (stream.chunk.shape, stream.last, tuple(sorted((k, _kind(value)) for k, value in shifted.items())))
        indices, shifts = groups.setdefault(key, ([], []))
        indices.append(i)
        shifts.append(shift)
    return list(groups.values())


def moved(state: dict[str, Any], num_frames: int, config: CodecConfig) -> dict[str, Any]:
    """Return a state whose counters are so many frames on."""
    steps = dict.fromkeys(_FRAMES, num_frames) | {_SAMPLES: num_frames * config.samples_per_frame}
    return state | {name: _plus(state[name], step) for name, step in steps.items() if name in state and step}


def _plus(value: Any, step: int) -> Any:
    value = _plain(value)
    return value + step if is_tensor(value) or isinstance(value, int) else np.asarray(value + step)


def joined(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of a batch whose rows are these streams, which are alike."""
    first = states[0]
    if len(states) == 1:
        return first
    return {k: concatenate([_plain(s[k]) for s in states], 0) if _has_rows(first[k]) else first[k] for k in first}


def separate(state: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the states of the rows of a batch, which hold no memory of each other."""
    if count == 1:
        return [state]
    plain = {name: _plain(value) for name, value in state.items()}
    return [{k: _row(value, i) if _has_rows(value) else value for k, value in plain.items()} for i in range(count)]


def _row(batch: Any, i: int) -> Any:
    return batch[i : i + 1].clone() if is_tensor(batch) else batch[i : i + 1].copy()


def _plain(value: Any) -> Any:
    """Return a value of ONNX Runtime as an array, anything else as it is."""
    return value if is_array(value) or not hasattr(value, "numpy") else value.numpy()


def _has_rows(value: Any) -> bool:
    return len(_shape(value)) > 0


def _shape(value: Any) -> tuple[int, ...]:
    shape = getattr(value, "shape", ())
    return tuple(shape() if callable(shape) else shape)


def _kind(value: Any) -> Hashable:
    """What has to be the same in streams that are alike: shapes, and numbers."""
    if _has_rows(value):
        return "shape", _shape(value)
    value = _plain(value)
    return "number", value.item() if is_array(value) else value


def check_streams(name: str, chunks: Any, states: Any, last: Any) -> tuple[list[Any], list[Any], list[bool]]:
    """Return chunks, states and ends of as many streams; MimoError for what is not one of each for each stream."""
    is_single = hasattr(chunks, "shape") or isinstance(chunks, (str, bytes)) or not isinstance(chunks, Sequence)
    require(not is_single, f"{name}: a list of chunks is needed, one for each stream")
    count = len(chunks)
    each = [None] * count if states is None else states
    ends = last if isinstance(last, Sequence) and not isinstance(last, str) else [last] * count
    for what, values in (("states", each), ("last", ends)):
        fits = isinstance(values, Sequence) and len(values) == count
        require(fits, f"{what}: one for each of {count} streams is needed")
    return list(chunks), list(each), [as_flag("last", end) for end in ends]
