"""Pitch: fundamental frequency and voicing, as Praat's autocorrelation method finds them (Boersma 1993)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics.pair import Pair

STEP_SECONDS = 0.01
LOWEST_HZ, HIGHEST_HZ = 75.0, 600.0
MIN_FRAMES = 10
"""Fewest frames that must be voiced in both for a correlation."""


def f0_correlation(pair: Pair) -> float:
    """Compute Pearson's correlation of log F0 over the frames that are voiced in both; nan for fewer than 10."""
    reference, decoded = (f0_contour(waveform, pair.rate) for waveform in pair.arrays())
    both = (reference > 0) & (decoded > 0)
    if both.sum() < MIN_FRAMES:
        return float("nan")
    return float(np.corrcoef(np.log(reference[both]), np.log(decoded[both]))[0, 1])


def voicing_error(pair: Pair) -> float:
    """Compute the share of frames, 0..1, that are voiced in one waveform and not in the other."""
    reference, decoded = (f0_contour(waveform, pair.rate) > 0 for waveform in pair.arrays())
    return float((reference != decoded).mean())


def f0_contour(waveform: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Find the pitch of a waveform [S] at `rate` -> F0 in Hz every 10 ms, 0 where unvoiced."""
    import parselmouth

    sound = parselmouth.Sound(waveform.astype(np.float64), rate)
    pitch = sound.to_pitch_ac(time_step=STEP_SECONDS, pitch_floor=LOWEST_HZ, pitch_ceiling=HIGHEST_HZ)
    frequency: NDArray[np.float64] = pitch.selected_array["frequency"]
    return frequency
