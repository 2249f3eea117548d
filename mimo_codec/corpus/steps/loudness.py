"""Loudness by EBU R128, and the gain that makes all segments equally loud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import check_number, needs_extra
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step

BLOCK_SECONDS = 0.4
"""Of the standard's measurement; nothing shorter can be measured."""


class Loudness(Step):
    """Measures the integrated loudness, and the gain with which segments are coded.

    Args:
        target_lufs: loudness that segments get; EBU R128 says -23.
        max_gain_db: most that quiet segments are raised.
        peak: largest magnitude after that.
    """

    columns: ClassVar = {"loudness_lufs": "float32", "gain_db": "float32"}

    def __init__(self, target_lufs: float = -23.0, max_gain_db: float = 20.0, peak: float = 0.95):
        """See the class for the arguments."""
        with needs_extra("pyloudnorm", "corpus"):
            import pyloudnorm  # noqa: F401
        self.target_lufs = check_number("target_lufs", target_lufs, -70, 0)
        self.max_gain_db = check_number("max_gain_db", max_gain_db, 0, 120)
        self.peak = check_number("peak", peak, 1e-3, 1)

    def describe(self, segments: Sequence[Segment]) -> None:
        """Add loudness_lufs (missing for silence and less than 0.4 s) and gain_db (0 there)."""
        for segment in segments:
            loudness = measure_loudness(segment.samples, segment.rate)
            gain = 0.0
            if loudness is not None:
                highest = 20 * math.log10(self.peak / float(np.abs(segment.samples).max()))
                gain = min(self.target_lufs - loudness, self.max_gain_db, highest)
            segment.row |= {"loudness_lufs": loudness, "gain_db": gain}


def measure_loudness(samples: NDArray[np.float32], rate: int) -> float | None:
    """Measure the integrated loudness in LUFS of samples [S]; None for silence and for what is too short."""
    import pyloudnorm

    if len(samples) < BLOCK_SECONDS * rate or not samples.any():
        return None
    loudness = float(pyloudnorm.Meter(rate).integrated_loudness(samples.astype(np.float64)))
    return loudness if math.isfinite(loudness) else None
