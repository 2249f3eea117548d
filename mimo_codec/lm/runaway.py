"""When an answer runs away: text or codes that only repeat themselves, or codes that are silence. Needs numpy only.

The limits are far from what people say: 8 s of speech have about a hundred different codes in the first codebook,
silence, noise and tones have at most four.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOKENS, LEAST_CYCLES = 96, 4
"""So many text tokens that repeat one cycle at least so many times."""
FRAMES = 200
"""Code frames (8 s) that are looked at."""
LEAST_CODES = 16
"""Fewer different codes of the first codebook are silence, or one sound that never ends."""
LONGEST_LOOP = 66
"""Frames of a loop, which is heard at least three times."""


def text_repeats(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one cycle again and again."""
    return len(tokens) >= TOKENS and _has_cycle(np.array(tokens[-TOKENS:]), TOKENS // LEAST_CYCLES)


def sound_runs_away(codes: NDArray[np.int64]) -> str | None:
    """Return "silence" or "repetition" for codes of the first codebook [T] that end in it; None for all others."""
    if len(codes) < FRAMES:
        return None
    last = codes[-FRAMES:]
    if len(np.unique(last)) < LEAST_CODES:
        return "silence"
    return "repetition" if _has_cycle(last, LONGEST_LOOP) else None


def _has_cycle(values: NDArray[np.int64], longest: int) -> bool:
    """Whether values [T] repeat themselves after 1, 2, ... or `longest` places."""
    return any((values[n:] == values[:-n]).all() for n in range(1, longest + 1))
