"""A picture of what examples bring: scores by their number, with intervals, and published scores as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mimo_codec.common.checks import needs_extra
from mimo_codec.evaluation.lm.published import Published
from mimo_codec.evaluation.lm.results import ALL, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.8, 3.8)
"""Inches of a panel."""


def require_matplotlib() -> None:
    """Raise MimoError when matplotlib is not installed."""
    with needs_extra("matplotlib", "eval"):
        import matplotlib  # noqa: F401


def plot_shots(results: Results, published: Sequence[Published]) -> Figure | None:
    """Plot every metric by the number of examples, a line for each way to ask; None when nothing was scored."""
    names = [name for name in results.metrics if any(name in cell.summaries for cell in results.overall())]
    if not names:
        return None
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL[0] * len(names), PANEL[1]), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _plot_metric(axes, results, name)
        for number, one in enumerate(published):
            for mode in dict.fromkeys(cell.mode for cell in results.overall()):
                value = one.scores.get((mode, ALL, name))
                if value is not None:
                    axes.axhline(value, color=f"C{number + 4}", lw=0.8, ls=":", label=f"{one.model} {mode}".strip())
        axes.legend(fontsize="x-small")
    return figure


def _plot_metric(axes: Axes, results: Results, name: str) -> None:
    metric = results.metrics[name]
    factor = 100 if metric.percent else 1
    for mode in dict.fromkeys(cell.mode for cell in results.overall()):
        cells = [cell for cell in results.overall() if cell.mode == mode and name in cell.summaries]
        means = [factor * cell.summaries[name].mean for cell in cells]
        below = [max(factor * (s.mean - s.low), 0) for s in (cell.summaries[name] for cell in cells)]
        above = [max(factor * (s.high - s.mean), 0) for s in (cell.summaries[name] for cell in cells)]
        shots = [cell.shots for cell in cells]
        axes.errorbar(shots, means, (below, above), fmt="-o", capsize=3, label=mode or "model")
    axes.set_xscale("symlog", linthresh=1)
    numbers = sorted({cell.shots for cell in results.overall()})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_xlabel("examples")
    axes.set_ylabel(f"{metric.label}{', %' if metric.percent else ''}")
    axes.grid(alpha=0.3)
