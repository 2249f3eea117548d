"""Score everything that was decoded from an original, in several processes: PESQ and its like use one core each."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.codec.baselines import Baseline
from mimo_codec.evaluation.codec.systems import Sound
from mimo_codec.metrics import METRICS, available_metrics, missing_packages, require_metric, speech_metrics


def choose_metrics(names: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """Names asked for, or None for all but the slow ones, or ["all"] -> (metrics to compute, notes on what is missing).

    MimoError for names that are not known, and for named metrics whose packages are not installed.
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
    """All there is to score of one original."""

    original: Sound
    text: str | None
    decoded: Mapping[str, Sound]
    """of each system"""
    baselines: tuple[Baseline, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    seconds: float
    scores: Mapping[str, Mapping[str, float]]
    """system -> metric -> value"""
    bits_per_second: Mapping[str, float]
    """of each baseline"""


def _score(job: Job | MimoError) -> Scored | MimoError:
    """Errors pass, and are values, so that those of one file do not end the others."""
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
    """`_score` of many jobs, in `workers` processes, or in this one if that is 1."""
    if workers <= 1:
        yield lambda jobs: map(_score, jobs)
        return
    # Not forked: a copy of a process whose torch has threads hangs.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield lambda jobs: pool.map(_score, jobs)
    except BrokenProcessPool:
        raise MimoError("a process that scores has died, perhaps for lack of memory: use fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; this process's parent ends it
    torch.set_num_threads(1)
