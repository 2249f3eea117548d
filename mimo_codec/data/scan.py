"""Scan utterances for those that are fit to train on: whole files, in parallel, with figures and reasons."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mimo_codec.audio.files import AudioInfo, audio_info, iter_audio
from mimo_codec.common.errors import MimoError
from mimo_codec.common.fields import check_fields, integer, number
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.utterance import Fault, Utterance

FULL_SCALE = 0.999
"""Magnitude from which a sample counts as clipped."""

SILENCE = 1e-3
"""Root mean square, -60 dBFS, below which a block counts as silent."""

BLOCK_SECONDS = 0.02
TOLERANCE_SECONDS = 0.1
"""How far a file may end before a range in it does, or before its header says: both are often rounded."""

_CHUNK = 16  # files that a process is given at a time; one is not worth starting for fewer


@dataclass(frozen=True)
class Limits:
    """What an utterance must keep to be fit to train on.

    Args:
        min_seconds: shortest duration.
        max_clipped: largest share of samples at full scale.
        max_silence: largest share of silent blocks of 20 ms.
        min_sample_rate: lowest sample rate of a file, in Hz; 0: any.
    """

    min_seconds: float = number(0.1, low=0)
    max_clipped: float = number(0.01, low=0)
    max_silence: float = number(0.9, low=0)
    min_sample_rate: int = integer(0)

    def __post_init__(self) -> None:
        """Check every limit."""
        check_fields(self)


def scan(
    utterances: Sequence[Utterance],
    limits: Limits = Limits(),
    num_workers: int | None = None,
    progress: Callable[[int], None] = lambda index: None,
    trust: bool = False,
) -> tuple[list[Utterance], list[Fault]]:
    """Decode every utterance completely -> (fit ones with their figures, faults of the others), both in order.

    num_workers: processes, by default as many as processors; progress: called with the index of each that is done;
    trust: where `seconds` is known, believe the figures and decode nothing. No file is fatal, not even one that takes
    the decoder's process with it.
    """
    unknown = [u for u in utterances if not trust or u.seconds is None]
    most = -(-len(unknown) // _CHUNK)
    outcomes = _outcomes(unknown, limits, max(1, min(num_workers or os.cpu_count() or 1, most)))
    good, faults = [], []
    for index, utterance in enumerate(utterances):
        trusted = trust and utterance.seconds is not None
        outcome = check(utterance, limits) or utterance if trusted else next(outcomes)
        if isinstance(outcome, Fault):
            faults.append(outcome)
        else:
            good.append(outcome)
        progress(index)
    return good, faults


def check(utterance: Utterance, limits: Limits) -> Fault | None:
    """Say what is wrong with an utterance, as far as can be told without decoding it; None: nothing."""
    u = utterance
    if not os.path.exists(u.path):
        return u.fault("missing", "there is no such file")
    rate = u.sample_rate
    if limits.min_sample_rate and rate is None:  # a manifest that has other figures
        try:
            rate = _info(u).sample_rate
        except MimoError as error:
            return u.fault("unreadable", u.without_name(error))
    if rate is not None and rate < limits.min_sample_rate:
        return _low_rate(u, rate, limits)
    if u.seconds is not None and u.seconds < limits.min_seconds:
        return u.fault("too short", f"{u.seconds:.3g} s of at least {limits.min_seconds:g} s")
    if u.silence is not None and u.silence > limits.max_silence:
        return u.fault("silent", f"{u.silence:.1%} of it, at most {limits.max_silence:.1%}")
    if u.clipped is not None and u.clipped > limits.max_clipped:
        return u.fault("clipped", f"{u.clipped:.1%} of its samples, at most {limits.max_clipped:.1%}")
    return None


def examine(utterance: Utterance, limits: Limits) -> Utterance | Fault:
    """Decode an utterance -> the utterance with its figures, or what is wrong with it. Raises nothing."""
    if not os.path.exists(utterance.path):
        return utterance.fault("missing", "there is no such file")
    kind = "unreadable"
    try:
        info = _info(utterance)
        kind = "damaged"
        if info.sample_rate < limits.min_sample_rate:
            return _low_rate(utterance, info.sample_rate, limits)
        if info.num_samples is not None and utterance.start >= info.num_samples / info.sample_rate > 0:
            return utterance.fault("bad range", f"the file ends at {info.num_samples / info.sample_rate:.3f} s")
        measured = _measure(utterance, info.sample_rate)
    except Exception as error:  # whatever a decoder comes up with
        return utterance.fault(kind, utterance.without_name(error) or type(error).__name__)
    assert measured.seconds is not None
    stop = utterance.start + measured.seconds
    if utterance.end is not None and stop < utterance.end - TOLERANCE_SECONDS:
        return utterance.fault("bad range", f"goes to {utterance.end:g} s, but the file ends at {stop:.3f} s")
    return check(measured, limits) or measured


def summary(utterances: Sequence[Utterance], faults: Sequence[Fault]) -> list[str]:
    """List the figures of a scan, one line each."""
    hours = sum(u.seconds or 0.0 for u in utterances) / 3600
    rates = Counter(u.sample_rate for u in utterances if u.sample_rate)
    lines = [
        f"utterances {len(utterances)}",
        f"hours      {hours:.3f}",
        f"rates      {', '.join(f'{count} at {rate} Hz' for rate, count in rates.most_common())}",
        f"with text  {sum(u.text is not None for u in utterances)}",
        f"speakers   {len({u.speaker for u in utterances} - {None}) or 'not known'}",
        f"skipped    {len(faults)}",
    ]
    kinds = Counter(fault.kind for fault in faults)
    return lines + [f"  {kind:10} {count}" for kind, count in kinds.most_common()]


def _measure(utterance: Utterance, rate: int) -> Utterance:
    num_samples, num_clipped, num_blocks, num_silent, peak = 0, 0, 0, 0, 0.0
    with audio_file(utterance) as path:
        for piece in iter_audio(path, start=utterance.start, end=utterance.end, strict=True):
            magnitude = piece.abs()
            silent = _blocks(piece, round(BLOCK_SECONDS * rate)).square().mean(dim=1) < SILENCE**2
            num_samples += len(piece)
            num_clipped += int((magnitude >= FULL_SCALE).sum())
            num_blocks += len(silent)
            num_silent += int(silent.sum())
            peak = max(peak, float(magnitude.max()))
    return replace(
        utterance,
        seconds=num_samples / rate,
        sample_rate=rate,
        peak=round(peak, 6),
        clipped=round(num_clipped / num_samples, 6),
        silence=round(num_silent / num_blocks, 6),
    )


def _blocks(samples: Tensor, size: int) -> Tensor:
    """Samples [S] -> blocks [N, size] without the rest; what is shorter is one block."""
    whole = len(samples) // size * size
    return samples[:whole].view(-1, size) if whole else samples[None]


def _low_rate(utterance: Utterance, rate: int, limits: Limits) -> Fault:
    return utterance.fault("low rate", f"{rate} Hz of at least {limits.min_sample_rate} Hz")


def _info(utterance: Utterance) -> AudioInfo:
    with audio_file(utterance) as path:
        return audio_info(path)


# ---- processes -------------------------------------------------------------------------------------------------------


def _outcomes(rest: Sequence[Utterance], limits: Limits, num_workers: int) -> Iterator[Utterance | Fault]:
    """Yield what `examine` returns, in order."""
    work = partial(examine, limits=limits)
    if num_workers == 1:
        yield from map(work, rest)
        return
    while rest:
        done = 0
        try:
            with _processes(num_workers) as pool:
                for outcome in pool.map(work, rest, chunksize=_CHUNK):
                    yield outcome
                    done += 1
        except BrokenProcessPool:  # one of those in work took its process with it: find it
            suspects = rest[done : done + _CHUNK * num_workers]
            yield from (_examine_alone(utterance, limits) for utterance in suspects)
            done += len(suspects)
        rest = rest[done:]


def _examine_alone(utterance: Utterance, limits: Limits) -> Utterance | Fault:
    with _processes(1) as pool:
        try:
            return pool.submit(examine, utterance, limits).result()
        except BrokenProcessPool:
            return utterance.fault("unreadable", "decoding it ends the process: damaged, or too large for the memory")


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, initializer=_start_process)


def _start_process() -> None:
    """One thread each; only the parent answers to signals."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
