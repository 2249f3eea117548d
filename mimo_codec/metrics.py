"""Quality of reconstructed speech: STOI, PESQ and mel distance, on waveforms of equal length."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from mimo_codec.errors import MimoError
from mimo_codec.resampling import resample
from mimo_codec.train.losses import multi_scale_mel_loss

WIDE_RATE, NARROW_RATE = 16000, 8000


def speech_metrics(reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int) -> dict[str, float]:
    """Scores pesq_wb, pesq_nb, stoi and mel_distance (log-mel L1, paper's scales) of decoded speech.

    reference, decoded: [S] of the same sound, at their own rates. All scores are computed at 16 kHz, narrow-band PESQ
    at 8 kHz. A file that PESQ finds no speech in gives nan there.
    MimoError when the `eval` extra is not installed.
    """
    try:
        import pesq
        import pystoi
    except ImportError as error:
        raise MimoError(f"{error.name} is not installed: pip install 'mimo-codec[eval]'") from None
    sounds = ((reference.float().cpu(), reference_rate), (decoded.float().cpu(), decoded_rate))
    scores = {}
    for name, rate, mode in (("pesq_wb", WIDE_RATE, "wb"), ("pesq_nb", NARROW_RATE, "nb")):
        try:
            scores[name] = float(pesq.pesq(rate, *(s.numpy() for s in _aligned(sounds, rate)), mode))
        except pesq.PesqError:
            scores[name] = float("nan")
    wide = _aligned(sounds, WIDE_RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too little speech for STOI: it says so and returns 1e-5
        scores["stoi"] = float(pystoi.stoi(*(s.numpy() for s in wide), WIDE_RATE))
    with torch.no_grad():
        distance = multi_scale_mel_loss(wide[1][None], wide[0][None], WIDE_RATE, log=True)
    return scores | {"mel_distance": float(distance)}


def _aligned(sounds: tuple[tuple[Tensor, int], ...], rate: int) -> list[Tensor]:
    """Both at `rate`, cut to the shorter (rounding of lengths by at most a sample)."""
    resampled = [resample(waveform, own_rate, rate) for waveform, own_rate in sounds]
    size = min(len(waveform) for waveform in resampled)
    return [waveform[:size] for waveform in resampled]
