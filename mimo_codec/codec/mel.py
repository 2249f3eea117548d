"""Waveform [B, S] -> log-mel [B, M, n_mels], at once or as a stream.

The spectrum is computed in float64. In float32 a transform leaves some 1e-7 of the peak in every band, differently on
every processor; where a band is quieter than that, its logarithm, and with it the codes, would differ too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.codec.config import MelConfig
from mimo_codec.codec.precision import Float32Module
from mimo_codec.codec.streaming import State

LOG_FLOOR = 1e-7


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached must also serve callers that train
def mel_filters(sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None) -> Tensor:
    """Triangular filters on the HTK mel scale, without area normalisation: [n_fft // 2 + 1, n_mels] float32.

    Computed in float32 as torchaudio's `melscale_fbanks` is: the released models were trained on its rounding, which
    matters in narrow filters at low frequencies.
    """
    top = sample_rate / 2 if fmax is None else fmax
    low, high = (2595.0 * math.log10(1 + f / 700) for f in (fmin, top))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, n_mels + 2, device="cpu", dtype=torch.float32) / 2595.0) - 1.0)
    bins = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1, device="cpu", dtype=torch.float32)[:, None]
    widths = edges[1:] - edges[:-1]
    rising = (bins - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - bins) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)


def stft_magnitude(waveform: Tensor, n_fft: int, window_size: int, hop_length: int, center: bool = True) -> Tensor:
    """Magnitudes of the periodic-Hann STFT: [B, S] -> [B, M, n_fft // 2 + 1]; `center` pads by reflection."""
    window = torch.hann_window(window_size, device=waveform.device, dtype=waveform.dtype)
    spectrum = torch.stft(
        waveform, n_fft, hop_length, window_size, window, center=center, pad_mode="reflect", return_complex=True
    )
    return spectrum.abs().transpose(1, 2)


def spectrum_dtype(device: torch.device) -> torch.dtype:
    """Precision of spectra on a device: float64 but on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


class LogMel(Float32Module):
    """log(max(mel, 1e-7)) of a centred (reflect padded) STFT's magnitudes; float32 but for the spectrum, see above."""

    filters: Tensor

    def __init__(self, config: MelConfig):
        """The filters of a configuration; nothing is trained."""
        super().__init__()
        self.config = config
        self.pad = config.n_fft // 2
        filters = mel_filters(config.sample_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Tensor, before: int = 0, after: int = 0) -> Tensor:
        """`waveform` [B, S] -> [B, 1 + (S - before - after) // hop_length, n_mels].

        before, after: how many samples at the start and at the end are not of the item but surround it; before: 0, or
        more than n_fft / 2. Where a frame reaches beyond the waveform, the waveform is reflected; fewer than
        n_fft / 2 + 1 samples, too few to reflect, see zeros after them.
        """
        num_samples = waveform.shape[-1]
        num_frames = 1 + (num_samples - before - after) // self.config.hop_length
        samples = F.pad(waveform, (0, max(self.pad + 1 - num_samples, 0)))
        samples = F.pad(samples, (0 if before else self.pad, self.pad), mode="reflect")
        return self._frames(samples[:, max(before - self.pad, 0) :], num_frames)

    def _frames(self, samples: Tensor, num_frames: int) -> Tensor:
        """The first frames that lie inside samples [B, S] -> [B, num_frames, n_mels]."""
        c = self.config
        samples = samples[:, : (num_frames - 1) * c.hop_length + c.n_fft]
        with torch.autocast(samples.device.type, enabled=False):
            samples = samples.float().to(spectrum_dtype(samples.device))
            magnitude = stft_magnitude(samples, c.n_fft, c.window_size, c.hop_length, center=False)
            mel = magnitude.float() @ self.filters
        return mel.clamp(min=LOG_FLOOR).log()

    def initial_state(self, batch: int) -> State:
        """State before the first sample."""
        tail = torch.zeros(batch, 0, device=self.filters.device, dtype=torch.float32)
        return {"tail": tail, "started": torch.zeros((), dtype=torch.bool)}

    def is_state(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a stream that goes on can have left this tail: [B, n] samples that later frames need."""
        if not state["started"]:
            return state["tail"].shape[-1] <= self.pad
        return self.config.n_fft - self.config.hop_length <= state["tail"].shape[-1] < self.config.n_fft

    def step(self, waveform: Tensor, state: Mapping[str, Tensor], last: bool) -> tuple[Tensor, State]:
        """A chunk of a stream, [B, n] samples -> the mel frames [B, m, n_mels] that are complete, and the new state.

        All frames together equal `forward` of the whole waveform; a stream without any samples has none.
        """
        samples = torch.cat((state["tail"], waveform.float()), dim=-1)
        mel = samples.new_zeros(samples.shape[0], 0, self.config.n_mels)
        started = bool(state["started"])
        if not started and samples.shape[-1] <= self.pad:
            if last and samples.shape[-1]:
                return self(samples), {"tail": samples[:, :0], "started": torch.tensor(True)}
            return mel, {"tail": samples, "started": state["started"]}
        if not started:
            samples = F.pad(samples, (self.pad, 0), mode="reflect")
        if last:
            samples = F.pad(samples, (0, self.pad), mode="reflect")
        hop = self.config.hop_length
        num_mels = max((samples.shape[-1] - self.config.n_fft) // hop + 1, 0)
        if num_mels:
            mel = self._frames(samples, num_mels)
        return mel, {"tail": samples[:, num_mels * hop :], "started": torch.tensor(True)}
