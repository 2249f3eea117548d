"""How good a recording is, by its samples alone: noise, clipping, bandwidth, silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step

FRAME_SECONDS = 0.02
QUIET_SHARE = 0.05
"""Share of the frames, the quietest, that show the noise: between words nobody speaks."""
MAX_SNR = 80.0
SILENCE = 1e-3
"""Root mean square, -60 dBFS, below which a frame is silent."""
NEAR_PEAK, MIN_CLIPPED = 0.995, 3
"""Samples count as clipped where so many in a row are so near the largest magnitude."""
FFT_SIZE = 1024
BAND_DB = 50.0
"""How far below the strongest a frequency may be to count as a part of the band."""


class Quality(Step):
    """Measures the ratio of signal to noise, clipping, bandwidth, and silence."""

    columns: ClassVar = {
        "peak": "float32",
        "snr_db": "float32",
        "clipped": "float32",
        "bandwidth_hz": "float32",
        "silence": "float32",
    }

    def describe(self, segments: Sequence[Segment]) -> None:
        """Add all columns; snr_db and bandwidth_hz are missing for digital silence."""
        for segment in segments:
            samples = segment.samples
            powers = frame_powers(samples, segment.rate)
            width, recorded = measure_bandwidth(samples, segment.rate), segment.row.get("sample_rate", segment.rate) / 2
            segment.row |= {
                "peak": float(np.abs(samples).max(initial=0.0)),
                "snr_db": measure_snr(powers),
                "clipped": measure_clipping(samples),
                "bandwidth_hz": None if width is None else min(width, recorded),
                "silence": float((powers < SILENCE**2).mean()) if len(powers) else 1.0,
            }


def frame_powers(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Samples [S] at a rate in Hz -> mean square of every 20 ms, [n]; what is left at the end does not count."""
    size = round(FRAME_SECONDS * rate)
    whole = len(samples) // size * size
    return np.square(samples[:whole].astype(np.float64)).reshape(-1, size).mean(1)


def measure_snr(powers: NDArray[np.float64]) -> float | None:
    """Powers of frames [n] -> ratio in dB of what is above the noise to the noise, which the quietest frames show.

    None for silence.
    """
    if not len(powers) or powers.max() <= 0:
        return None
    count = max(1, round(QUIET_SHARE * len(powers)))
    noise = float(np.partition(powers, count - 1)[:count].mean())
    signal = max(float(powers.mean()) - noise, 0.0)
    if noise <= 0:
        return MAX_SNR
    return float(np.clip(10 * np.log10(max(signal / noise, 1e-3)), -30, MAX_SNR))


def measure_clipping(samples: NDArray[np.float32]) -> float:
    """Samples [S] -> share of them, 0..1, that stand at the largest magnitude, several in a row."""
    magnitude = np.abs(samples)
    highest = magnitude.max(initial=0.0)
    if highest <= 0:
        return 0.0
    at_peak = magnitude >= NEAR_PEAK * highest
    edges = np.flatnonzero(np.diff(np.concatenate(([False], at_peak, [False])).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= MIN_CLIPPED].sum() / len(samples))


def measure_bandwidth(samples: NDArray[np.float32], rate: int) -> float | None:
    """Samples [S] at a rate in Hz -> highest frequency in Hz that is not far below the strongest, on the average.

    None for silence, and for less than a frame.
    """
    if len(samples) < FFT_SIZE or not samples.any():
        return None
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT_SIZE)[:: FFT_SIZE // 2]
    power = np.zeros(FFT_SIZE // 2 + 1)
    for start in range(0, len(frames), 256):  # a few at a time, so that memory stays small
        power += np.square(np.abs(np.fft.rfft(frames[start : start + 256] * np.hanning(FFT_SIZE), axis=1))).sum(0)
    strong = np.flatnonzero(power >= power.max() * 10 ** (-BAND_DB / 10))
    return float(strong[-1] * rate / FFT_SIZE)
