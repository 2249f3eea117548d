"""Results of a suite as values: scores by way of asking, number of examples and group."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimo_codec.common.checks import wrap_errors
from mimo_codec.evaluation.lm.setup import Prepared
from mimo_codec.evaluation.lm.suite import Derived, Metric, Suite
from mimo_codec.evaluation.summary import Summary

Row = dict[str, Any]
"""A question with its prompt, its answer and its scores, as answers.jsonl has them."""
ALL = "all"
"""What published scores of all items stand under."""


def read_answers(path: Path) -> list[Row]:
    """Read a file of answers."""
    with wrap_errors(f"{path}: cannot be read", OSError, ValueError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@dataclass(frozen=True)
class Cell:
    """The scores of the questions of one mode, number of examples and group."""

    mode: str
    shots: int
    group: str | None
    """None: all items together."""
    asked: int
    """Questions, those included that could not be asked or answered."""
    scored: int
    """Answers that have scores."""
    summaries: Mapping[str, Summary]
    """Metric -> its mean and interval; those without any value are left out."""

    @property
    def label(self) -> str:
        """Its name in tables."""
        return " ".join(part for part in (self.mode, f"{self.shots}-shot") if part)


@dataclass(frozen=True)
class Results:
    """All results of a suite."""

    suite: str
    metrics: Mapping[str, Metric]
    cells: Sequence[Cell]
    derived: Sequence[Derived]
    failed: Mapping[str, str] = field(default_factory=dict)
    """Item or question -> why it is left out."""

    @staticmethod
    def of(prepared: Prepared, rows: Sequence[Row], bad: Mapping[str, str]) -> Results:
        """Summarize answers; bad: what could not be asked, with the reason."""
        suite, cells = prepared.suite, list[Cell]()
        for mode in prepared.modes:
            for shots in prepared.shots:
                chosen = [row for row in rows if row["mode"] == mode and row["shots"] == shots]
                asked = prepared.asked()
                counts = Counter(item.group for item in asked)
                cells.append(_cell(suite, mode, shots, None, len(asked) + len(suite.faults), chosen))
                for group in sorted(counts) if len(counts) > 1 else ():
                    of_group = [row for row in chosen if row["group"] == group]
                    cells.append(_cell(suite, mode, shots, group, counts[group], of_group))
        means = {
            (cell.mode, cell.shots): {name: summary.mean for name, summary in cell.summaries.items()}
            for cell in cells
            if cell.group is None
        }
        errors = {" ".join(map(str, _place(row))): row["error"] for row in rows if "error" in row}
        return Results(suite.name, suite.metrics, cells, suite.derive(means), {**bad, **errors})

    def overall(self) -> Iterator[Cell]:
        """Yield the cells of all items together."""
        return (cell for cell in self.cells if cell.group is None)

    def as_dict(self) -> dict[str, Any]:
        """Return the results as JSON has them."""
        return {
            "suite": self.suite,
            "scores": [
                {
                    "mode": cell.mode,
                    "shots": cell.shots,
                    "group": cell.group,
                    "asked": cell.asked,
                    "scored": cell.scored,
                    "metrics": {name: _plain(summary) for name, summary in cell.summaries.items()},
                }
                for cell in self.cells
            ],
            "derived": [{"label": each.label, "value": each.value} for each in self.derived],
            "left_out": dict(self.failed),
        }


def _cell(suite: Suite, mode: str, shots: int, group: str | None, asked: int, rows: Sequence[Row]) -> Cell:
    scores = [row["scores"] for row in rows if "scores" in row]
    summaries = {}
    for name, metric in suite.metrics.items():
        values = [math.nan if each.get(name) is None else each[name] for each in scores]
        weights = [each.get(metric.weight) or 0.0 for each in scores] if metric.weight else None
        summary = Summary.of(values, weights)
        if summary.num_files:
            summaries[name] = summary
    return Cell(mode, shots, group, asked, len(scores), summaries)


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(part for part in (row["mode"], f"{row['shots']} examples", row["id"]) if part)


def _plain(summary: Summary) -> dict[str, Any]:
    values = {"mean": summary.mean, "low": summary.low, "high": summary.high, "std": summary.std}
    return {name: None if math.isnan(v) else v for name, v in values.items()} | {"items": summary.num_files}
