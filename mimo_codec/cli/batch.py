"""Encode, decode and reconstruct files: short ones in batches, long ones alone and in bounded memory.

A file that fails is reported on stderr and the others go on, unless it is the only one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mimo_codec.audio.files import audio_info
from mimo_codec.audio.writer import AudioWriter
from mimo_codec.cli.console import FilesFailed, print_error, print_line, progress_bar
from mimo_codec.cli.plan import Job, Plan, Source, make_folders
from mimo_codec.codec.base import Codec
from mimo_codec.codes import AudioCodes
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError

Result = TypeVar("Result")


class Decoded(NamedTuple):
    """A waveform that is computed while it is written: its length and its pieces [S]."""

    num_samples: int
    pieces: Iterable[Any]


def encode_files(
    codec: Codec[Any],
    plan: Plan,
    num_quantizers: int | None = None,
    batch_seconds: float = 120.0,
    overwrite: bool = False,
) -> None:
    """Encode audio files to .mimo files.

    batch_seconds: most audio, padding included, that goes through the model at a time; longer files go alone.
    Raises FilesFailed when some of many files failed, MimoError when the only one did.
    """
    count = codec.check_num_quantizers(num_quantizers)

    def encode(sources: Sequence[Source]) -> list[AudioCodes]:
        return _encode(codec, sources, count, batch_seconds)

    def save(codes: AudioCodes, target: Path) -> None:
        codes.save(target, overwrite)

    _run("encode", plan, _audio_seconds, batch_seconds, encode, save)


def decode_files(codec: Codec[Any], plan: Plan, batch_seconds: float = 120.0, overwrite: bool = False) -> None:
    """Decode .mimo files to audio files of the original length; arguments and errors are those of `encode_files`."""
    codec.check_decodes()

    def decode(sources: Sequence[Source]) -> list[Decoded]:
        return _decode(codec, [AudioCodes.load(source) for source in sources], batch_seconds)

    def save(decoded: Decoded, target: Path) -> None:
        _save_audio(target, decoded, codec.sample_rate, overwrite)

    _run("decode", plan, _codes_seconds, batch_seconds, decode, save)


def reconstruct_files(
    codec: Codec[Any],
    plan: Plan,
    num_quantizers: int | None = None,
    batch_seconds: float = 120.0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Encode and decode audio files; arguments and errors are those of `encode_files`.

    Says duration, codes, bitrate and speed when there is a single file.
    """
    count = codec.check_num_quantizers(num_quantizers)
    codec.check_decodes()
    codes: list[AudioCodes] = []

    def reconstruct(sources: Sequence[Source]) -> list[Decoded]:
        codes[:] = _encode(codec, sources, count, batch_seconds)
        return _decode(codec, codes, batch_seconds)

    def save(decoded: Decoded, target: Path) -> None:
        _save_audio(target, decoded, codec.sample_rate, overwrite)

    started = time.perf_counter()
    _run("reconstruct", plan, _audio_seconds, batch_seconds, reconstruct, save)
    if plan.single and codes:
        say(_summary(codes[0], time.perf_counter() - started))


def _encode(codec: Codec[Any], sources: Sequence[Source], count: int, batch_seconds: float) -> list[AudioCodes]:
    if len(sources) == 1:
        return [codec.encode(sources[0], num_quantizers=count)]
    return codec.encode_batch(sources, num_quantizers=count, batch_seconds=batch_seconds)


def _decode(codec: Codec[Any], codes: Sequence[AudioCodes], batch_seconds: float) -> list[Decoded]:
    if len(codes) == 1:
        return [Decoded(codes[0].num_samples, codec.decode_pieces(codes[0]))]
    return [Decoded(len(waveform), [waveform]) for waveform in codec.decode_batch(codes, batch_seconds=batch_seconds)]


def _save_audio(target: Path, decoded: Decoded, sample_rate: int, overwrite: bool) -> None:
    with AudioWriter(target, sample_rate, overwrite, num_samples=decoded.num_samples) as writer:
        for piece in decoded.pieces:
            writer.write(piece)


def _summary(codes: AudioCodes, elapsed: float) -> str:
    size = f"{codes.num_quantizers} x {codes.num_frames} codes"
    speed = f"{codes.duration / elapsed:.1f} x real time"
    return f"{codes.duration:.3f} s, {size}, {codes.bitrate / 1000:.2f} kbit/s, {speed}"


def _audio_seconds(path: Source) -> float:
    """Read the duration from the header; infinite if it is not there, so that the file is processed alone."""
    try:
        info = audio_info(path)
    except MimoError:
        return math.inf
    return math.inf if info.num_samples is None else info.num_samples / info.sample_rate


def _codes_seconds(path: Source) -> float:
    try:
        return AudioCodes.load(path).duration
    except MimoError:
        return math.inf


def _run(
    action: str,
    plan: Plan,
    seconds: Callable[[Source], float],
    batch_seconds: float,
    compute: Callable[[Sequence[Source]], Sequence[Result]],
    save: Callable[[Result, Path], None],
) -> None:
    """Run `compute` on batches of sources and `save` on each result."""
    require(batch_seconds > 0, f"batch_seconds = {batch_seconds}: a number above 0 is needed")
    if not plan.jobs:
        print_line("all outputs exist")
        return
    make_folders(plan)
    lengths = {job: seconds(job.source) for job in plan.jobs}
    num_failed = 0
    with progress_bar(action, lengths) as finished:
        for batch in _batches(lengths, batch_seconds):
            for job, result in zip(batch, _compute_all(compute, batch), strict=True):
                try:
                    if isinstance(result, MimoError):
                        raise result
                    save(result, job.target)
                except MimoError as error:
                    if plan.single:
                        raise _named(error, job) from None
                    num_failed += 1
                    print_error(_named(error, job))
                finished(job)
    if num_failed:
        raise FilesFailed(f"{num_failed} of {len(plan.jobs)} files failed")


def _batches(lengths: Mapping[Job, float], most: float) -> Iterator[list[Job]]:
    """Yield jobs of similar length, longest first: a batch, padded, takes at most `most` seconds, or is one job."""
    batch: list[Job] = []
    for job in sorted(lengths, key=lambda job: lengths[job], reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(job)
    yield batch


def _compute_all(
    compute: Callable[[Sequence[Source]], Sequence[Result]], batch: Sequence[Job]
) -> Sequence[Result | MimoError]:
    """Compute the results of a batch; if it fails, those of each file alone, with errors in place of results."""
    try:
        return compute([job.source for job in batch])
    except (MimoError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (MimoError, MemoryError)) and type(error).__name__ != "OutOfMemoryError":  # of torch
            raise
        if len(batch) == 1:
            return [error if isinstance(error, MimoError) else MimoError("out of memory")]
        return [result for job in batch for result in _compute_all(compute, [job])]


def _named(error: MimoError, job: Job) -> MimoError:
    """Return the error with the name of the file, which errors about a file's content lack."""
    text = str(error)
    return error if text.startswith((str(job.source), str(job.target))) else MimoError(f"{job.source}: {text}")
