"""Which metrics validation computes, and which of them decides what is the best."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mimo_codec.common.checks import check_choice, require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.fields import integer
from mimo_codec.metrics import METRICS, Metric, require_metric

VALIDATION = "val/"
"""Beginning of the names under which the scores of validation are logged."""
LOWER_IS_BETTER = ("text_nats_per_token",)
"""Scores of stages that are not metrics of a pair of waveforms."""


@dataclass(frozen=True)
class ValidationOptions:
    """What validation computes, and what is kept.

    A metric is a name of `mimo_codec.metrics.METRICS`, or the path of one of your own, "package.module.name": a
    function from a `Pair` to a float, or a `Metric`, which also says whether higher is better and at which rate.

    Args:
        best_metric: the metric that decides what is the best.
        best_mode: "max" or "min", whichever is better; null: what the metric says.
        keep_best: number of best checkpoints and codecs that are kept.
        validation_metrics: metrics to compute; null: PESQ, STOI, mel distance and speaker similarity, as far as their
            packages are installed. `best_metric` is computed in any case.
    """

    best_metric: str = "pesq_wb"
    best_mode: str | None = None
    keep_best: int = integer(1, low=1)
    validation_metrics: Sequence[str] | None = None


def find_metric(name: str) -> Metric:
    """Return a metric of the table, which one of the user's own enters under its path.

    Raises MimoError for what is not known, cannot be imported or lacks a package.
    """
    if "." in name and name not in METRICS:
        METRICS[name] = _own_metric(name)
    require_metric(name)
    return METRICS[name]


def _own_metric(path: str) -> Metric:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MimoError(f"metric {path}: cannot be imported: {error}") from None
    require(callable(found) or isinstance(found, Metric), f"metric {path}: a function or a Metric is needed")
    return found if isinstance(found, Metric) else Metric(name, found, higher_is_better=True)


def better(monitor: str, mode: str | None) -> str:
    """Return "max" or "min", whichever is better for what is monitored; MimoError when nothing says it."""
    if mode is not None:
        return check_choice("mode", mode, ("max", "min"))
    name = monitor.removeprefix(VALIDATION)
    if name in LOWER_IS_BETTER:
        return "min"
    require(monitor.startswith(VALIDATION), f"monitor {monitor}: say by `mode` whether max or min is better")
    metric = METRICS[name] if name in METRICS else find_metric(name)  # its packages matter where there is validation
    return "max" if metric.higher_is_better else "min"


def monitored(callbacks: Iterable[Any]) -> list[str]:
    """List the scores of validation that callbacks watch, without their beginning."""
    names = [str(getattr(callback, "monitor", None) or "") for callback in callbacks]
    return [name.removeprefix(VALIDATION) for name in names if name.startswith(VALIDATION)]
