"""Results of an evaluation as text for the terminal, as Markdown, and as a folder of report files."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mimo_codec.common.files import atomic_path
from mimo_codec.evaluation.codec import plots
from mimo_codec.evaluation.codec.results import Evaluation, System
from mimo_codec.evaluation.summary import Summary
from mimo_codec.evaluation.text_tables import aligned, markdown_table
from mimo_codec.metrics import METRICS

NOTHING = "-"
REPORT_FILES = ("report.json", "report.md", *plots.PLOTS)


def as_json(evaluation: Evaluation) -> str:
    """Return the results as JSON, every file's scores included."""
    return json.dumps(evaluation.as_dict(), indent=2, allow_nan=False)


def as_text(evaluation: Evaluation) -> str:
    """Return an ASCII table: a line per metric, a column per system, because metrics are many and terminals narrow."""
    systems = evaluation.systems
    rows = [["", *(system.name for system in systems)], ["kbit/s", *map(_kbps, systems)]]
    rows += [[_label(name), *(_value(system.summary(name), "+-") for system in systems)] for name in evaluation.metrics]
    if any(system.encode_factor is not None for system in systems):
        rows += [["encode, s/s", *(_factor(system.encode_factor) for system in systems)]]
        rows += [["decode, s/s", *(_factor(system.decode_factor) for system in systems)]]
    return "\n".join([_heading(evaluation), "", *aligned(rows), *_codebook_lines(evaluation), *evaluation.notes])


def as_markdown(evaluation: Evaluation) -> str:
    """Return a Markdown table with a row per system; then the codebooks, files that failed, and notes."""
    names = evaluation.metrics
    header = ["", "kbit/s", *(f"{_label(name)} {_arrow(name)}" for name in names), "encode, s/s", "decode, s/s"]
    rows = []
    for system in evaluation.systems:
        scores = [_value(system.summary(name), "±") for name in names]
        rows.append([system.name, _kbps(system), *scores, _factor(system.encode_factor), _factor(system.decode_factor)])
    parts = ["# Evaluation", _heading(evaluation) + ".", markdown_table(header, rows)]
    if evaluation.codebooks:
        numbered = enumerate(evaluation.codebooks, start=1)
        rows = [[str(n), str(c.size), f"{100 * c.usage:.0f} %", f"{c.perplexity:.0f}"] for n, c in numbered]
        parts.append(markdown_table(["codebook", "entries", "in use", "perplexity"], rows))
    remarks = [*evaluation.failed.values(), *evaluation.notes]
    return "\n\n".join([*parts, *(f"- {' '.join(remark.split())}" for remark in remarks)]) + "\n"


def write_report(evaluation: Evaluation, folder: Path, overwrite: bool = False) -> None:
    """Write the `REPORT_FILES` into a folder that exists, each whole or not at all; plots without points are left out.

    Raises MimoError for what cannot be written, and, without `overwrite`, for what exists.
    """
    for name, text in (("report.json", as_json(evaluation) + "\n"), ("report.md", as_markdown(evaluation))):
        with atomic_path(folder / name, overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for name, draw in plots.PLOTS.items():
        figure = draw(evaluation)
        if figure is not None:
            with atomic_path(folder / name, overwrite) as temporary:
                figure.savefig(temporary, dpi=120)


def _heading(evaluation: Evaluation) -> str:
    if evaluation.num_files == 1:
        return f"1 file, {evaluation.seconds:.1f} s"
    failed = f" ({len(evaluation.failed)} more failed)" if evaluation.failed else ""
    length = f"{evaluation.num_files} files{failed}, {evaluation.seconds / 60:.1f} min"
    return f"{length}; mean over files and its 95 % confidence interval"


def _label(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def _arrow(name: str) -> str:
    return "↑" if METRICS[name].higher_is_better else "↓"


def _value(summary: Summary, sign: str) -> str:
    """Format the mean and half the width of its interval."""
    if math.isnan(summary.mean):
        return NOTHING
    places = 3 if abs(summary.mean) < 10 else 2
    mean = f"{summary.mean:.{places}f}"
    return mean if math.isnan(summary.margin) else f"{mean} {sign} {summary.margin:.{places}f}"


def _kbps(system: System) -> str:
    return NOTHING if system.bits_per_second is None else f"{system.bits_per_second / 1000:.2f}"


def _factor(factor: float | None) -> str:
    return NOTHING if factor is None else f"{factor:.3f}"


def _codebook_lines(evaluation: Evaluation) -> list[str]:
    if not evaluation.codebooks:
        return []
    rows = [
        ["codebook", *(str(n) for n, _ in enumerate(evaluation.codebooks, start=1))],
        ["entries", *(str(c.size) for c in evaluation.codebooks)],
        ["in use, %", *(f"{100 * c.usage:.0f}" for c in evaluation.codebooks)],
        ["perplexity", *(f"{c.perplexity:.0f}" for c in evaluation.codebooks)],
    ]
    return ["", *aligned(rows)]
