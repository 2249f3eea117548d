"""What the corpus pipeline finds of what is known: `python -m mimo_codec.benchmarks.corpus_truth SPEECH`.

Pieces of the speech are joined to long recordings with pauses, noise, damage and copies. The pipeline `speech` has to
find the pieces, the copies, and how much noise and damage there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from mimo_codec.benchmarks.planted import CONDITIONS, COPIED, Condition, Piece, Planted, find_pieces, plant
from mimo_codec.benchmarks.shared import print_table, run_app
from mimo_codec.common.checks import require
from mimo_codec.corpus.config import EngineOptions, SelectOptions, load_pipeline
from mimo_codec.corpus.run import Run
from mimo_codec.data.corpus import DESCRIBED, WORK
from mimo_codec.data.find import find_utterances
from mimo_codec.data.parquet import read_parquet

TOLERANCE_SECONDS = 0.2
Row = dict[str, Any]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def measure(
    speech: Annotated[str, typer.Argument(help="Folder or manifest of recordings without much noise.")],
    hours: Annotated[float, typer.Option(help="Hours of long recordings.", min=0.01)] = 2.0,
    minutes: Annotated[float, typer.Option(help="Length of each in minutes.", min=0.1)] = 10.0,
    seed: Annotated[int, typer.Option(help="Another one chooses other pieces and pauses.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0: one for each core.", min=0)] = 0,
) -> None:
    """Print which share of the pieces and copies is found, and noise and damage as put in and as measured."""
    pieces = list(find_pieces(find_utterances(speech)[0]))
    require(len(pieces) > 1, f"{speech}: has no speech without noise that could be cut into pieces")
    with TemporaryDirectory() as folder:
        source = Path(folder) / "recordings"
        source.mkdir()
        planted = plant(pieces, source, hours, minutes, seed)
        rows = describe(source, Path(folder) / "out", workers)
    found = {recording.path: [row for row in rows if row["path"] == str(recording.path)] for recording in planted}
    pairs = [(recording, *pair) for recording in planted for pair in match(recording.pieces, found[recording.path])]
    print_table(("segments and copies", "of", "found", "%"), [*count_segments(pairs, len(rows)), *count_copies(pairs)])
    print()
    print_table(("measured", "put in", "segments", "median", "5 %", "95 %"), compare_quality(pairs))


def describe(source: Path, folder: Path, workers: int) -> list[Row]:
    """Run all of the pipeline but codes and expressions -> every segment's row, with `kept`."""
    pipeline = replace(
        load_pipeline("speech"), select=SelectOptions(), tokenize=None, engine=EngineOptions(workers=workers)
    )
    outcome = Run(pipeline, str(source), folder)()
    rows = [row for path in sorted((folder / WORK / DESCRIBED).glob("*.parquet")) for row in read_parquet(path)]
    kept = set(outcome.selection.kept)
    return [row | {"kept": number in kept} for number, row in enumerate(rows)]


Pair = tuple[Planted, Piece, Row | None]


def match(pieces: Sequence[Piece], rows: Sequence[Row]) -> Iterator[tuple[Piece, Row | None]]:
    """Yield pieces with the segments that have most of them, if any has half."""
    for piece in pieces:
        overlap = [min(row["end"], piece.end) - max(row["start"], piece.start) for row in rows]
        best = int(np.argmax(overlap)) if overlap else 0
        yield piece, rows[best] if overlap and overlap[best] > (piece.end - piece.start) / 2 else None


def count_segments(pairs: Sequence[Pair], num_rows: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row of the table for each condition, and for all: pieces whose segment begins and ends where they do."""
    for condition in (*CONDITIONS, None):
        errors = [
            np.inf if row is None else max(abs(row["start"] - piece.start), abs(row["end"] - piece.end))
            for recording, piece, row in pairs
            if condition in (recording.condition, None)
        ]
        name = "all pieces" if condition is None else "pieces, " + describe_condition(condition)
        yield count_row(f"{name}, within {TOLERANCE_SECONDS} s", [error <= TOLERANCE_SECONDS for error in errors])
    matched = {row["id"] for *_, row in pairs if row is not None}
    yield count_row("segments that are a piece", [True] * len(matched) + [False] * (num_rows - len(matched)))


def count_copies(pairs: Sequence[Pair]) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows of the table: copies that were removed, and other pieces that were."""
    heard = [(piece, row) for _, piece, row in pairs if row is not None]
    for copied in (*COPIED, None):
        name = "others removed" if copied is None else f"copies removed, {copied}"
        yield count_row(name, [not row["kept"] for piece, row in heard if piece.copied == copied])


def count_row(name: str, held: Sequence[bool]) -> tuple[str, str, str, str]:
    """Return a row of the table."""
    return name, str(len(held)), str(sum(held)), f"{100 * np.mean(held):.1f}" if held else "-"


def compare_quality(pairs: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    """Yield rows of the table of what was measured."""
    plain = [c for c in CONDITIONS if c.bandwidth_hz is None and not c.clipped]
    groups = [("snr_db", f"{c.snr_db:g} dB", [c]) for c in plain]
    groups += [("bandwidth_hz", f"{c.bandwidth_hz} Hz", [c]) for c in CONDITIONS if c.bandwidth_hz is not None]
    groups += [("bandwidth_hz", "all of it", plain), ("clipped", "none", plain)]
    for column, put_in, conditions in groups:
        yield column, put_in, *spread([row[column] for r, _, row in pairs if row and r.condition in conditions])
    ratios = [
        row["clipped"] * (row["end"] - row["start"]) / (piece.clipped * (piece.end - piece.start))
        for _, piece, row in pairs
        if row is not None and piece.clipped
    ]
    yield "clipped samples", "1 (ratio)", *spread(ratios)


def spread(values: Sequence[float]) -> tuple[str, str, str, str]:
    """Return how many values there are, their median, and where the middle nine tenths lie."""
    if not values:
        return "0", "-", "-", "-"
    middle, low, high = np.quantile(values, (0.5, 0.05, 0.95))
    return str(len(values)), f"{middle:.4g}", f"{low:.4g}", f"{high:.4g}"


def describe_condition(condition: Condition) -> str:
    """Return a condition in words."""
    band = "" if condition.bandwidth_hz is None else f", below {condition.bandwidth_hz} Hz"
    return f"noise at {condition.snr_db:g} dB" + band + (", clipped" if condition.clipped else "")


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
