"""A piece of a recording that becomes a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.resampling import resample

NARROW_RATE = 16000
"""In Hz, at which most networks hear."""


@dataclass
class Segment:
    """Samples and what is known of them."""

    samples: NDArray[np.float32]
    """[S] at `rate`, as they are in the recording."""
    rate: int
    """In Hz."""
    row: dict[str, Any]
    """Columns so far, to which steps add theirs."""

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / self.rate

    @cached_property
    def narrow(self) -> NDArray[np.float32]:
        """[S'] at 16 kHz."""
        return resample(self.samples, self.rate, NARROW_RATE)
