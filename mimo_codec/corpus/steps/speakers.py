"""Who speaks: segments of a recording are grouped by the likeness of their speaker embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import check_number, needs_extra
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step
from mimo_codec.metrics.speaker import embed_speaker

EMBEDDING = "_embedding"
"""Of a row while its recording is described; no column."""


class Speakers(Step):
    """Numbers the speakers of each recording whose speaker is not known, by embeddings of Resemblyzer.

    Args:
        similarity: cosine from which two groups of segments are of one speaker.
        device: of the network.
    """

    columns: ClassVar = {"speaker": "string"}

    def __init__(self, similarity: float = 0.75, device: str = "cpu"):
        """MimoError when Resemblyzer is not installed."""
        with needs_extra("resemblyzer", "pip install --no-deps resemblyzer"):
            import resemblyzer  # noqa: F401
        self.similarity, self.device = check_number("similarity", similarity, 0, 1), device

    def describe(self, segments: Sequence[Segment]) -> None:
        """Keep embeddings until the recording ends."""
        for segment in segments:
            if segment.row.get("speaker") is None:
                segment.row[EMBEDDING] = embed_speaker(segment.narrow, self.device)

    def finish(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add `speaker`, the recording's id and a number; missing for silence."""
        unknown = [row for row in rows if row.get(EMBEDDING) is not None]
        if unknown:
            groups = group_speakers(np.stack([row[EMBEDDING] for row in unknown]), self.similarity)
            for row, number in zip(unknown, groups, strict=True):
                row["speaker"] = f"{row['recording']}/{number}"
        for row in rows:
            row.pop(EMBEDDING, None)


def group_speakers(embeddings: NDArray[np.float32], similarity: float) -> list[int]:
    """Embeddings [N, D] of length 1, in the order of time -> number of a speaker for each, in order of appearance.

    Each is put to the group whose mean it is most like, or begins a new one; then groups whose means are alike are
    joined, the most alike first. Work grows with N times the number of groups, not with N squared.
    """
    sums: list[NDArray[np.float64]] = []
    chosen = []
    for vector in embeddings.astype(np.float64):
        alike = [float(vector @ total) / float(np.linalg.norm(total)) for total in sums]
        best = int(np.argmax(alike)) if alike else -1
        if best >= 0 and alike[best] >= similarity:
            sums[best] = sums[best] + vector
        else:
            best = len(sums)
            sums.append(vector)
        chosen.append(best)
    names = list(range(len(sums)))
    while len(sums) > 1:
        means = np.stack(sums) / np.linalg.norm(sums, axis=1, keepdims=True)
        likeness = means @ means.T - 2 * np.eye(len(sums))
        one, other = divmod(int(likeness.argmax()), len(sums))
        if likeness[one, other] < similarity:
            break
        one, other = min(one, other), max(one, other)
        sums[one] = sums[one] + sums.pop(other)
        names = [one if name == other else name - (name > other) for name in names]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(names[group], len(numbers)) for group in chosen]
