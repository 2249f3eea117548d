"""A language model and its losses as one module: what runs, is shared out and is compiled in a step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.train.lm.losses import CHUNK, EMPTY_WEIGHT, Terms, channel_losses, cross_entropy_in_chunks, right_codes
from mimo_codec.train.lm.pack import Pack


class TrainedLanguageModel(nn.Module):
    """Predicts every trained position of a pack from the position before it, given the true ones.

    Every network runs in every step, on one position that counts nothing where a pack has no audio, so that all
    processes have gradients of the same parameters.
    """

    def __init__(
        self,
        model: SpeechLanguageModel,
        empty_weight: float = EMPTY_WEIGHT,
        chunk: int = CHUNK,
        speaks: bool = True,
    ):
        """Wrap a model.

        Args:
            model: the networks.
            empty_weight: what `<|empty|>` counts as a target.
            chunk: rows of text logits that are in memory at once.
            speaks: whether to predict codes; without, the patch decoder does not run and its losses are 0.
        """
        super().__init__()
        self.model, self.empty_weight, self.chunk, self.speaks = model, empty_weight, chunk, speaks

    def checkpoint_layers(self) -> None:
        """Keep only the inputs of layers, and compute the rest again in the backward pass."""
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of stacks without token embeddings
        for stack in self._stacks():  # the first name is that of transformers since 5.24
            enable = getattr(stack, "activation_checkpointing_enable", None) or stack.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        logging.set_verbosity(verbosity)

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
        text = self._text_loss(hidden[predicted - 1], pack.tokens[predicted])[None]
        counts = self.count(pack)
        if not self.speaks:
            return Terms(F.pad(text, (0, len(counts) - 1)), counts, torch.zeros_like(counts))
        channels, right = self._channel_losses(hidden, self._audio(pack), pack.patches)
        return Terms(torch.cat((text, channels)), counts, right if right is None else F.pad(right, (1, 0)))

    def count(self, pack: Pack) -> Tensor:
        """What the predictions of a pack count [1 + C], as `forward` does."""
        tokens = pack.tokens[pack.trained]
        text = self._text_weights(tokens).sum()
        codes = (tokens == self.model.empty_id).sum() * pack.patches.shape[2] * self.speaks
        return torch.cat((text[None], codes.float().expand(pack.patches.shape[1])))

    def _audio(self, pack: Pack) -> Tensor:
        """Positions of the patches that are predicted [N]."""
        return (pack.trained & (pack.tokens == self.model.empty_id)).nonzero()[:, 0]

    def _text_weights(self, targets: Tensor) -> Tensor:
        return torch.where(targets == self.model.empty_id, self.empty_weight, 1.0).float()

    def _embed(self, pack: Pack) -> Tensor:
        """Embed a pack as [P, H]; see `SpeechLanguageModel.embed`."""
        is_audio = pack.tokens == self.model.empty_id
        text: Tensor = self.model.model.embed_tokens(pack.tokens).masked_fill(is_audio[:, None], 0)
        some = _or_first(is_audio.nonzero()[:, 0])
        encoded = self.model.encode_patches(pack.patches[some]) * is_audio[some, None]
        return text.index_add(0, some, encoded.to(text.dtype))

    def _text_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        weights = self._text_weights(targets)
        return cross_entropy_in_chunks(hidden, self.model.lm_head, targets, weights, self.chunk)

    def _channel_losses(self, hidden: Tensor, positions: Tensor, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sums [C] of the losses of the patches at `positions` [N]; in evaluation also how many codes are right [C]."""
        some = _or_first(positions)
        weights = torch.full_like(some, len(positions) > 0, dtype=torch.float32)
        true = patches[some]
        logits = self.model.patch_logits(self.model.seeds(hidden[(some - 1).clamp(min=0)]), true)
        right = None if self.training else right_codes(logits, true, weights)
        return channel_losses(logits, true, weights), right


def _or_first(positions: Tensor) -> Tensor:
    """Positions [N], or position 0 where there is none."""
    return positions if len(positions) else positions.new_zeros(1)
