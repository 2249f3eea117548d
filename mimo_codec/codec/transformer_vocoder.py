"""Transformer-Vocos, the released vocoder (MiMo-Audio technical report, arXiv 2512.23808, section 2.1.1)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mimo_codec.codec.choices import TransformerVocoderConfig
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.linear import Linear
from mimo_codec.codec.streaming import State
from mimo_codec.codec.transformer import Position, Transformer, make_norm
from mimo_codec.codec.vocoder import SpectrumHead, Vocoder


class TransformerVocoder(Vocoder):
    """Transformer layers with windowed attention; names as in the released checkpoint."""

    def __init__(self, config: CodecConfig):
        """Random weights, of the sizes in `config.vocoder`."""
        super().__init__()
        c = config.vocoder
        assert isinstance(c, TransformerVocoderConfig)
        self.embeddings = Linear(config.mel.n_mels, c.dim, bias=False)
        self.layers = Transformer(
            c.dim, c.num_heads, c.ffn_dim, (c.window,) * c.num_layers, config.norm, config.activation, config.rope_theta
        )
        self.layer_norm = make_norm(config.norm, c.dim)
        self.head = SpectrumHead(c.dim, config.mel.n_fft, config.mel.hop_length)

    @property
    def look_ahead(self) -> int:
        """Mel frames after an output frame on which it depends."""
        return self.layers.look_ahead

    def hidden(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mel [B, M, n_mels] -> hidden frames [B, M, D]; lengths [B]: mel frames per item."""
        hidden: Tensor = self.layer_norm(self.layers(self.embeddings(mel), lengths))
        return hidden

    def initial_hidden_state(self, batch: int) -> State:
        """State of the layers before the first mel frame."""
        return self.layers.initial_state(batch, self.embeddings.weight)

    def step_hidden(
        self, mel: Tensor, state: Mapping[str, Tensor], start: Position, end: Position | None = None
    ) -> tuple[Tensor, State]:
        """A chunk of a stream: mel [B, n, n_mels] -> hidden frames [B, n, D], `look_ahead` late, and the new state."""
        x, new_state = self.layers.step(self.embeddings(mel), state, start, end)
        return self.layer_norm(x), new_state
