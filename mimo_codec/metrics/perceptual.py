"""Perceptual metrics: PESQ (ITU-T P.862 and P.862.2) and STOI (Taal et al. 2011)."""

from __future__ import annotations

import warnings

from mimo_codec.metrics.pair import Pair

STOI_GAVE_UP = 1e-5
"""The value that pystoi returns, with a warning, for too little speech."""


def pesq_wb(pair: Pair) -> float:
    """Compute wide-band PESQ, 1..4.64, of a pair at 16 kHz; nan where PESQ finds no speech in one of them."""
    return _pesq(pair, "wb")


def pesq_nb(pair: Pair) -> float:
    """Compute narrow-band PESQ, 1..4.55, of a pair at 8 kHz; nan where PESQ finds no speech in one of them."""
    return _pesq(pair, "nb")


def _pesq(pair: Pair, mode: str) -> float:
    import pesq

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(pesq.pesq(pair.rate, *pair.arrays(), mode))
    except (pesq.PesqError, ValueError):  # ValueError: its own nan, of digital silence
        return float("nan")


def stoi(pair: Pair) -> float:
    """Compute short-time objective intelligibility, about 0..1; nan for less than about 0.4 s of speech."""
    import pystoi

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = float(pystoi.stoi(*pair.arrays(), pair.rate))
    return float("nan") if score == STOI_GAVE_UP else score
