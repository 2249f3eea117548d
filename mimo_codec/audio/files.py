"""Audio files -> waveforms, at once or piece by piece.

Nothing here needs torch: what returns tensors returns numpy arrays where torch cannot be imported.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.decoders import Damage, Decoder, open_decoder
from mimo_codec.audio.resampling import StreamResampler
from mimo_codec.audio.sources import AnyAudio, AnyFile, AnyPath, as_source
from mimo_codec.audio.waveform import check_array, check_finite, check_sample_rate, mix_down
from mimo_codec.common.arrays import to_numpy, to_tensor
from mimo_codec.common.checks import check_number, require, wrap_errors
from mimo_codec.common.errors import DamageWarning, MimoError
from mimo_codec.common.spooled import as_path

if TYPE_CHECKING:
    from torch import Tensor

_LOAD_BLOCK = 2**18
_MIN_BLOCK_SECONDS, _MAX_BLOCK_SECONDS = 1e-6, 3600.0
MAX_SECONDS = 1e8
"""Latest time in a file that can be asked for: three years."""


@dataclass(frozen=True)
class AudioInfo:
    """The facts in a file's header."""

    sample_rate: int
    """In Hz."""
    num_samples: int | None
    """Samples per channel; None if the header does not say: an MP3 without a Xing, Info or VBRI frame, a FLAC made as a
    stream, what PyAV reads. It is exact for intact wav, flac, ogg and opus files and for those of common MP3 encoders;
    a damaged file may hold less."""
    num_channels: int
    format: str
    """The decoder's container and coding, such as "WAV/PCM_16" or "OGG/OPUS"."""


def audio_info(path: AnyFile) -> AudioInfo:
    """Read the header of an audio file; raise the errors of `load_audio`, but for those about samples."""
    with _open(as_path(path)) as decoder:
        return AudioInfo(decoder.sample_rate, decoder.num_samples, decoder.num_channels, decoder.format)


