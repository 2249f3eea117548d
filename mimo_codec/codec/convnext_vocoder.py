"""ConvNeXt-Vocos: the backbone of Vocos itself (Siuzdak 2023, arXiv 2306.00814, section 3.2), causal unless told."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.choices import ConvNeXtVocoderConfig
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.linear import Linear
from mimo_codec.codec.streaming import State
from mimo_codec.codec.transformer import ACTIVATIONS, Position, length_mask, make_norm
from mimo_codec.codec.vocoder import SpectrumHead, Vocoder

KERNEL_SIZE = 7


class StreamingConv(nn.Conv1d):
    """A convolution over 7 frames, `right` of which come after the output frame; outside of a sequence are zeros."""

    def __init__(self, dim_in: int, dim_out: int, right: int, groups: int = 1):
        """Channels in and out, and how many of the 7 frames come after the output frame."""
        super().__init__(dim_in, dim_out, KERNEL_SIZE, groups=groups)
        self.left, self.right = KERNEL_SIZE - 1 - right, right

    def initial_state(self, batch: int) -> Tensor:
        """Zeros [B, left + right, dim_in]: what stands before a stream."""
        return self.weight.new_zeros(batch, self.left + self.right, self.in_channels)

    def convolve(self, x: Tensor) -> Tensor:
        """Frames x [B, left + n + right, dim_in] -> [B, n, dim_out]."""
        y: Tensor = self(x.transpose(1, 2))
        return y.transpose(1, 2)

    def pad(self, x: Tensor) -> Tensor:
        """Frames x [B, n, dim_in] -> [B, left + n + right, dim_in], with zeros at both ends."""
        return F.pad(x, (0, 0, self.left, self.right))


class ConvNeXtLayer(nn.Module):
    """x + scale * mlp(norm(depthwise convolution(x))), names as in Vocos."""

    def __init__(self, config: CodecConfig, right: int):
        """right: frames after an output frame on which it depends."""
        super().__init__()
        c = config.vocoder
        self.dwconv = StreamingConv(c.dim, c.dim, right, groups=c.dim)
        self.norm = make_norm(config.norm, c.dim)
        self.pwconv1 = Linear(c.dim, c.ffn_dim)
        self.activation = ACTIVATIONS[config.activation]
        self.pwconv2 = Linear(c.ffn_dim, c.dim)
        self.gamma = nn.Parameter(torch.full((c.dim,), 1 / c.num_layers))

    def forward(self, padded: Tensor) -> Tensor:
        """Frames with those before and after them [B, left + n + right, D] -> [B, n, D]."""
        hidden: Tensor = self.pwconv2(self.activation(self.pwconv1(self.norm(self.dwconv.convolve(padded)))))
        return padded[:, self.dwconv.left : padded.shape[1] - self.dwconv.right] + self.gamma * hidden


class ConvNeXtVocoder(Vocoder):
    """A convolution, ConvNeXt layers and a norm; a stream has the frames of the whole sequence.

    Causal layers look 6 frames back and need no frame that is still to come; otherwise each looks 3 frames back and 3
    ahead, as in Vocos, and a stream is late by as many.
    """

    def __init__(self, config: CodecConfig):
        """Random weights, of the sizes in `config.vocoder`."""
        super().__init__()
        c = config.vocoder
        assert isinstance(c, ConvNeXtVocoderConfig)
        right = 0 if c.causal else KERNEL_SIZE // 2
        self.embed = StreamingConv(config.mel.n_mels, c.dim, right)
        self.norm = make_norm(config.norm, c.dim)
        self.convnext = nn.ModuleList(ConvNeXtLayer(config, right) for _ in range(c.num_layers))
        self.final_layer_norm = make_norm(config.norm, c.dim)
        self.head = SpectrumHead(c.dim, config.mel.n_fft, config.mel.hop_length)

    @property
    def look_ahead(self) -> int:
        """Mel frames after an output frame on which it depends."""
        return self.embed.right * (1 + len(self.convnext))

    @property
    def layers(self) -> list[ConvNeXtLayer]:
        """The ConvNeXt layers, the first one first."""
        return [layer for layer in self.convnext if isinstance(layer, ConvNeXtLayer)]

    def hidden(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mel [B, M, n_mels] -> hidden frames [B, M, D]; lengths [B]: mel frames per item."""
        valid = mel.new_ones(1, mel.shape[1]) if lengths is None else length_mask(lengths, mel.shape[1])
        valid = valid[..., None].to(mel.dtype)
        x = self.norm(self.embed.convolve(self.embed.pad(mel * valid)))
        for layer in self.layers:
            x = layer(layer.dwconv.pad(x * valid))
        hidden: Tensor = self.final_layer_norm(x)
        return hidden

    def initial_hidden_state(self, batch: int) -> State:
        """Zeros: for each convolution the frames before the first."""
        layers = {f"convnext.{index}": layer.dwconv.initial_state(batch) for index, layer in enumerate(self.layers)}
        return {"embed": self.embed.initial_state(batch), **layers}

    def step_hidden(
        self, mel: Tensor, state: Mapping[str, Tensor], start: Position, end: Position | None = None
    ) -> tuple[Tensor, State]:
        """A chunk of a stream: mel [B, n, n_mels] -> hidden frames [B, n, D], `look_ahead` late, and the new state."""
        size = mel.shape[1]
        padded = torch.cat((state["embed"], mel * self._valid(mel, start, end)), dim=1)
        new_state = {"embed": padded[:, size:]}
        x = self.norm(self.embed.convolve(padded))
        for index, layer in enumerate(self.layers):
            start = start - self.embed.right
            name = f"convnext.{index}"
            padded = torch.cat((state[name], x * self._valid(x, start, end)), dim=1)
            new_state[name] = padded[:, size:]
            x = layer(padded)
        return self.final_layer_norm(x), new_state

    @staticmethod
    def _valid(x: Tensor, start: Position, end: Position | None) -> Tensor:
        """[n, 1] in the dtype of x [B, n, D]: 1 for positions start.. that are inside the stream, 0 for others."""
        positions = start + torch.arange(x.shape[1], device=x.device)
        valid = positions >= 0
        if end is not None:
            valid = valid & (positions < end)
        return valid[:, None].to(x.dtype)
