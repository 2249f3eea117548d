"""Parts of all benchmarks: synthetic speech, tables, lists of numbers, and errors of the command line as one line."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import typer
from numpy.typing import NDArray

from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError


def run_app(app: typer.Typer) -> None:
    """Run a command line; bad input ends it with one line and status 1."""
    try:
        app()
    except MimoError as error:
        sys.exit(f"error: {error}")


def make_speech(seconds: float, sample_rate: int, block_seconds: float = 10.0) -> Iterator[NDArray[np.float32]]:
    """Make a sound with the pitch and rhythm of speech, always the same, in blocks [S] float32 of `block_seconds`."""
    noise = np.random.default_rng(0)
    num_samples, block = max(1, round(seconds * sample_rate)), round(block_seconds * sample_rate)
    for start in range(0, num_samples, block):
        t = np.arange(start, min(start + block, num_samples)) / sample_rate
        cycles = 120 * t - 7 * np.cos(2 * np.pi * 0.7 * t)
        rhythm = np.sin(2 * np.pi * 2.1 * t).clip(min=0)
        yield (0.4 * rhythm * (cycles % 1 - 0.5) + 0.01 * noise.standard_normal(len(t))).astype(np.float32)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns, at least two spaces apart: the first to the left, numbers to the right."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print(row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)), sep="  ")


def parse_numbers(option: str, text: str) -> list[float]:
    """Parse an option such as "1,2.5" -> [1.0, 2.5]; MimoError names it unless all are finite numbers above 0."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    are_valid = numbers and all(0 < number < math.inf for number in numbers)
    require(are_valid, f"{option} {text!r}: numbers above 0, separated by commas, are needed")
    return numbers