def load_audio(
    path: AnyFile, start: float = 0.0, end: float | None = None, *, strict: bool = False
) -> tuple[Tensor, int]:
    """Read an audio file -> (waveform [S] float32, sample rate in Hz).

    path: of a file, or its content in bytes, or a binary file object, which is read to its end; what is no file is
    copied into a temporary one of at most 4 GiB.

    Integer samples are scaled to [-1, 1), channels are averaged. `start` and `end`, in seconds, cut
    a piece out of the file; what comes before it is decoded only where its place cannot be found
    exactly otherwise. A piece that goes beyond the file's end is shorter.

    A file that is cut short or damaged gives what comes before that place, and a warning that names
    the place; with `strict` it raises MimoError.

    Raises MimoError, which starts with `path`, when there is no such file, it is a folder, empty,
    not audio, without samples, or has NaN or infinite samples; and for impossible times.
    """
    path, samples, count = as_path(path), np.zeros(0, np.float32), 0
    with _open(path) as decoder:
        for block in _mono_blocks(decoder, path, _LOAD_BLOCK, start, end, strict):
            if count + len(block) > len(samples):  # in place, so that memory holds the samples once
                samples.resize(max(count + len(block), len(samples) * 5 // 4), refcheck=False)
            samples[count : count + len(block)] = block
            count += len(block)
        samples.resize(count, refcheck=False)
        return to_tensor(samples), decoder.sample_rate


def iter_audio(
    path: AnyFile,
    block_seconds: float = 10.0,
    sample_rate: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    *,
    strict: bool = False,
) -> Iterator[Tensor]:
    """Read an audio file in blocks, [S_block] float32 of about `block_seconds` each.

    The blocks concatenated are what `load_audio` gives, resampled to `sample_rate` if that is not
    None, but only one block is in memory at a time. Warns and raises as `load_audio` and `resample`
    do, as the iteration comes to it, and raises MimoError for `block_seconds` that are not in
    (0, 3600].
    """
    return map(to_tensor, iter_arrays(path, block_seconds, sample_rate, start, end, strict=strict))


def iter_arrays(
    path: AnyFile,
    block_seconds: float = 10.0,
    sample_rate: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    *,
    strict: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """`iter_audio` in numpy arrays, without importing torch; the samples are the same."""
    check_number("block_seconds", block_seconds, _MIN_BLOCK_SECONDS, _MAX_BLOCK_SECONDS)
    path = as_path(path)
    with _open(path) as decoder:
        rate = decoder.sample_rate
        blocks = _mono_blocks(decoder, path, max(1, round(block_seconds * rate)), start, end, strict)
        yield from _resampled(blocks, rate, rate if sample_rate is None else sample_rate)


@contextmanager
def _open(path: AnyPath) -> Iterator[Decoder]:
    with open_decoder(path) as decoder:
        check_sample_rate(decoder.sample_rate, str(path))
        yield decoder


def audio_blocks(
    audio: AnyAudio,
    sample_rate: float | None,
    new_rate: int,
    *,
    where: str = "audio",
    block_seconds: float = 20.0,
) -> Iterator[NDArray[np.float32]]:
    """Any audio -> blocks [S_block] float32 of about `block_seconds` each, mono at `new_rate`, as numpy arrays.

    audio: see AnyAudio; arrays and tensors that come without a rate need `sample_rate` in Hz. A file and an array of
    the same samples give the same blocks.

    Raises MimoError for what `load_audio` or `check_array` refuses, as the iteration comes to it; the message begins
    with the path, or with `where` for an array.
    """
    source, given = as_source(audio, sample_rate, where)
    if isinstance(source, (str, os.PathLike)):
        yield from iter_arrays(source, block_seconds, new_rate)
        return
    waveform = check_array(source, given, where)
    rate = check_sample_rate(given)
    size = max(1, round(block_seconds * rate))
    pieces = (waveform[start : start + size] for start in range(0, len(waveform), size))
    yield from _resampled(pieces, rate, new_rate)


def _resampled(blocks: Iterable[NDArray[np.float32]], rate: int, new_rate: int) -> Iterator[NDArray[np.float32]]:
    """Blocks of one waveform -> blocks of what `resample` makes of the whole."""
    resampler: StreamResampler[NDArray[Any]] = StreamResampler(rate, new_rate)
    for block in blocks:
        resampled = resampler.push(block)
        if len(resampled):
            yield resampled
    rest = resampler.finish()
    if len(rest):
        yield rest


def _mono_blocks(
    decoder: Decoder, path: AnyPath, block_size: int, start_seconds: float, end_seconds: float | None, strict: bool
) -> Iterator[NDArray[np.float32]]:
    """Blocks [S] of a piece of a file; what is wrong with the file is reported after the last."""
    start = round(check_number("start", start_seconds, 0, MAX_SECONDS) * decoder.sample_rate)
    stop = sys.maxsize
    if end_seconds is not None:
        stop = round(check_number("end", end_seconds, start_seconds, MAX_SECONDS) * decoder.sample_rate)
    position, problem = 0, None
    try:
        position = _skip(decoder, start)
        while position < stop:
            mono, reason = _read_mono(decoder, min(block_size, stop - position))
            check_finite(mono, str(path), offset=position)
            position += len(mono)
            if len(mono):
                yield mono
            if reason is not None:
                problem = f"is damaged near sample {position} ({reason})"
            elif not len(mono) and (lack := decoder.missing()) is not None:
                problem = f"ends at sample {position}: {lack}"
            if reason is not None or not len(mono):
                break
    except Damage as damage:
        problem = f"is damaged before sample {start} ({damage})"
    if position <= start:
        nothing = "holds no samples" + (f" from {start_seconds:g} s on" if start else "")
        raise MimoError(f"{path}: {problem or nothing}")
    if problem is not None:
        require(not strict, f"{path}: {problem}")
        with wrap_errors(f"{path}: {problem}", DamageWarning):  # a filter may make it an error
            warnings.warn(DamageWarning(f"{path}: {problem}; what comes before is used"), stacklevel=3)


def _skip(decoder: Decoder, start: int) -> int:
    """Go to sample `start`, or to the end if that comes first -> the number of samples before the place."""
    if start and decoder.seek(start):
        return start
    position = 0
    while position < start:
        skipped = decoder.read(min(max(1, _LOAD_BLOCK // decoder.num_channels), start - position)).shape[1]
        if not skipped:
            break
        position += skipped
    return position


def _read_mono(decoder: Decoder, num_samples: int) -> tuple[NDArray[np.float32], str | None]:
    """The next samples of all channels, averaged: [S], and the reason why there are not more, if there is damage.

    However many channels there are, memory holds little more than the result.
    """
    size = max(1, _LOAD_BLOCK // decoder.num_channels)
    parts: list[NDArray[np.float32]] = []
    while num_samples > 0:
        try:
            channels, reason = decoder.read(min(size, num_samples)), None
        except Damage as damage:
            channels, reason = damage.samples, str(damage)
        parts.append(to_numpy(mix_down(channels)))
        num_samples -= channels.shape[1]
        if reason is not None or not channels.shape[1]:
            return np.concatenate(parts), reason
    return np.concatenate(parts), None
