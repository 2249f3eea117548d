"""How long steps compute."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Timing(dict[str, float]):
    """Seconds of computing by step."""

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add the seconds that a block takes to a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({step: time.perf_counter() - began})

    def add(self, other: Mapping[str, float]) -> None:
        """Add the seconds of other steps, or of the same ones."""
        for step, seconds in other.items():
            self[step] = self.get(step, 0.0) + seconds

    def slowest_first(self) -> list[tuple[str, float]]:
        """Return steps and their seconds, the slowest first."""
        return sorted(self.items(), key=lambda item: -item[1])
