"""What streams have in common: state as named values, and the arithmetic of chunks. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

State: TypeAlias = "dict[str, Tensor]"
"""Streaming state: plain named tensors, passed in and returned."""
Value = TypeVar("Value")
MEL_CONTEXT = 2
"""Mel frames before the first of a code frame that the encoder's two convolutions, of three frames each, read."""


def scoped(state: Mapping[str, Value], name: str) -> dict[str, Value]:
    """The part of a state that is called `name.*`, without that."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def scope(state: Mapping[str, Value], name: str) -> dict[str, Value]:
    """The inverse of `scoped`."""
    return {f"{name}.{key}": value for key, value in state.items()}


def ceil_div(number: int, divisor: int) -> int:
    """The quotient of two integers, rounded up."""
    return -(-number // divisor)


def mel_look_ahead(stride: int) -> int:
    """Mel frames after the last of a code frame that the encoder's convolutions read; `stride` is the second's."""
    return MEL_CONTEXT + 1 - stride


def code_frames(num_mels: int, stride: int, pool: int) -> int:
    """Code frames of so many mel frames: the convolution of `stride` and the pooling both round up."""
    return ceil_div(ceil_div(num_mels, stride), pool)
