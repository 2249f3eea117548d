"""DNSMOS: the opinion of listeners, predicted from a sound alone by a network that was trained on listening tests.

Its weights come with its package.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics.pair import Pair

OVERALL = {"p808": "p808_mos", "p835": "ovrl_mos"}
"""Kind of listening test -> the score that is about the sound as a whole."""


def dnsmos(pair: Pair, test: str = "p808") -> float:
    """Predict the mean opinion, 1..5, that listeners have of the decoded sound; the original is not looked at.

    test: "p808" for a listening test by ITU-T P.808 (Reddy et al. 2021), "p835" for P.835 (Reddy et al. 2022), of which
    the overall score is taken. The pair must be at 16 kHz; the score is nan for silence.
    """
    return _opinions(_bytes(pair.arrays()[1])).get(test, float("nan"))


def dnsmos_original(pair: Pair, test: str = "p808") -> float:
    """Predict the same for the original: the value that `dnsmos` has for a perfect codec."""
    return _opinions(_bytes(pair.arrays()[0])).get(test, float("nan"))


def predict_opinions(waveform: NDArray[np.float32]) -> dict[str, float]:
    """Predict opinions of a waveform [S] at 16 kHz by each kind of test, "p808" and "p835"; none for silence."""
    return dict(_opinions(_bytes(waveform)))


def _bytes(waveform: NDArray[np.float32]) -> bytes:
    return waveform.clip(-1, 1).tobytes()


@functools.lru_cache(maxsize=8)  # both tests are one call, and an original is asked for with everything decoded from it
def _opinions(samples: bytes) -> dict[str, float]:
    from speechmos import dnsmos

    waveform = np.frombuffer(samples, np.float32)
    if not waveform.any():
        return {}
    found: dict[str, Any] = dnsmos.run(waveform, 16000)
    return {test: float(found[score]) for test, score in OVERALL.items()}
