"""A language model and its losses as one module: what runs, is shared out and is compiled in a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.train.lm.losses import CHUNK, EMPTY_WEIGHT, Terms, channel_losses, cross_entropy_in_chunks
from mimo_codec.train.lm.pack import Pack


class TrainedLanguageModel(nn.Module):
    """Predicts every trained position of a pack from the position before it, given the true ones.

    Every network runs in every step, on one position that counts nothing where a pack has no audio, so that all
    processes have gradients of the same parameters.
    """

    def __init__(self, model: SpeechLanguageModel, empty_weight: float = EMPTY_WEIGHT, chunk: int = CHUNK):
        """Args: the model; what `<|empty|>` counts as a target; rows of text logits that are in memory at once."""
        super().__init__()
        self.model, self.empty_weight, self.chunk = model, empty_weight, chunk

    def checkpoint_layers(self) -> None:
        """Keep only the inputs of layers, and compute the rest again in the backward pass."""
        for stack in self._stacks():
            stack.gradient_checkpointing_enable({"use_reentrant": False})

    def set_attention_dropout(self, share: float) -> None:
        """Leave out this share of the attention weights in training."""
        for stack in self._stacks():
            for layer in stack.layers:
                layer.self_attn.attention_dropout = share

    def _stacks(self) -> list[Any]:
        return [self.model.model, self.model.input_local_transformer, self.model.local_transformer]

    def forward(self, pack: Pack) -> Terms:
        """Losses of a pack: sums and counts [1 + C]."""
        predicted = pack.trained.nonzero()[:, 0]
        hidden = self.model.run_packed(self._embed(pack), pack.lengths)
        text, text_count = self._text_loss(hidden[predicted - 1], pack.tokens[predicted])
        is_audio = pack.tokens[predicted] == self.model.empty_id
        channels, num_codes = self._channel_losses(hidden, predicted[is_audio], pack.patches)
        counts = torch.cat((text_count[None], num_codes.expand(len(channels))))
        return Terms(torch.cat((text[None], channels)), counts)

    def _embed(self, pack: Pack) -> Tensor:
        """Embed a pack as [P, H]; see `SpeechLanguageModel.embed`."""
        is_audio = pack.tokens == self.model.empty_id
        text: Tensor = self.model.model.embed_tokens(pack.tokens).masked_fill(is_audio[:, None], 0)
        some = _or_first(is_audio.nonzero()[:, 0])
        encoded = self.model.encode_patches(pack.patches[some]) * is_audio[some, None]
        return text.index_add(0, some, encoded.to(text.dtype))

    def _text_loss(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.where(targets == self.model.empty_id, self.empty_weight, 1.0)
        return cross_entropy_in_chunks(hidden, self.model.lm_head, targets, weights, self.chunk), weights.sum()

    def _channel_losses(self, hidden: Tensor, positions: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Sums [C] of the losses of the patches at `positions` [N], and how many codes of a channel they are []."""
        some = _or_first(positions)
        weights = torch.full_like(some, len(positions) > 0, dtype=torch.float32)
        true = patches[some]
        logits = self.model.patch_logits(self.model.seeds(hidden[(some - 1).clamp(min=0)]), true)
        return channel_losses(logits, true, weights), weights.sum() * patches.shape[2]


def _or_first(positions: Tensor) -> Tensor:
    """Positions [N], or position 0 where there is none."""
    return positions if len(positions) else positions.new_zeros(1)
