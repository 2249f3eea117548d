"""How far apart two waveforms [B, S] are by their mel spectrograms at several scales: a loss, and a metric."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mimo_codec.codec.mel import mel_filters, stft_magnitude

PAPER_SCALES = tuple((2**i, 15 * 2 ** (i - 1), 15 * 2 ** (i - 2)) for i in (5, 6, 7))
"""(mel bands, window, hop) in samples of the paper's reconstruction loss (section 2.1.2)."""

QUIET = 1e-3
"""Added to window-normalised magnitudes before they are compressed: what is below about -60 dB does not count."""


def multi_scale_mel(waveform: Tensor, scale: tuple[int, int, int], sample_rate: int) -> Tensor:
    """Mel magnitudes of one scale (bands, window, hop): [B, S] -> [B, M, bands], STFT normalised by its window."""
    bands, window, hop = scale
    magnitude = stft_magnitude(waveform, window, window, hop)
    energy = torch.hann_window(window, device=waveform.device, dtype=torch.float32).square().sum().sqrt()
    return (magnitude / energy) @ mel_filters(sample_rate, window, bands).to(waveform)


def compress(magnitude: Tensor, power: float) -> Tensor:
    """(magnitude^power - 1) / power, and its limit, the logarithm, for a power of 0; any shape.

    With 1, the paper's, loud sounds decide; with 0 quiet ones count as much; hearing is between (loudness grows with
    about the 0.5th power of the pressure: Zwicker and Fastl, Psychoacoustics, section 8.1).
    """
    shifted = magnitude + QUIET
    return shifted.log() if power == 0 else (shifted**power - 1) / power


def multi_scale_mel_loss(
    estimate: Tensor,
    target: Tensor,
    sample_rate: int,
    scales: Sequence[tuple[int, int, int]] = PAPER_SCALES,
    power: float = 1.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """L1 distance between mel spectrograms: mean over time and bands, sum over scales (L_recon, section 2.1.2).

    estimate, target: [B, S]; scales: (bands, window, hop) each; power: see `compress`; lengths: [B] samples. Returns a
    scalar.
    """
    losses = []
    for scale in scales:
        pair = [multi_scale_mel(x.float(), scale, sample_rate) for x in (estimate, target)]
        pair = [compress(x, power) for x in pair]
        distance = (pair[0] - pair[1]).abs().mean(-1)
        losses.append(masked_mean(distance, None if lengths is None else 1 + lengths // scale[2]))
    return torch.stack(losses).sum()


def masked_mean(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean of x [B, T] over the first lengths [B] positions of each row."""
    if lengths is None:
        return x.mean()
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)
