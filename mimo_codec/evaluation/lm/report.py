"""The report of a suite: JSON, Markdown and a plot, with the published scores in the same table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from mimo_codec.common.files import atomic_path
from mimo_codec.evaluation.lm.plots import plot_shots
from mimo_codec.evaluation.lm.published import PUBLISHED, Published
from mimo_codec.evaluation.lm.results import ALL, Cell, Results
from mimo_codec.evaluation.lm.suite import Metric
from mimo_codec.evaluation.summary import Summary
from mimo_codec.evaluation.text_tables import aligned, markdown_table

NOTHING = "-"
SHOWN_FAILURES = 20
JSON_FILE, MARKDOWN_FILE, PLOT_FILE = REPORT_FILES = ("report.json", "report.md", "shots.png")


def as_text(results: Results) -> str:
    """Return the scores of all items as a table for the terminal."""
    lines = aligned(_rows(results, "+-", list(results.overall())))
    lines += [f"{each.label}: {each.value:.1f}" for each in results.derived]
    return "\n".join([*lines, *_left_out(results)])


def as_markdown(results: Results) -> str:
    """Return all tables, groups and published scores included, in Markdown."""
    overall = list(results.overall())
    header, *rows = _rows(results, "±", overall)
    published = PUBLISHED.get(results.suite, ())
    rows += [row for one in published for row in _published(results, one, overall)]
    parts = [
        f"# {results.suite}",
        "Means over items and their 95 % confidence intervals.",
        markdown_table(header, rows),
    ]
    if results.derived:
        parts.append("\n".join(f"- {each.label}: {each.value:.1f}" for each in results.derived))
    groups = [cell for cell in results.cells if cell.group is not None]
    if groups:
        header, *rows = _rows(results, "±", groups)
        rows += [row for one in published for row in _published(results, one, groups)]
        parts += ["## By group", markdown_table(header, rows)]
    left_out = _left_out(results)
    if left_out:
        parts += ["## Left out", "\n".join(f"- {' '.join(line.split())}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def write_report(results: Results, folder: Path) -> None:
    """Write report.json, report.md and, where there is something to plot, shots.png; each whole or not at all."""
    with atomic_path(folder / JSON_FILE) as temporary:
        content = {**results.as_dict(), "published": [_plain(one) for one in PUBLISHED.get(results.suite, ())]}
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(folder / MARKDOWN_FILE) as temporary:
        temporary.write_text(as_markdown(results), encoding="utf-8")
    figure = plot_shots(results, PUBLISHED.get(results.suite, ()))
    if figure is not None:
        with atomic_path(folder / PLOT_FILE) as temporary:
            figure.savefig(temporary, dpi=120, metadata={"Software": None})


def _rows(results: Results, sign: str, cells: Sequence[Cell]) -> list[list[str]]:
    names = [name for name in results.metrics if any(name in cell.summaries for cell in results.cells)]
    groups = any(cell.group is not None for cell in cells)
    header = ["", *(["group"] if groups else []), "scored", *(_head(results.metrics[name]) for name in names)]
    rows = [header]
    for cell in cells:
        values = [_value(cell.summaries.get(name), results.metrics[name], sign) for name in names]
        rows.append([cell.label, *([str(cell.group)] if groups else []), f"{cell.scored} of {cell.asked}", *values])
    return rows


def _head(metric: Metric) -> str:
    return f"{metric.label}{', %' if metric.percent else ''} {'↑' if metric.higher_is_better else '↓'}"


def _value(summary: Summary | None, metric: Metric, sign: str) -> str:
    if summary is None or math.isnan(summary.mean):
        return NOTHING
    factor, places = (100, 1) if metric.percent else (1, 3 if abs(summary.mean) < 10 else 1)
    mean = f"{factor * summary.mean:.{places}f}"
    return mean if math.isnan(summary.margin) else f"{mean} {sign} {factor * summary.margin:.{places}f}"


def _published(results: Results, one: Published, cells: Sequence[Cell]) -> list[list[str]]:
    """Return a row for each mode and group of the table that was published."""
    names = [name for name in results.metrics if any(name in cell.summaries for cell in results.cells)]
    rows = []
    for mode, group in dict.fromkeys((cell.mode, cell.group) for cell in cells):
        values = [one.scores.get((mode, ALL if group is None else group, name)) for name in names]
        if any(value is not None for value in values):
            label = " ".join(part for part in (one.model, mode, f"{one.shots}-shot", "(published)") if part)
            known = [NOTHING if value is None else f"{value:g}" for value in values]
            rows.append([label, *([] if group is None else [group]), NOTHING, *known])
    return rows


def _left_out(results: Results) -> list[str]:
    lines = [f"left out: {name}: {reason}" for name, reason in results.failed.items()]
    more = len(lines) - SHOWN_FAILURES
    return lines[:SHOWN_FAILURES] + ([f"left out: {more} more, see {JSON_FILE}"] if more > 0 else [])


def _plain(one: Published) -> dict[str, object]:
    scores = [
        {"mode": mode, "group": group, "metric": name, "value": value}
        for (mode, group, name), value in one.scores.items()
    ]
    return {"model": one.model, "shots": one.shots, "scores": scores}
