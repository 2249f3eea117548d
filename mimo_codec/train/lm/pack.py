"""Packs of items: what one forward pass reads, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mimo_codec.lm.layout import Layout
from mimo_codec.train.lm.item import Item


class Pack(NamedTuple):
    """Items one after the other: P positions in all."""

    tokens: Tensor
    """Text tokens [P]."""
    patches: Tensor
    """Codes [P, C, G]; empty codes where there is text."""
    trained: Tensor
    """Which positions are to be predicted, bool [P]; never the first of an item."""
    lengths: tuple[int, ...]
    """Positions of each item."""
    names: tuple[str, ...] = ()
    """Of the items."""

    def to(self, device: torch.device) -> Pack:
        """Move it to a device."""
        tokens, patches, trained = (tensor.to(device, non_blocking=True) for tensor in self[:3])
        return Pack(tokens, patches, trained, self.lengths, self.names)


def make_pack(items: Sequence[Item], layout: Layout) -> Pack:
    """Put items one after the other."""
    grid = np.concatenate([item.grid for item in items], axis=1)
    trained = [item.trained & (np.arange(item.num_positions) > 0) for item in items]
    return Pack(
        torch.from_numpy(layout.token_ids(grid).copy()),
        torch.from_numpy(layout.patches(grid).copy()),
        torch.from_numpy(np.concatenate(trained)),
        tuple(item.num_positions for item in items),
        tuple(item.name for item in items),
    )


def deal(items: Iterable[Item], max_positions: int) -> list[list[Item]]:
    """Deal items out to packs of at most `max_positions`, the longest first, each to the first pack with room.

    An item that is longer than `max_positions` is alone in its pack.
    """
    packs: list[list[Item]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda item: -item.num_positions):
        fitting = next((i for i, free in enumerate(room) if free >= item.num_positions), None)
        if fitting is None:
            packs.append([item])
            room.append(max_positions - item.num_positions)
        else:
            packs[fitting].append(item)
            room[fitting] -= item.num_positions
    return packs
