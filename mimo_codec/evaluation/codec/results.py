"""What an evaluation found, as values: the scores of each system on each file, their means, and what the codes use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics import METRICS

RESAMPLINGS = 2000


@dataclass(frozen=True)
class Summary:
    """A metric over files; nan where too few files have a value (one for a mean, two for the rest)."""

    mean: float
    std: float
    low: float
    """of the 95 % confidence interval of the mean, by the bootstrap over files"""
    high: float
    num_files: int
    """that have a value"""

    @staticmethod
    def of(values: Sequence[float]) -> Summary:
        """The same interval for the same values, always; nan among them is left out."""
        known = np.array([value for value in values if not math.isnan(value)])
        if len(known) < 2:
            return Summary(float(known[0]) if len(known) else math.nan, math.nan, math.nan, math.nan, len(known))
        drawn = np.random.default_rng(0).integers(0, len(known), (RESAMPLINGS, len(known)))
        low, high = np.percentile(known[drawn].mean(axis=1), (2.5, 97.5))
        return Summary(float(known.mean()), float(known.std()), float(low), float(high), len(known))

    @property
    def margin(self) -> float:
        """Half of the confidence interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class System:
    """Something that was compared with the originals: a model with some codebooks, a baseline, a folder of files."""

    name: str
    kind: str
    """model, baseline or files"""
    scores: Mapping[str, Mapping[str, float]]
    """file -> metric -> value"""
    bits_per_second: float | None = None
    """over all files; None where that is not known"""
    encode_factor: float | None = None
    """realtime factor: seconds of compute per second of audio; None where it was not measured"""
    decode_factor: float | None = None

    def summary(self, metric: str) -> Summary:
        return Summary.of([scores[metric] for scores in self.scores.values()])


@dataclass(frozen=True)
class Codebook:
    """What all files together use of one codebook."""

    size: int
    usage: float
    """share of the entries that occur"""
    perplexity: float
    """entries that would carry as much if all were used alike: exp of the entropy, 1..size"""

    @staticmethod
    def of(counts: NDArray[np.int64]) -> Codebook:
        """counts: how often each entry occurs, [size]."""
        share = counts[counts > 0] / counts.sum()
        return Codebook(len(counts), len(share) / len(counts), float(np.exp(-(share * np.log(share)).sum())))


@dataclass(frozen=True)
class Evaluation:
    """All that was found. Files that failed are in no system's scores."""

    metrics: tuple[str, ...]
    """names of `METRICS`, those that no file has a value for left out"""
    systems: tuple[System, ...]
    seconds: float
    """of audio, of the files that were scored"""
    codebooks: tuple[Codebook, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    """file -> what was wrong with it"""
    speakers: Mapping[str, str] = field(default_factory=dict)
    """file -> who speaks, where that is known"""
    notes: tuple[str, ...] = ()
    """what was left out, a line each"""

    @property
    def num_files(self) -> int:
        """Files that were scored."""
        return len(self.systems[0].scores) if self.systems else 0

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON: None for what is not known."""
        facts = {
            "num_files": self.num_files,
            "seconds": self.seconds,
            "metrics": {name: _about(name) for name in self.metrics},
            "systems": [self._system(system) for system in self.systems],
            "codebooks": [asdict(codebook) for codebook in self.codebooks],
            "failed": dict(self.failed),
            "speakers": dict(self.speakers),
            "notes": list(self.notes),
        }
        return _without_nan(facts)

    def _system(self, system: System) -> dict[str, Any]:
        return {
            "name": system.name,
            "kind": system.kind,
            "bits_per_second": system.bits_per_second,
            "encode_realtime_factor": system.encode_factor,
            "decode_realtime_factor": system.decode_factor,
            "summary": {name: asdict(system.summary(name)) for name in self.metrics},
            "files": {file: {name: scores[name] for name in self.metrics} for file, scores in system.scores.items()},
        }


def _about(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    return {"label": metric.label, "unit": metric.unit, "better": "higher" if metric.higher_is_better else "lower"}


def _without_nan(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
