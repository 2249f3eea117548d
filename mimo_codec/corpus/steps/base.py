"""What every step is: columns that it adds to segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mimo_codec.corpus.segment import Segment


class Step(ABC):
    """Adds columns to the rows of segments. One is made in each process, so networks are loaded once.

    What it gives for a segment may depend on the other segments of its recording, and on nothing else.
    """

    columns: ClassVar[Mapping[str, str]] = {}
    """Name -> type of what it adds: a name of pyarrow ("float32", "int32", "string", "bool") or "words"."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Columns that must be there before."""

    @abstractmethod
    def describe(self, segments: Sequence[Segment]) -> None:
        """Add to the rows of consecutive segments of one recording, of a minute or so together."""

    def finish(self, rows: Sequence[dict[str, Any]]) -> None:  # noqa: B027 (most steps have nothing to finish)
        """Add what can be told only when all segments of a recording have been described; all its rows, in order."""
