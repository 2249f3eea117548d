"""The losses of a language model (arXiv 2512.23808, section 3.2): text, and the codes of each channel.

Each is a sum over what one batch predicts and a count of it. A step divides the sums of all its batches, in all
processes, by the counts of all of them, so the loss does not depend on how the items of a step are dealt out.
Symbols: N predictions, H width, C channels, G frames of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TEXT_WEIGHT = 100.0
CHANNEL_WEIGHTS = (12.0, 8.0, 6.0, 4.0, 2.0, 2.0, 1.0, 1.0)
"""Weights of the text and of the channels in the loss of the released models (table 3)."""
EMPTY_WEIGHT = 0.01
"""What the text token `<|empty|>`, under which audio stands, counts as a target."""
CHUNK = 256
"""Predictions whose logits are in memory at once."""


class Terms(NamedTuple):
    """Losses that belong together: of the text first, then of each channel."""

    sums: Tensor
    """Nats [1 + C], summed over the predictions."""
    counts: Tensor
    """What the predictions count together [1 + C], without gradient."""
    right: Tensor | None = None
    """In evaluation: codes of each channel that are the likeliest ones [1 + C]; the text's place is 0."""


def cross_entropy_in_chunks(
    hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, weights: Tensor, chunk: int = CHUNK
) -> Tensor:
    """Weighted sum of the cross-entropies of N predictions, of whose logits only `chunk` rows exist at any time.

    Logits are computed again in the backward pass.

    Args:
        hidden: what the predictions are made from [N, H].
        head: [n, H] -> logits [n, vocabulary].
        targets: the true ids [N].
        weights: of the predictions [N].
        chunk: rows at once.

    Returns:
        The sum [] in float32.
    """
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), chunk):
        rows = slice(start, start + chunk)
        part: Tensor = checkpoint(_cross_entropy, hidden[rows], head, targets[rows], weights[rows], use_reentrant=False)
        total = total + part
    return total


def _cross_entropy(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    return (F.cross_entropy(head(hidden).float(), targets, reduction="none") * weights).sum()


def channel_losses(logits: Sequence[Tensor], patches: Tensor, weights: Tensor) -> Tensor:
    """Sum the cross-entropies of the codes of each channel.

    Args:
        logits: of each channel, [N, G, codes].
        patches: the true codes [N, C, G].
        weights: of the patches [N].

    Returns:
        The sums [C] in float32.
    """
    losses = [
        (F.cross_entropy(of_channel.float().flatten(0, 1), codes.flatten(), reduction="none") * each).sum()
        for of_channel, codes, each in zip(
            logits, patches.unbind(1), weights.repeat_interleave(patches.shape[2]).expand(len(logits), -1), strict=True
        )
    ]
    return torch.stack(losses)


def right_codes(logits: Sequence[Tensor], patches: Tensor, weights: Tensor) -> Tensor:
    """Count the codes of each channel that are the likeliest ones [C]; arguments as of `channel_losses`."""
    hits = [
        ((row.argmax(-1) == codes).sum(1) * weights).sum() for row, codes in zip(logits, patches.unbind(1), strict=True)
    ]
    return torch.stack(hits)


def total_loss(sums: Tensor, counts: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted mean of the losses: sums [1 + C] over counts [1 + C] -> [].

    A term of which nothing was predicted adds nothing; the weights are divided by the sum of all all the same, so the
    loss of a step without audio has the scale of others.
    """
    shares = torch.tensor(weights, dtype=torch.float32, device=sums.device) / sum(weights)
    return (shares * sums / counts.clamp(min=1e-9)).sum()
