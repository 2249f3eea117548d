"""Sampling: logits and one uniform number each -> ids.

Randomness comes in as numbers, so that the same function serves eager and compiled graphs, every item of a batch has
its own generator, and the same seed gives the same tokens either way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimo_codec.lm.request import Sampling


class Settings(NamedTuple):
    """The settings of every item of a batch as tensors [B], for graphs."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    penalty: Tensor

    @classmethod
    def of(cls, samplings: list[Sampling], device: torch.device | str) -> Settings:
        """Put the settings of every item on a device."""
        return cls(
            torch.tensor([s.temperature for s in samplings], dtype=torch.float32, device=device),
            torch.tensor([s.top_k or 2**30 for s in samplings], device=device),
            torch.tensor([s.top_p for s in samplings], dtype=torch.float32, device=device),
            torch.tensor([s.repetition_penalty for s in samplings], dtype=torch.float32, device=device),
        )

    def rows(self, index: Tensor) -> Settings:
        """Return the settings of some items [N]."""
        return Settings(*(value[index] for value in self))


def sample(logits: Tensor, settings: Settings, uniform: Tensor) -> Tensor:
    """Draw ids [B] from logits [B, V] by numbers in [0, 1) [B].

    The distribution after temperature, top-k and top-p is inverted at `uniform`, likeliest token first.
    """
    greedy = settings.temperature <= 0
    scaled = logits.float() / torch.where(greedy, 1.0, settings.temperature)[:, None]
    probabilities, order = scaled.softmax(-1).sort(stable=True, dim=-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    rank = torch.arange(logits.shape[-1], device=logits.device)
    kept = (rank < settings.top_k[:, None]) & (before < settings.top_p[:, None])
    cumulative = (probabilities * kept).cumsum(-1)
    drawn = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    drawn = torch.minimum(drawn, kept.sum(-1, keepdim=True) - 1)  # rounding of the last sum
    return torch.where(greedy, logits.argmax(-1), order.gather(-1, drawn)[:, 0])


def penalised(logits: Tensor, recent: Tensor, penalty: Tensor) -> Tensor:
    """Make the codes of `recent` [B, N] less likely in logits [B, V] by `penalty` [B].

    As in arXiv 1909.05858, section 4.1. Codes outside 0..V-1 mean none.
    """
    size = logits.shape[-1]
    valid = (recent >= 0) & (recent < size)
    seen = torch.zeros_like(logits).scatter_add_(1, recent.clamp(0, size - 1), valid.to(logits.dtype)) > 0
    penalty = penalty[:, None].to(logits.dtype)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
