"""DNSMOS: what listeners would say of a segment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from mimo_codec.common.checks import needs_extra
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step
from mimo_codec.metrics.opinion import predict_opinions


class Opinion(Step):
    """Predicts the opinions of listeners by ITU-T P.808 and P.835 (speechmos and an ONNX runtime are needed)."""

    columns: ClassVar = {"dnsmos_p808": "float32", "dnsmos_p835": "float32"}

    def __init__(self) -> None:
        """MimoError when a package is missing."""
        with needs_extra("speechmos", "eval,onnx"):
            import speechmos.dnsmos  # noqa: F401

    def describe(self, segments: Sequence[Segment]) -> None:
        """Add both; they are missing for silence."""
        for segment in segments:
            found = predict_opinions(segment.narrow)
            for test in ("p808", "p835"):
                value = found.get(test, math.nan)
                segment.row[f"dnsmos_{test}"] = value if math.isfinite(value) else None
