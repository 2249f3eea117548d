"""What a report says of the segments that stay, gathered row by row, so that memory stays small."""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass
class Survey:
    """Counts, distributions and some rows.

    Args:
        grouped: columns by whose values hours are summed.
        measured: columns whose values are kept, as distributions.
        num_drawn: rows to draw at random.
    """

    grouped: Iterable[str]
    measured: Iterable[str]
    num_drawn: int
    num_rows: int = 0
    num_texts: int = 0
    hours: dict[str, defaultdict[str | None, float]] = field(init=False)
    """Column -> value -> hours."""
    values: dict[str, array[float]] = field(init=False)
    """Column -> what is known of it."""
    drawn: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.hours = {name: defaultdict(float) for name in self.grouped}
        self.values = {name: array("f") for name in self.measured}
        self._random = random.Random(0)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.num_rows += 1
        self.num_texts += bool(row["text"])
        for name, hours in self.hours.items():
            hours[row[name]] += row["seconds"] / 3600
        for name, values in self.values.items():
            if row.get(name) is not None:
                values.append(row[name])
        if self.num_rows <= self.num_drawn:
            self.drawn.append(row)
        elif (place := self._random.randrange(self.num_rows)) < self.num_drawn:  # every row is as likely as any other
            self.drawn[place] = row
