"""Discriminators of waveforms [B, S]: multi-period (HiFi-GAN) and multi-scale STFT (EnCodec), spectrally normalized.

Each sub-discriminator gives a map of scores and the outputs of its layers; `Discriminators` is the list of them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.1


class Judgement(NamedTuple):
    """What K sub-discriminators make of waveforms [B, S]."""

    scores: list[Tensor]
    """K maps of scores, of any shape [B, ...], positive for real."""
    layers: list[list[Tensor]]
    """K lists of the layers' outputs, of any shapes, for feature matching; their number and shapes depend on S alone.
    """


class _ConvolutionStack(nn.Module):
    """2-D convolutions and leaky ReLU: x [B, C, H, W] -> scores [B, 1, H, W] and the outputs of the layers."""

    def __init__(self, convolutions: Sequence[nn.Conv2d]):
        super().__init__()
        self.convolutions = nn.ModuleList(spectral_norm(convolution) for convolution in convolutions)

    def judge(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = []
        for convolution in self.convolutions[:-1]:
            x = F.leaky_relu(convolution(x), SLOPE)
            outputs.append(x)
        return self.convolutions[-1](x), outputs


class PeriodDiscriminator(_ConvolutionStack):
    """Judges every `period`-th sample: Kong et al. 2020 (HiFi-GAN), section 2.3."""

    def __init__(
        self, period: int, channels: Sequence[int] = (32, 128, 512, 1024, 1024), kernel_size: int = 5, stride: int = 3
    ):
        """channels: of its layers, each of which but the last shortens time by `stride`."""
        sizes = [1, *channels]
        pad = (kernel_size // 2, 0)
        super().__init__(
            [
                *(
                    nn.Conv2d(a, b, (kernel_size, 1), (stride if n < len(channels) - 1 else 1, 1), pad)
                    for n, (a, b) in enumerate(pairwise(sizes))
                ),
                nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)),
            ]
        )
        self.period = period

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge waveforms [B, S] -> scores and the layers' outputs, [B, C, S', period] each."""
        waveform = F.pad(waveform[:, None], (0, -waveform.shape[-1] % self.period), mode="reflect")
        return self.judge(waveform.reshape(*waveform.shape[:2], -1, self.period))


class STFTDiscriminator(_ConvolutionStack):
    """Judges a complex spectrogram, as real and imaginary parts: Défossez et al. 2022 (EnCodec), section 3.4."""

    def __init__(self, n_fft: int, channels: int = 32, dilations: Sequence[int] = (1, 2, 4)):
        """n_fft: size of the STFT, whose hop is a quarter; dilations: along time, of layers that halve frequency."""
        super().__init__(
            [
                nn.Conv2d(2, channels, (3, 9), padding=(1, 4)),
                *(nn.Conv2d(channels, channels, (3, 9), (1, 2), (d, 4), (d, 1)) for d in dilations),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, 1, 3, padding=1),
            ]
        )
        self.n_fft = n_fft
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge waveforms [B, S] -> scores and the layers' outputs, [B, C, M, F] each; the STFT is float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.float(),
                self.n_fft,
                self.n_fft // 4,
                window=self.window.float(),
                normalized=True,
                return_complex=True,
            )
        return self.judge(torch.view_as_real(spectrum).permute(0, 3, 2, 1))


class Discriminators(nn.ModuleList):
    """All sub-discriminators; without periods or without STFT sizes that kind is left out."""

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        stft_sizes: Sequence[int] = (2048, 1024, 512, 256, 128),
        stft_channels: int = 32,
        gain: float = 30.0,
    ):
        """Make the sub-discriminators.

        Args:
            periods: of the multi-period discriminators.
            period_channels: of the layers of each.
            stft_sizes: n_fft of the multi-scale STFT discriminators.
            stft_channels: of every layer of each.
            gain: on the waveforms. Spectral normalization limits what layers can amplify, so speech at usual levels (an
                RMS of 0.05 to 0.1) would hardly change the scores, and discriminators would train very slowly.
        """
        super().__init__(
            [
                *(PeriodDiscriminator(period, period_channels) for period in periods),
                *(STFTDiscriminator(n_fft, stft_channels) for n_fft in stft_sizes),
            ]
        )
        self.gain = gain
        self.sizes = {
            "periods": list(periods),
            "period_channels": list(period_channels),
            "stft_sizes": list(stft_sizes),
            "stft_channels": stft_channels,
        }

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge waveforms [B, S] with every sub-discriminator."""
        scores, layers = zip(*(discriminator(self.gain * waveform) for discriminator in self), strict=True)
        return Judgement(list(scores), list(layers))
