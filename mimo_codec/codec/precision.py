"""Modules that stay float32 when the rest of a model is converted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn


class Float32Module(nn.Module):
    """Moves between devices with the model it is part of, but keeps the dtype of its floating-point tensors."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        keeps_dtype = partial(_move, fn)
        return super()._apply(keeps_dtype, recurse)  # type: ignore[no-untyped-call]


def _move(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return x.to(fn(x).device) if x.is_floating_point() else fn(x)
