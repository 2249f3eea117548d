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
from mimo_codec.common.checks import needs_extra, wrap_errors
from mimo_codec.train.codec.losses import IGNORED


class TextTokenizer(Protocol):
    """Text <-> token ids below `vocab_size`; `end` closes every text."""

    vocab_size: int
    end: int

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without `end`."""
        ...


class ByteTokenizer:
    """UTF-8 bytes and an end token: nothing to train, any language."""

    vocab_size, end = 257, 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode("utf-8"))


class HubTokenizer:
    """Any Hugging Face tokenizer by hub id or folder; needs the `lm` extra."""

    def __init__(self, name_or_path: str):
        """Load a tokenizer; MimoError when it cannot be loaded or transformers is not installed."""
        with needs_extra("transformers", "lm"):
            from transformers import AutoTokenizer
        with wrap_errors(f"text tokenizer {name_or_path!r} cannot be loaded", OSError, ValueError):
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        # One id more than the tokenizer has, because not every tokenizer has an end token.
        self.vocab_size, self.end = len(self._tokenizer) + 1, len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def make_tokenizer(name: str) -> TextTokenizer:
    """Make the tokenizer of this name: "bytes", or a Hugging Face tokenizer."""
    return ByteTokenizer() if name == "bytes" else HubTokenizer(name)


def unigram_entropy(texts: Sequence[str], tokenizer: TextTokenizer) -> float:
    """Compute the nats per token of texts when tokens are predicted from their frequency alone.

    A model that uses neither the speech nor the context would reach this value.
    """
    counts = Counter(token for text in texts for token in (*tokenizer.encode(text), tokenizer.end))
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


class TextModel(nn.Module):
    """The causal text LLM of stage 1 (section 2.1.2): quantized frames as prefix, next-token prediction on the text."""

    def __init__(self, audio_dim: int, vocab_size: int, dim: int = 256, num_layers: int = 4, num_heads: int = 4):
        """Make a model with random weights.

        Args:
            audio_dim: width D of the quantized frames.
            vocab_size: of the tokenizer.
            dim: width of the Transformer; its feed-forward layers are 4 times as wide.
            num_layers: of the Transformer.
            num_heads: of the Transformer.
        """
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
        """Predict every text from its speech.

        Args:
            quantized: frames [B, T, D].
            num_frames: how many frames of each item are speech.
            texts: B lists of token ids.
            end: id of the token that is put after every text.

        Returns:
            Logits [B, L, V] and targets [B, L] (see `losses.text_loss`): position i predicts the token at i + 1, and
            the last frame of the speech predicts the first token.
        """
        device = quantized.device
        frames = self.project(quantized)
        rows, targets = [], []
        for item, count, text in zip(frames, num_frames, texts, strict=True):
            tokens = torch.tensor([*text, end], device=device)
            rows.append(torch.cat((item[:count], self.embed(tokens[:-1]).to(item.dtype))))
            targets.append(torch.cat((tokens.new_full((count - 1,), IGNORED), tokens)))
        x = pad_sequence(rows, batch_first=True)  # attention is causal: no valid position sees the padding after it
        logits = self.head(self.norm(self.layers(x)))
        return logits, pad_sequence(targets, batch_first=True, padding_value=IGNORED)
