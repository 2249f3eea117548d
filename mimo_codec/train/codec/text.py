"""Audio to text: a causal language model that reads quantized speech and continues with its transcript."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mimo_codec.codec.transformer import Transformer
from mimo_codec.common.errors import MimoError
from mimo_codec.train.codec.losses import IGNORED


class TextTokenizer(Protocol):
    """Text <-> token ids below `vocab_size`; `end` closes every text."""

    vocab_size: int
    end: int

    def encode(self, text: str) -> list[int]: ...


class ByteTokenizer:
    """UTF-8 bytes and an end token: nothing to train, any language."""

    vocab_size, end = 257, 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))


class HubTokenizer:
    """Any Hugging Face tokenizer by hub id or folder; needs the `lm` extra."""

    def __init__(self, name_or_path: str):
        try:
            from transformers import AutoTokenizer
        except ImportError:
            raise MimoError("transformers is not installed: pip install 'mimo-codec[lm]'") from None
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MimoError(f"text tokenizer {name_or_path!r} cannot be loaded ({reason})") from None
        # one id more than the tokenizer has: not every tokenizer has an end of its own
        self.vocab_size, self.end = len(self._tokenizer) + 1, len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def make_tokenizer(name: str) -> TextTokenizer:
    """ "bytes", or the name of a Hugging Face tokenizer."""
    return ByteTokenizer() if name == "bytes" else HubTokenizer(name)


def unigram_entropy(texts: Sequence[str], tokenizer: TextTokenizer) -> float:
    """Nats per token of the texts when tokens are guessed by their frequency alone: what a model that neither listens
    nor knows any context would reach."""
    counts = Counter(token for text in texts for token in (*tokenizer.encode(text), tokenizer.end))
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


class TextModel(nn.Module):
    """The causal text LLM of stage 1 (section 2.1.2): quantized frames as prefix, next-token prediction on the text.

    Args:
        audio_dim: width D of the quantized frames.
        vocab_size: of the tokenizer.
        dim, num_layers, num_heads: of the Transformer; its feed-forward layers are 4 dim wide.
    """

    def __init__(self, audio_dim: int, vocab_size: int, dim: int = 256, num_layers: int = 4, num_heads: int = 4):
        super().__init__()
        self.project = nn.Linear(audio_dim, dim)
        self.embed = nn.Embedding(vocab_size, dim)
        windows = ((-1, 0),) * num_layers
        self.layers = Transformer(dim, num_heads, 4 * dim, windows, "RMSNorm", "gelu", 10000.0)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, vocab_size, bias=False)

    def forward(
        self, quantized: Tensor, num_frames: Sequence[int], texts: Sequence[Sequence[int]], end: int
    ) -> tuple[Tensor, Tensor]:
        """quantized [B, T, D], of which num_frames[b] frames are speech; texts: B lists of token ids, closed by `end`.

        Returns logits [B, L, V] and targets [B, L] (see `losses.text_loss`): position i predicts what stands at i + 1,
        and the last frame of the speech the first token.
        """
        device = quantized.device
        frames = self.project(quantized)
        rows, targets = [], []
        for item, count, text in zip(frames, num_frames, texts, strict=True):
            tokens = torch.tensor([*text, end], device=device)
            rows.append(torch.cat((item[:count], self.embed(tokens[:-1]).to(item.dtype))))
            targets.append(torch.cat((tokens.new_full((count - 1,), IGNORED), tokens)))
        x = pad_sequence(rows, batch_first=True)  # causal attention: no real position sees the padding behind it
        logits = self.head(self.norm(self.layers(x)))
        return logits, pad_sequence(targets, batch_first=True, padding_value=IGNORED)
