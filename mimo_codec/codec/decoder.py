"""Quantized [B, T, D] -> coarse mel [B, M, n_mels]: transposed convolutions and, between them, Transformer layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.streaming import State, scope, scoped
from mimo_codec.codec.transformer import Transformer, length_mask, make_norm
from mimo_codec.codec.vocoder import make_vocoder


class UpsampleConv(nn.Module):
    """Transposed convolution, normalisation, and the last kernel - stride frames dropped.

    "group": one group, mean and variance over channels and time of the whole sequence (the dropped frames included, as
    released). "frame": over the channels of each frame.
    """

    def __init__(self, dim_in: int, dim_out: int, kernel_size: int, stride: int, norm: str):
        """norm: "group" or "frame"."""
        super().__init__()
        self.stride, self.extra, self.per_frame = stride, kernel_size - stride, norm == "frame"
        self.conv = nn.ConvTranspose1d(dim_in, dim_out, kernel_size, stride)
        self.norm = nn.GroupNorm(1, dim_out)

    def _scale(self, x: Tensor, stats: Tensor) -> Tensor:
        """Normalise x [B, T, D] by stats [B, 3]: count, mean and summed squared deviations of each item's values."""
        count, mean, deviations = stats[:, :, None, None].unbind(1)
        normed = (x.float() - mean) / (deviations / count + self.norm.eps).sqrt()
        return (normed * self.norm.weight + self.norm.bias).to(x.dtype)

    @staticmethod
    def _merge(stats: Tensor, x: Tensor) -> Tensor:
        """Statistics [B, 3] of the values so far and of x [B, T, D] together (Chan, Golub and LeVeque 1979)."""
        count, mean, deviations = stats.unbind(1)
        x = x.float().flatten(1)
        total = count + x.shape[1]
        variance, new_mean = torch.var_mean(x, dim=1, correction=0)
        share, step = x.shape[1] / total, new_mean - mean
        deviations = deviations + x.shape[1] * variance + step.square() * count * share
        return torch.stack((total, mean + step * share, deviations), dim=1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`x` [B, T, D] -> [B, stride T, D_out]; lengths [B]: valid input frames of a right-padded batch."""
        if lengths is not None:
            x = x * length_mask(lengths, x.shape[1])[..., None]
        y = self.conv(x.transpose(1, 2))
        if self.per_frame:
            y = F.layer_norm(y.transpose(1, 2), y.shape[1:2], self.norm.weight, self.norm.bias, self.norm.eps)
        elif lengths is None:
            y = self.norm(y).transpose(1, 2)
        else:
            ends = (lengths * self.stride + self.extra).tolist()
            items = (self.norm(item[None, :, :end]) for item, end in zip(y, ends, strict=True))
            y = torch.cat([F.pad(item, (0, y.shape[2] - item.shape[2])) for item in items]).transpose(1, 2)
        return y[:, : y.shape[1] - self.extra]

    def initial_state(self, batch: int) -> State:
        """State before the first frame."""
        weight = self.conv.weight
        stats = weight.new_zeros(batch, 3, dtype=torch.float32)
        return {"x": weight.new_zeros(batch, 1 if self.extra else 0, weight.shape[0]), "stats": stats}

    def step(self, x: Tensor, state: Mapping[str, Tensor], last: bool) -> tuple[Tensor, State]:
        """A chunk of a stream: x [B, n, D] -> [B, stride n, D_out] and the new state.

        With "group" the statistics are those of the stream so far, not of all of it.
        """
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[0], 0, self.norm.num_channels), dict(state)
        carried = state["x"]
        y = self.conv(torch.cat((carried, x), dim=1).transpose(1, 2)).transpose(1, 2)
        y = y[:, carried.shape[1] * self.stride :]
        kept = y[:, : x.shape[1] * self.stride]
        stats = state["stats"]
        if self.per_frame:
            kept = F.layer_norm(kept, kept.shape[2:], self.norm.weight, self.norm.bias, self.norm.eps)
        else:
            stats = self._merge(stats, y if last else kept)
            kept = self._scale(kept, stats)
        return kept, {"x": torch.cat((carried, x), dim=1)[:, x.shape[1] :], "stats": stats}


class Decoder(nn.Module):
    """The paper's audio decoder (section 2.1.1) with its vocoder, names as in the released checkpoint."""

    def __init__(self, config: CodecConfig):
        """Random weights."""
        super().__init__()
        c, dim = config.decoder, config.d_model
        pool = config.encoder.pool
        self.mels_per_frame = config.mels_per_frame
        self.pool = pool
        if pool > 1:
            self.dconv1 = UpsampleConv(dim, dim, pool, pool, c.conv_norm)
        self.layers = Transformer(
            dim, c.num_heads, c.ffn_dim, c.layer_windows(), config.norm, config.activation, config.rope_theta
        )
        self.layer_norm = make_norm(config.norm, dim)
        self.dconv2 = UpsampleConv(dim, config.mel.n_mels, c.kernel_size, c.stride, c.conv_norm)
        self.vocoder = make_vocoder(config)

    def coarse_mel(self, quantized: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`quantized` [B, T, D] -> [B, M, n_mels]; lengths [B]: code frames per item."""
        x = quantized
        if self.pool > 1:
            x = self.dconv1(x, lengths)
            lengths = None if lengths is None else lengths * self.pool
        return self.dconv2(self.layer_norm(self.layers(x, lengths)), lengths)

    def forward(self, quantized: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`quantized` [B, T, D] -> waveform [B, T samples_per_frame] float32; lengths [B]: code frames per item.

        Every item gives what it gives alone; samples beyond its own end hold anything.
        """
        if lengths is not None and bool((lengths == quantized.shape[1]).all()):
            lengths = None
        mel = self.coarse_mel(quantized, lengths)
        return self.vocoder(mel, None if lengths is None else lengths * self.mels_per_frame)

    def initial_state(self, batch: int) -> State:
        """State before the first frame."""
        parts = {
            "layers": self.layers.initial_state(batch, self.dconv2.conv.weight),
            "dconv2": self.dconv2.initial_state(batch),
            "vocoder": self.vocoder.initial_state(batch),
        }
        if self.pool > 1:
            parts["dconv1"] = self.dconv1.initial_state(batch)
        return _joined(torch.zeros((), dtype=torch.int64), parts)

    def step(self, quantized: Tensor, state: Mapping[str, Tensor], last: bool) -> tuple[Tensor, State]:
        """A chunk of a stream: quantized [B, n, D] -> waveform [B, m] float32 and the new state.

        All samples together are those of `forward`: each step returns what is complete, `last` the rest.
        """
        parts = {part: scoped(state, part) for part in ("dconv1", "layers", "dconv2", "vocoder")}
        start = int(state["num_frames"])
        x = quantized
        if self.pool > 1:
            x, parts["dconv1"] = self.dconv1.step(x, parts["dconv1"], last)
        x, parts["layers"] = self.layers.step(x, parts["layers"], start * self.pool)
        mel, parts["dconv2"] = self.dconv2.step(self.layer_norm(x), parts["dconv2"], last)
        first, end = start * self.mels_per_frame, None
        if last:
            end = first + mel.shape[1]
            mel = F.pad(mel, (0, 0, 0, self.vocoder.flush_frames))
        waveform, parts["vocoder"] = self.vocoder.step(mel, parts["vocoder"], first, end)
        begin = first * self.vocoder.head.istft.hop_length - self.vocoder.delay  # number of the first sample
        waveform = waveform[:, max(-begin, 0) :]
        if end is not None:
            waveform = waveform[:, : end * self.vocoder.head.istft.hop_length - max(begin, 0)]
        return waveform, _joined(state["num_frames"] + quantized.shape[1], parts)


def _joined(num_frames: Tensor, parts: Mapping[str, State]) -> State:
    """The state of a decoder: code frames done, and the states of its parts."""
    state = {"num_frames": num_frames}
    for name, part in parts.items():
        state |= scope(part, name)
    return state
