"""Means with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLINGS = 2000


@dataclass(frozen=True)
class Summary:
    """A value over files or items; nan where too few have one: a mean needs one, the rest two."""

    mean: float
    std: float
    low: float
    """Lower end of the 95 % confidence interval of the mean, by the bootstrap."""
    high: float
    """Upper end of the same interval."""
    num_files: int
    """Number of files or items that have a value."""

    @staticmethod
    def of(values: Sequence[float], weights: Sequence[float] | None = None) -> Summary:
        """Summarize values; nan among them is left out. The same values always give the same interval.

        weights: of the values in the mean, such as numbers of words of error rates; None: all alike.
        """
        shares = [1.0] * len(values) if weights is None else weights
        pairs = [(v, w) for v, w in zip(values, shares, strict=True) if not math.isnan(v) and w > 0]
        known, weight = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs])
        if len(known) < 2:
            return Summary(float(known[0]) if len(known) else math.nan, math.nan, math.nan, math.nan, len(known))
        drawn = np.random.default_rng(0).integers(0, len(known), (RESAMPLINGS, len(known)))
        if weights is None:
            means, mean = known[drawn].mean(axis=1), known.mean()
        else:
            means = (known * weight)[drawn].sum(axis=1) / weight[drawn].sum(axis=1)
            mean = (known * weight).sum() / weight.sum()
        low, high = np.percentile(means, (2.5, 97.5))
        return Summary(float(mean), float(known.std()), float(low), float(high), len(known))

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval."""
        return (self.high - self.low) / 2
