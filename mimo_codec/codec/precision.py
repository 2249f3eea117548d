"""Modules that stay float32 when the rest of a model is converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Float32Module(nn.Module):
    """Moves between devices with the model it is part of, but keeps the dtype of its floating-point tensors."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda t: t.to(fn(t).device) if t.is_floating_point() else fn(t), recurse)
