"""Distances between waveforms and between their spectra."""

from __future__ import annotations

import torch

from mimo_codec.codec.mel import stft_magnitude
from mimo_codec.codec.mel_distance import multi_scale_mel_loss
from mimo_codec.metrics.pair import Pair

MAX_SI_SDR = 100.0
"""In dB; larger values mean a copy, smaller than -100 an unrelated sound: infinities would spoil means."""
FFT_SIZE, HOP = 512, 128
LOWEST_LEVEL = 1e-4
"""80 dB below the loudest bin of the original; weaker bins count as this level."""


def si_sdr(pair: Pair) -> float:
    """Compute the scale-invariant signal-to-distortion ratio (Le Roux et al. 2019) in dB, within +-100.

    It is low for codecs that keep the sound but not the waveform, however good they are, and nan for a silent original.
    """
    reference, decoded = (x.double() - x.double().mean() for x in (pair.reference, pair.decoded))
    target = (decoded @ reference) / (reference @ reference) * reference
    ratio = 10 * torch.log10(target.square().sum() / (decoded - target).square().sum())
    return float(ratio.clamp(-MAX_SI_SDR, MAX_SI_SDR))


def mel_distance(pair: Pair) -> float:
    """Compute the L1 distance of log-mel spectra, summed over the paper's three scales (`multi_scale_mel_loss`)."""
    with torch.no_grad():
        return float(multi_scale_mel_loss(pair.decoded[None], pair.reference[None], pair.rate, power=0.0))


def stft_distance(pair: Pair) -> float:
    """Compute spectral convergence plus log-magnitude L1, the mean over three resolutions (Yamamoto et al. 2020)."""
    from auraloss.freq import MultiResolutionSTFTLoss

    with torch.no_grad():
        loss = MultiResolutionSTFTLoss().to(pair.decoded.device)
        return float(loss(pair.decoded[None, None], pair.reference[None, None]))


def log_spectral_distance(pair: Pair) -> float:
    """Compute the root mean square over frequency of the difference of log spectra, in dB; mean over frames of 32 ms.

    It is nan for a silent original.
    """
    spectra = [stft_magnitude(x[None], FFT_SIZE, FFT_SIZE, HOP)[0] for x in (pair.reference, pair.decoded)]
    floor = spectra[0].max() * LOWEST_LEVEL
    levels = [20 * magnitude.maximum(floor).log10() for magnitude in spectra]
    return float((levels[0] - levels[1]).square().mean(dim=1).sqrt().mean())
