"""Pictures of an evaluation: quality against bitrate, and a point for every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mimo_codec.common.checks import needs_extra
from mimo_codec.evaluation.codec.results import Evaluation, System
from mimo_codec.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("pesq_wb", "stoi")
"""The metrics of the pictures, where they were computed; else the first ones that were."""


def require_matplotlib() -> None:
    """Raise MimoError when matplotlib is not installed."""
    with needs_extra("matplotlib", "eval"):
        import matplotlib  # noqa: F401


def rate_quality(evaluation: Evaluation) -> Figure | None:
    """Plot means with their confidence intervals against kbit/s; the model's numbers of codebooks are joined by a line.

    Returns None when no system has a bitrate.
    """
    rated = [system for system in evaluation.systems if system.bits_per_second is not None]
    names = _shown(evaluation)
    if not rated or not names:
        return None
    figure = _figure(len(names))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _plot_means(axes, [s for s in rated if s.kind == "model"], name, "-o", "model, by number of codebooks")
        for system in rated:
            if system.kind != "model":
                _plot_means(axes, [system], name, "s", system.name)
        axes.set_xlabel("kbit/s")
        axes.set_ylabel(METRICS[name].label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def per_file(evaluation: Evaluation) -> Figure | None:
    """Plot one metric against the other, a point per file; the model's with its largest number of codebooks.

    Returns None when fewer than two metrics were computed.
    """
    names = _shown(evaluation)
    if len(names) < 2:
        return None
    return _scatter(names, {system.name: list(system.scores.values()) for system in _compared(evaluation)})


def per_speaker(evaluation: Evaluation) -> Figure | None:
    """Plot a point per file in the colour of its speaker: the model's with its most codebooks, or the first system's.

    Returns None when fewer than two metrics were computed or fewer than two speakers are known.
    """
    names, systems = _shown(evaluation), _compared(evaluation)
    speakers = sorted(set(evaluation.speakers.values()))
    if len(names) < 2 or len(speakers) < 2:
        return None
    groups: dict[str, list[Mapping[str, float]]] = {speaker: [] for speaker in speakers}
    for file, speaker in evaluation.speakers.items():
        groups[speaker].append(systems[0].scores[file])
    return _scatter(names, groups)


PLOTS = {"rate_quality.png": rate_quality, "per_file.png": per_file, "per_speaker.png": per_speaker}
"""File -> function that draws it."""


def _compared(evaluation: Evaluation) -> list[System]:
    """List the model with its largest number of codebooks first, then the other systems."""
    models = [system for system in evaluation.systems if system.kind == "model"]
    return models[-1:] + [system for system in evaluation.systems if system.kind != "model"]


def _scatter(names: Sequence[str], groups: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Plot names[0] over names[1]; groups: label -> the scores of its files."""
    figure = _figure(1)
    axes = figure.subplots()
    for label, files in groups.items():
        axes.scatter([f[names[1]] for f in files], [f[names[0]] for f in files], s=14, alpha=0.7, label=label)
    axes.set_xlabel(METRICS[names[1]].label)
    axes.set_ylabel(METRICS[names[0]].label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _shown(evaluation: Evaluation) -> list[str]:
    """Choose the metrics of the pictures, two at most."""
    preferred = [name for name in SHOWN if name in evaluation.metrics]
    return (preferred + [name for name in evaluation.metrics if name not in SHOWN])[: len(SHOWN)]


def _figure(num_panels: int) -> Figure:
    """Make a figure that needs no display and is freed with its last reference."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(5.5 * num_panels, 4.5), layout="constrained")


def _plot_means(axes: Axes, systems: list[System], metric: str, style: str, label: str) -> None:
    summaries = [system.summary(metric) for system in systems]
    if systems:
        rates = [(system.bits_per_second or 0.0) / 1000 for system in systems]
        below = [max(s.mean - s.low, 0) for s in summaries]  # equal values: rounding
        above = [max(s.high - s.mean, 0) for s in summaries]
        axes.errorbar(rates, [s.mean for s in summaries], (below, above), fmt=style, capsize=3, label=label)
