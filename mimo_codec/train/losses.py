"""Training losses, each a pure function of waveforms [B, S]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mimo_codec.mel import mel_filters, stft_magnitude

PAPER_SCALES = tuple((2**i, 15 * 2 ** (i - 1), 15 * 2 ** (i - 2)) for i in (5, 6, 7))
"""(mel bands, window, hop) in samples of the paper's reconstruction loss (section 2.1.2)."""

QUIET = 1e-3
"""Added to window-normalised magnitudes before the logarithm: what is below about -60 dB does not count."""


def multi_scale_mel(waveform: Tensor, scale: tuple[int, int, int], sample_rate: int) -> Tensor:
    """Mel magnitudes of one scale (bands, window, hop): [B, S] -> [B, M, bands], STFT normalised by its window."""
    bands, window, hop = scale
    magnitude = stft_magnitude(waveform, window, window, hop)
    energy = torch.hann_window(window, device=waveform.device).square().sum().sqrt()
    return (magnitude / energy) @ mel_filters(sample_rate, window, bands).to(waveform)


def multi_scale_mel_loss(
    estimate: Tensor,
    target: Tensor,
    sample_rate: int,
    scales: Sequence[tuple[int, int, int]] = PAPER_SCALES,
    log: bool = False,
) -> Tensor:
    """Mean over time and bands of the L1 distance between mel spectrograms, summed over scales (section 2.1.2).

    estimate, target: [B, S]; scales: (bands, window, hop) each; log: compare logarithms, so that quiet sounds count as
    much as loud ones. Returns a scalar.
    """
    losses = []
    for scale in scales:
        pair = [multi_scale_mel(x.float(), scale, sample_rate) for x in (estimate, target)]
        if log:
            pair = [(x + QUIET).log() for x in pair]
        losses.append((pair[0] - pair[1]).abs().mean())
    return torch.stack(losses).sum()
