"""Results of an evaluation as values: scores of each system on each file, their means, and the use of codebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.files import JSON
from mimo_codec.evaluation.summary import Summary
from mimo_codec.metrics import METRICS


@dataclass(frozen=True)
class System:
    """A system that was compared with the originals: a model with some codebooks, a baseline, a folder of files."""

    name: str
    kind: str
    """One of model, baseline and files."""
    scores: Mapping[str, Mapping[str, float]]
    """File -> metric -> value."""
    bits_per_second: float | None = None
    """Bitrate over all files; None if it is not known."""
    encode_factor: float | None = None
    """Realtime factor of encoding: seconds of compute per second of audio; None if it was not measured."""
    decode_factor: float | None = None
    """Realtime factor of decoding."""

    def summary(self, metric: str) -> Summary:
        """Summarize a metric over all files."""
        return Summary.of([scores[metric] for scores in self.scores.values()])


@dataclass(frozen=True)
class Codebook:
    """How all files together use one codebook."""

    size: int
    usage: float
    """Share of the entries that occur."""
    perplexity: float
    """Exp of the entropy, 1..size: the number of entries that would carry as much if all were used alike."""

    @staticmethod
    def of(counts: NDArray[np.int64]) -> Codebook:
        """Describe a codebook by how often each entry occurs, counts [size]."""
        share = counts[counts > 0] / counts.sum()
        return Codebook(len(counts), len(share) / len(counts), float(np.exp(-(share * np.log(share)).sum())))


@dataclass(frozen=True)
class Evaluation:
    """All results. Files that failed are in no system's scores."""

    metrics: tuple[str, ...]
    """Names of `METRICS`, without those for which no file has a value."""
    systems: tuple[System, ...]
    seconds: float
    """Seconds of audio in the files that were scored."""
    codebooks: tuple[Codebook, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    """File -> why it failed."""
    speakers: Mapping[str, str] = field(default_factory=dict)
    """File -> name of its speaker, if it is known."""
    notes: tuple[str, ...] = ()
    """What was left out, a line each."""

    @property
    def num_files(self) -> int:
        """Number of files that were scored."""
        return len(self.systems[0].scores) if self.systems else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the results as JSON has them, with None for values that are not known."""
        facts: dict[str, Any] = {
            "num_files": self.num_files,
            "seconds": self.seconds,
            "metrics": {name: _about(name) for name in self.metrics},
            "systems": [self._system(system) for system in self.systems],
            "codebooks": [asdict(codebook) for codebook in self.codebooks],
            "failed": dict(self.failed),
            "speakers": dict(self.speakers),
            "notes": list(self.notes),
        }
        return {name: _without_nan(value) for name, value in facts.items()}

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


def _without_nan(value: JSON) -> JSON:
    """Replace nan, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
