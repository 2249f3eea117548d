"""The report: one HTML file with figures, plots and ten segments to hear, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from mimo_codec.common.checks import needs_extra
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path
from mimo_codec.corpus.describe import cut
from mimo_codec.corpus.run import Outcome
from mimo_codec.corpus.survey import Survey
from mimo_codec.corpus.voice import Span
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.parquet import read_parquet
from mimo_codec.data.utterance import Utterance

NUM_HEARD = 10
LISTENING_RATE = 24000
SHOWN = 20
"""Rows of a table; the others are summed up."""
GROUPED = ("source", "language", "speaker")
PLOTTED = {
    "seconds": "seconds of a segment",
    "snr_db": "signal to noise (dB)",
    "bandwidth_hz": "bandwidth (Hz)",
    "loudness_lufs": "loudness (LUFS)",
    "dnsmos_p808": "DNSMOS P.808",
    "confidence": "confidence of the transcript",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse }
td { padding: .15rem .8rem .15rem 0 }
td.n { text-align: right }
svg { max-width: 100% }
audio { height: 2rem }
"""


def write_report(folder: Path, outcome: Outcome, title: str) -> Path:
    """Write report.html about a finished run; MimoError when matplotlib is missing or the file cannot be written."""
    paths, columns = [folder / shard["name"] for shard in outcome.manifest["shards"]], _columns(outcome)
    survey = Survey(GROUPED, PLOTTED, NUM_HEARD)
    for path in paths:
        for row in read_parquet(path, columns):
            survey.add(row)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _table("In short", _totals(outcome, survey)),
        *(_table(f"Hours by {name}", _hours(survey.hours[name])) for name in GROUPED),
        _table("Removed", _removed(outcome)),
        f"<h2>Distributions</h2>{_plots(survey.values)}",
        f"<h2>{NUM_HEARD} segments, drawn at random</h2>{_heard(survey.drawn)}",
        _table("Computing", _timing(outcome)),
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
    path = folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _columns(outcome: Outcome) -> list[str]:
    return [name for name in outcome.manifest["columns"] if name not in ("codes", "fingerprint", "words")]


Lines = Iterable[tuple[str, str]]


def _table(title: str, lines: Lines) -> str:
    rows = "".join(f'<tr><td>{html.escape(a)}</td><td class="n">{html.escape(b)}</td></tr>' for a, b in lines)
    return f"<h2>{html.escape(title)}</h2><table>{rows}</table>"


def _totals(outcome: Outcome, survey: Survey) -> Lines:
    seconds = outcome.manifest["seconds"]
    yield "hours of recordings", f"{outcome.recorded_seconds / 3600:.2f}"
    yield "hours of segments found", f"{outcome.described_seconds / 3600:.2f}"
    yield "hours of segments that stay", f"{seconds / 3600:.2f}"
    yield "segments that stay", f"{survey.num_rows:,}"
    yield "with text", f"{survey.num_texts:,}"
    yield "speakers", f"{len(survey.hours['speaker'].keys() - {None}):,}"
    yield "shards", f"{len(outcome.manifest['shards']):,}"
    yield "MB", f"{sum(shard['bytes'] for shard in outcome.manifest['shards']) / 1e6:,.1f}"
    yield "in quarantine", f"{len(outcome.quarantine):,}"


def _hours(hours: Mapping[str | None, float]) -> Lines:
    shown = sorted(hours.items(), key=lambda item: -item[1])[:SHOWN]
    yield from (("not known" if key is None else key, f"{value:.3f}") for key, value in shown)
    if len(hours) > SHOWN:
        yield f"{len(hours) - SHOWN} others", f"{sum(hours.values()) - sum(value for _, value in shown):.3f}"


def _removed(outcome: Outcome) -> Lines:
    for reason, count in outcome.selection.removed.items():
        yield reason, f"{count:,} segments, {outcome.selection.removed_seconds[reason] / 3600:.3f} h"
    for reason, count in Counter(entry["reason"] for entry in outcome.quarantine).most_common(SHOWN):
        yield f"quarantine: {reason}", f"{count:,}"


def _timing(outcome: Outcome) -> Lines:
    hours = outcome.recorded_seconds / 3600
    for step, seconds in outcome.timing.slowest_first():
        yield step, f"{seconds:.1f} s; {seconds / max(hours, 1e-9):.1f} s per hour of recordings"


def _plots(values: Mapping[str, Sequence[float]]) -> str:
    with needs_extra("matplotlib", "corpus"):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    shown = [name for name in PLOTTED if values[name]]
    figure = Figure(figsize=(9, 2.4 * ((len(shown) + 2) // 3)), layout="constrained")
    for number, name in enumerate(shown):
        axes = figure.add_subplot((len(shown) + 2) // 3, 3, number + 1)
        axes.hist(values[name], bins=40)
        axes.set_xlabel(PLOTTED[name])
    file = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(file, metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def _heard(rows: Sequence[Mapping[str, Any]]) -> str:
    """Segments as they are in the recordings, and what they were coded to where they were."""
    lines = []
    for row in rows:
        try:
            sound = f'<audio controls src="data:audio/ogg;base64,{_ogg(row)}"></audio>'
        except (MimoError, OSError) as error:
            sound = html.escape(str(error))
        said = html.escape(f"{row['id']} {row['speaker'] or ''}: {row['text'] or ''}")
        lines.append(f"<tr><td>{sound}</td><td>{said}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def _ogg(row: Mapping[str, Any]) -> str:
    place = {name: row[name] for name in ("member", "offset", "num_bytes", "row", "column")}
    with audio_file(Utterance(Path(row["path"]), **place)) as path:
        span = Span(0.0, row["end"] - row["start"])
        _, samples = next(cut(path, [span], LISTENING_RATE, row["start"]))
    gain = 10 ** ((row.get("gain_db") or 0.0) / 20)
    file = io.BytesIO()
    sf.write(file, np.clip(samples * gain, -1, 1), LISTENING_RATE, format="OGG", subtype="VORBIS")
    return base64.b64encode(file.getvalue()).decode()
