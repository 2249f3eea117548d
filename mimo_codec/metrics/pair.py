"""The input of every metric: an original and the waveform decoded from it, aligned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """Two waveforms [S] float32 on one device, of one rate in Hz, and the words that are said, if they are known."""

    reference: Tensor
    decoded: Tensor
    rate: int
    text: str | None = None

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (reference, decoded) for libraries that do not take tensors."""
        return self.reference.cpu().numpy(), self.decoded.cpu().numpy()
