"""Score the waveforms that were decoded from an original, in several processes, as PESQ and others use one core."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mimo_codec.common.checks import wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.codec.baselines import Baseline
from mimo_codec.evaluation.codec.systems import Sound
from mimo_codec.metrics import METRICS, available_metrics, missing_packages, require_metric, speech_metrics


def choose_metrics(names: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """Choose metrics -> (names of metrics to compute, notes on what is missing).

    names: of metrics; None for all but the slow ones; ["all"] for all. Names that are not known raise MimoError, and so
    do named metrics whose packages are not installed.
    """
    if names is not None and list(names) != ["all"]:
        for name in names:
            require_metric(name)
        return tuple(dict.fromkeys(names)), []
    wanted = [name for name, metric in METRICS.items() if names is not None or not metric.slow]
    chosen = tuple(name for name in wanted if name in available_metrics())
    by_cause: dict[str, list[str]] = {}
    for name in wanted:
        if missing := missing_packages(name):
            cause = f"{missing[0]} is not installed: {METRICS[name].install}"
            by_cause.setdefault(cause, []).append(name)
    return chosen, [f"left out: {', '.join(left_out)} ({cause})" for cause, left_out in by_cause.items()]


@dataclass(frozen=True)
class Job:
    """An original with all that is to be scored against it."""

    original: Sound
    text: str | None
    decoded: Mapping[str, Sound]
    """System -> its decoded waveform."""
    baselines: tuple[Baseline, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """The scores of one original."""

    seconds: float
    scores: Mapping[str, Mapping[str, float]]
    """System -> metric -> value."""
    bits_per_second: Mapping[str, float]
    """Baseline -> its bitrate."""


def _score(job: Job | MimoError) -> Scored | MimoError:
    """Score one original. Errors are passed on and returned, so that those of one file do not end the others."""
    if isinstance(job, MimoError):
        return job
    samples, rate = job.original
    original = torch.from_numpy(samples)
    try:
        coded = {baseline.name: baseline.code(original, rate) for baseline in job.baselines}
        sounds = {name: (torch.from_numpy(decoded), own_rate) for name, (decoded, own_rate) in job.decoded.items()}
        sounds |= {name: (baseline.waveform, baseline.sample_rate) for name, baseline in coded.items()}
        scores = {name: speech_metrics(original, rate, *sound, job.metrics, job.text) for name, sound in sounds.items()}
    except MimoError as error:
        return error
    return Scored(len(samples) / rate, scores, {name: c.bits_per_second for name, c in coded.items()})


@contextmanager
def scorer(workers: int) -> Iterator[Callable[[Sequence[Job | MimoError]], Iterable[Scored | MimoError]]]:
    """Yield a function that scores many jobs, in `workers` processes, or in this one if that is 1."""
    if workers <= 1:
        yield lambda jobs: map(_score, jobs)
        return
    # Not forked: a copy of a process whose torch has threads hangs.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        with wrap_errors(
            "a process that scores has died, perhaps for lack of memory: use fewer workers", BrokenProcessPool
        ):
            yield lambda jobs: pool.map(_score, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; this process's parent ends it
    torch.set_num_threads(1)
