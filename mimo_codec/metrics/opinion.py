"""Would listeners like the sound? The opinion that DNSMOS, a network trained on listening tests, predicts of a sound
alone; its weights come with its package."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics.pair import Pair

OVERALL = {"p808": "p808_mos", "p835": "ovrl_mos"}
"""kind of listening test -> the score of it that is about everything one hears"""


def dnsmos(pair: Pair, test: str = "p808") -> float:
    """Predicted mean opinion, 1..5, of the decoded sound in a listening test by ITU-T P.808 (Reddy et al. 2021) or
    P.835 (Reddy et al. 2022, the overall score), whatever the original. Of a pair at 16 kHz; nan for silence."""
    return _opinions(_bytes(pair.arrays()[1])).get(test, float("nan"))


def dnsmos_original(pair: Pair, test: str = "p808") -> float:
    """The same of the original: what `dnsmos` could be."""
    return _opinions(_bytes(pair.arrays()[0])).get(test, float("nan"))


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
