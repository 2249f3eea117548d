"""Keys and values of past positions, in memory that is allocated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KeyValueCache:
    """What a Qwen2Model calls a cache: [B, heads, size, head_dim] per layer, written at `positions`.

    Attention sees all `size` slots, so every call needs a mask that hides those without content.
    """

    def __init__(
        self, batch_size: int, num_heads: int, size: int, head_dim: int, dtype: torch.dtype, devices: list[torch.device]
    ):
        """devices: of every layer."""
        shape = (batch_size, num_heads, size, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self.batch_size, self.size = batch_size, size
        self.positions = torch.zeros(1, dtype=torch.long, device=devices[0])
        """Slots [n] that the next call writes, its n inputs in order."""

    def reset(self) -> None:
        """Forget everything: a mask hides scores, but a NaN in a value would still come through it."""
        torch._foreach_zero_(self.keys)
        torch._foreach_zero_(self.values)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep keys and values [B', heads, n, head_dim]; B' may be less than B. -> all keys, all values."""
        rows = keys.shape[0]
        positions = self.positions.to(keys.device)
        own_keys, own_values = self.keys[layer][:rows], self.values[layer][:rows]
        own_keys.index_copy_(2, positions, keys)
        own_values.index_copy_(2, positions, values)
        return own_keys, own_values

    def get_seq_length(self, layer: int = 0) -> int:
        """Part of the interface; positions are always given to the model explicitly."""
        return 0
