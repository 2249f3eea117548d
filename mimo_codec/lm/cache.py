"""Keys and values of past positions, in memory that is allocated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KeyValueCache:
    """A cache for a Qwen2Model: [B, heads, size, head_dim] for each layer, written at `positions`.

    Attention sees all `size` slots, so every call needs a mask that hides those without content.
    """

    def __init__(
        self, batch_size: int, num_heads: int, size: int, head_dim: int, dtype: torch.dtype, devices: list[torch.device]
    ):
        """Allocate the memory, each layer's on its own of `devices`."""
        shape = (batch_size, num_heads, size, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self.batch_size, self.size = batch_size, size
        self.positions = torch.zeros(1, dtype=torch.long, device=devices[0])
        """The slots [n] that the next call writes, its n inputs in order."""

    def reset(self) -> None:
        """Set everything to zero: a mask hides scores, but a NaN in a value would still come through it."""
        torch._foreach_zero_(self.keys)
        torch._foreach_zero_(self.values)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [B', heads, n, head_dim], where B' may be less than B; return all keys, all values."""
        rows = keys.shape[0]
        positions = self.positions.to(keys.device)
        all_keys, all_values = self.keys[layer][:rows], self.values[layer][:rows]
        all_keys.index_copy_(2, positions, keys)
        all_values.index_copy_(2, positions, values)
        return all_keys, all_values

    def get_seq_length(self, layer: int = 0) -> int:
        """Return 0: positions are always given to the model explicitly, but transformers asks."""
        return 0
