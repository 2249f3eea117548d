"""What every vocoder is: coarse mel [B, M, n_mels] -> waveform [B, S], in the manner of Vocos (Siuzdak 2023).

`Vocoder` is the contract: layers that give one hidden frame for each mel frame, a spectrum head and an inverse STFT.
The kinds of vocoders, such as the released Transformer-Vocos (`transformer_vocoder`), are its subclasses and differ in
their layers; `mimo_codec.codec.choices` lists them, and `make_vocoder` makes the one that a configuration asks for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.choices import VOCODERS, find_class
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.linear import Linear
from mimo_codec.codec.streaming import State, scope, scoped
from mimo_codec.codec.transformer import Position, length_mask
from mimo_codec.common.rounding import ceil_div

MAX_LOG_MAGNITUDE = math.log(100.0)
ENVELOPE_FLOOR = 1e-11  # only reached where every frame is masked, so that 0 / 0 stays 0


class InverseSTFT(nn.Module):
    """Overlap-add of windowed frames, divided by the window envelope; cut to hop_length samples a frame ("same")."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int):
        """A periodic Hann window of n_fft samples, every hop_length samples."""
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.cut = (n_fft - hop_length) // 2
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float32))

    def overlap_add(self, spectrum: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum [B, M, n_fft // 2 + 1] complex, valid [B, M] in {0, 1} -> signal and envelope.

        Each is [B, (M - 1) hop_length + n_fft], and they are not yet divided.
        """
        window = self.window.float()
        frames = torch.fft.irfft(spectrum, self.n_fft) * window * valid[..., None]
        squares = valid[..., None] * window.square()
        size = ((frames.shape[1] - 1) * self.hop_length + self.n_fft, 1)
        signal, envelope = (
            F.fold(x.transpose(1, 2), size, (self.n_fft, 1), stride=(self.hop_length, 1))[:, 0, :, 0]
            for x in (frames, squares)
        )
        return signal, envelope

    def forward(self, spectrum: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Spectrum [B, M, n_fft // 2 + 1] complex -> waveform [B, M hop_length]; lengths [B]: valid frames."""
        num_frames = spectrum.shape[1]
        valid = spectrum.real.new_ones(1, num_frames)
        if lengths is not None:
            valid = length_mask(lengths, num_frames).to(valid.dtype)
        signal, envelope = self.overlap_add(spectrum, valid)
        waveform = signal / envelope.clamp(min=ENVELOPE_FLOOR)
        return waveform[:, self.cut : self.cut + num_frames * self.hop_length]


class SpectrumHead(nn.Module):
    """Linear to log-magnitudes and phases, then the inverse STFT; float32 from the linear layer on."""

    def __init__(self, dim: int, n_fft: int, hop_length: int):
        """Width of the hidden frames, and sizes of the inverse STFT."""
        super().__init__()
        self.out = Linear(dim, n_fft + 2)
        self.istft = InverseSTFT(n_fft, hop_length)

    def spectrum(self, x: Tensor) -> Tensor:
        """Frames x [B, M, D] -> complex [B, M, n_fft // 2 + 1]."""
        magnitude, phase = self.out(x).float().chunk(2, dim=-1)
        magnitude = magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp()  # in this order overflow has gradients, of zero
        return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


class Vocoder(nn.Module, ABC):
    """Layers, spectrum head and inverse STFT, at once or in chunks of a stream.

    A subclass makes the layers and the head; its constructor takes a CodecConfig. `hidden` and `step_hidden` are also
    what is exported to ONNX, so they have no branches and loops over sizes outside of Transformers, which the graphs
    replace.
    """

    head: SpectrumHead

    # ---- what a subclass says ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def look_ahead(self) -> int:
        """Mel frames after an output frame on which it depends."""

    @abstractmethod
    def hidden(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mel [B, M, n_mels] -> hidden frames [B, M, D]; lengths [B]: mel frames per item.

        Every item of a batch gives what it gives alone; frames beyond its own end hold anything.
        """

    @abstractmethod
    def initial_hidden_state(self, batch: int) -> State:
        """State of the layers before the first mel frame."""

    @abstractmethod
    def step_hidden(
        self, mel: Tensor, state: Mapping[str, Tensor], start: Position, end: Position | None = None
    ) -> tuple[Tensor, State]:
        """A chunk of a stream: mel [B, n, n_mels] at positions start.. -> hidden frames [B, n, D] and the new state.

        The frames are those of `hidden`, `look_ahead` positions late; at positions below 0 they hold anything.
        end: length of the stream in frames once known; later positions are padding.
        """

    # ---- written once --------------------------------------------------------------------------------------------

    @property
    def delay(self) -> int:
        """Samples by which `step`'s output lags behind its input."""
        return self.look_ahead * self.head.istft.hop_length + self.head.istft.cut

    @property
    def flush_frames(self) -> int:
        """Mel frames of padding that bring out the last samples of a stream."""
        return ceil_div(self.delay, self.head.istft.hop_length)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mel [B, M, n_mels] -> waveform [B, M hop_length] float32; lengths [B]: mel frames per item."""
        waveform: Tensor = self.head.istft(self.head.spectrum(self.hidden(mel, lengths)), lengths)
        return waveform

    def initial_state(self, batch: int) -> State:
        """State before the first mel frame: that of the layers, and samples that later frames add to."""
        istft = self.head.istft
        zeros = istft.window.new_zeros(batch, istft.n_fft - istft.hop_length, dtype=torch.float32)
        return {"signal": zeros, "envelope": zeros, **scope(self.initial_hidden_state(batch), "layers")}

    def step(
        self, mel: Tensor, state: Mapping[str, Tensor], start: int, end: int | None = None
    ) -> tuple[Tensor, State]:
        """A chunk of a stream: mel [B, n, n_mels] at positions start.. -> [B, n hop_length] samples, `delay` late.

        The first sample returned is number start * hop_length - delay of the stream; those before 0 are silence.
        end: length of the stream in frames once known; later positions are padding.
        """
        istft = self.head.istft
        hidden, layers = self.step_hidden(mel, scoped(state, "layers"), start, end)
        first = start - self.look_ahead
        positions = torch.arange(first, first + mel.shape[1], device=mel.device)
        valid = positions >= 0
        if end is not None:
            valid = valid & (positions < end)
        signal, envelope = istft.overlap_add(self.head.spectrum(hidden), valid.float().expand(mel.shape[0], -1))
        done, tail = mel.shape[1] * istft.hop_length, istft.n_fft - istft.hop_length
        signal = signal + F.pad(state["signal"], (0, signal.shape[1] - tail))
        envelope = envelope + F.pad(state["envelope"], (0, envelope.shape[1] - tail))
        waveform = signal[:, :done] / envelope[:, :done].clamp(min=ENVELOPE_FLOOR)
        return waveform, {"signal": signal[:, done:], "envelope": envelope[:, done:], **scope(layers, "layers")}


def make_vocoder(config: CodecConfig) -> Vocoder:
    """The vocoder that a configuration asks for, with random weights."""
    kind = cast("type[Vocoder]", find_class(VOCODERS, config.vocoder))
    return kind(config)
