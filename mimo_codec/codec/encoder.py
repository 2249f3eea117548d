"""Log-mel [B, M, n_mels] -> features [B, T, D]: convolutions to 50 Hz, Transformer layers, pooling to 25 Hz."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.streaming import MEL_CONTEXT, State, code_frames, mel_look_ahead, scope, scoped
from mimo_codec.codec.transformer import ACTIVATIONS, Transformer, length_mask, make_norm


class Encoder(nn.Module):
    """The paper's audio encoder (section 2.1.1), names as in the released checkpoint."""

    def __init__(self, config: CodecConfig):
        """Random weights."""
        super().__init__()
        c, dim = config.encoder, config.d_model
        self.stride, self.pool = c.stride, c.pool
        self.activation = ACTIVATIONS[config.activation]
        self.conv1 = nn.Conv1d(config.mel.n_mels, dim, 3)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=c.stride)
        self.layers = Transformer(
            dim,
            c.num_heads,
            c.ffn_dim,
            c.layer_windows(),
            config.norm,
            config.activation,
            config.rope_theta,
            c.skip_layer,
        )
        self.layer_norm = make_norm(config.norm, dim)
        if c.pool > 1:
            self.down_sample_layer = nn.Sequential(nn.Conv1d(dim, dim, c.pool, stride=c.pool, bias=False))
            self.down_sample_norm = make_norm(config.norm, dim)

    def _convolve(self, mel: Tensor, at_start: bool, at_end: bool, lengths: Tensor | None = None) -> Tensor:
        """`mel` [B, M, n_mels] -> [B, J, D]; a real start or end is padded with one zero frame before each convolution.

        Frames of a shorter item beyond its length are set to zero in between, so that it sees what it sees alone.
        """
        pad = (int(at_start), int(at_end))
        x = self.activation(self.conv1(F.pad(mel.transpose(1, 2), pad)))
        if lengths is not None:
            x = x * length_mask(lengths, x.shape[-1])[:, None]
        return self.activation(self.conv2(F.pad(x, pad))).transpose(1, 2)

    def _pool(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[B, J, D] -> [B, ceil(J / pool), D], zero-padded to a multiple of pool."""
        x = self.layer_norm(x)
        if self.pool == 1:
            return x
        if lengths is not None:
            x = x * length_mask(lengths, x.shape[1])[..., None]
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.pool))
        x = self.activation(self.down_sample_layer(x.transpose(1, 2))).transpose(1, 2)
        return self.down_sample_norm(x)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`mel` [B, M, n_mels]; lengths [B]: mel frames per item of a right-padded batch -> features [B, T, D].

        Every item gives what it gives alone; frames beyond its own T hold anything.
        """
        if lengths is not None and bool((lengths == mel.shape[1]).all()):
            lengths = None
        if lengths is not None:
            mel = mel * length_mask(lengths, mel.shape[1])[..., None]
        x = self._convolve(mel, True, True, lengths)
        lengths = None if lengths is None else (lengths - 1) // self.stride + 1
        return self._pool(self.layers(x, lengths), lengths)

    def initial_state(self, batch: int) -> State:
        """State before the first mel frame."""
        weight = self.conv1.weight
        return {
            "mel": weight.new_zeros(batch, 0, weight.shape[1]),
            "num_frames": torch.zeros((), dtype=torch.int64),
            **scope(self.layers.initial_state(batch, weight), "layers"),
        }

    def step(self, mel: Tensor, state: Mapping[str, Tensor], last: bool) -> tuple[Tensor, State]:
        """A chunk of a stream (causal encoders): mel [B, m, n_mels] -> features [B, n, D] that are complete.

        state["mel"] holds the mel frames that later features still need: those not used yet, and two before them.
        """
        mel = torch.cat((state["mel"], mel.to(state["mel"].dtype)), dim=1)
        start = int(state["num_frames"])  # code frames done
        context = 0 if start == 0 else MEL_CONTEXT
        per_frame, look_ahead = self.stride * self.pool, mel_look_ahead(self.stride)
        available = mel.shape[1] - context
        if last:
            num_frames = code_frames(available, self.stride, self.pool)
        else:
            num_frames = max((available - look_ahead) // per_frame, 0)
            if start == 0 and num_frames * per_frame < MEL_CONTEXT:  # those before the next call's first
                num_frames = 0
        if num_frames == 0:
            return mel.new_zeros(mel.shape[0], 0, self.conv2.out_channels), {**state, "mel": mel}
        done = context + num_frames * per_frame
        x = self._convolve(mel if last else mel[:, : done + look_ahead], at_start=start == 0, at_end=last)
        x, layers = self.layers.step(x, scoped(state, "layers"), start * self.pool)
        new_state = {
            "mel": mel[:, max(done - MEL_CONTEXT, 0) :],
            "num_frames": state["num_frames"] + num_frames,
            **scope(layers, "layers"),
        }
        return self._pool(x), new_state
