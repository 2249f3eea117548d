"""Quality of reconstructed speech: STOI, PESQ and mel distance, on waveforms of equal length."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from mimo_codec.resampling import resample
from mimo_codec.errors import MimoError
from mimo_codec.train.losses import multi_scale_mel_loss

METRIC_RATE = 16000


def speech_metrics(reference: Tensor, decoded: Tensor, sample_rate: int) -> dict[str, float]:
    """reference, decoded: [S] at sample_rate -> stoi, pesq_wb, pesq_nb, mel_distance (log-mel L1, paper's scales).

    STOI and PESQ are computed at 16 kHz (narrow-band PESQ at 8 kHz). A file that PESQ finds no speech in gives nan.
    MimoError when the `eval` extra is not installed.
    """
    try:
        import pesq
        import pystoi
    except ImportError as error:
        raise MimoError(f"{error.name} is not installed: pip install 'mimo-codec[eval]'") from None
    reference, decoded = reference.float().cpu(), decoded.float().cpu()
    wide = [resample(x, sample_rate, METRIC_RATE).numpy() for x in (reference, decoded)]
    narrow = [resample(x, sample_rate, 8000).numpy() for x in (reference, decoded)]
    scores = {}
    for name, rate, pair, mode in (("pesq_wb", METRIC_RATE, wide, "wb"), ("pesq_nb", 8000, narrow, "nb")):
        try:
            scores[name] = float(pesq.pesq(rate, *pair, mode))
        except pesq.PesqError:
            scores[name] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores["stoi"] = float(pystoi.stoi(*wide, METRIC_RATE))
    with torch.no_grad():
        distance = multi_scale_mel_loss(decoded[None], reference[None], sample_rate, log=True)
    return scores | {"mel_distance": float(distance)}
