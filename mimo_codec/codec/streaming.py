"""What streams have in common: state as named values, and the arithmetic of chunks. Needs no torch."""

from __future__ import annotations

import reprlib
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from mimo_codec.common.arrays import has_values, is_array
from mimo_codec.common.checks import is_integer
from mimo_codec.common.errors import MimoError
from mimo_codec.common.rounding import ceil_div

if TYPE_CHECKING:
    from torch import Tensor

State: TypeAlias = "dict[str, Tensor]"
"""Streaming state: plain named tensors, passed in and returned."""
Value = TypeVar("Value")
MODEL, ENDED = "model", "ended"
"""Values of a stream's state that belong to no layer: which model made it, and 1 after the last chunk."""
MAX_COUNT = 2**40
"""Largest number in a state; no stream has so many frames or samples."""
SLACK = 1.25
"""Memory that a value of a state may hold, as a multiple of what it needs; copies in every call would cost more."""
MEL_CONTEXT = 2
"""Mel frames before the first of a code frame that the encoder's two convolutions, of three frames each, read."""


def scoped(state: Mapping[str, Value], name: str) -> dict[str, Value]:
    """The part of a state that is called `name.*`, without that."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def scope(state: Mapping[str, Value], name: str) -> dict[str, Value]:
    """The inverse of `scoped`."""
    return {f"{name}.{key}": value for key, value in state.items()}


def compact(state: Mapping[str, Tensor]) -> State:
    """A state whose tensors hold little more memory than their values need, where some were views of whole chunks."""
    return {
        name: value if value.untyped_storage().nbytes() <= SLACK * value.nbytes else value.clone()
        for name, value in state.items()
    }


def mel_look_ahead(stride: int) -> int:
    """Mel frames after the last of a code frame that the encoder's convolutions read; `stride` is the second's."""
    return MEL_CONTEXT + 1 - stride


def code_frames(num_mels: int, stride: int, pool: int) -> int:
    """Code frames of so many mel frames: the convolution of `stride` and the pooling both round up."""
    return ceil_div(ceil_div(num_mels, stride), pool)


def model_number(model_id: str) -> int:
    """What a state keeps of "name@fingerprint": a number of the fingerprint, which names the codebooks."""
    return zlib.crc32(model_id.rpartition("@")[2].encode())


def open_state(state: object, model: int, method: str) -> dict[str, Any]:
    """What the layers read of a state; MimoError for that of another model and for a stream that has ended."""
    marks = (as_count(state.get(MODEL)), as_count(state.get(ENDED))) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or marks not in ((model, 0), (model, 1)):
        raise foreign_state(method)
    if marks == (model, 1):
        raise MimoError("state: its stream has ended, with last=True; None starts a new stream")
    return {name: value for name, value in state.items() if name not in (MODEL, ENDED)}


def as_count(value: object) -> int | None:
    """An integer from 0 to MAX_COUNT in a state: a number, or an array without dimensions; None for others."""
    value = _scalar(value)
    return int(value) if is_integer(value) and 0 <= value <= MAX_COUNT else None


def as_flag(name: str, value: object) -> bool:
    """What a caller passes for True or False, numpy's and tensors included; MimoError for anything else."""
    value = _scalar(value)
    if not isinstance(value, int) or value not in (0, 1):
        raise MimoError(f"{name} must be True or False, not {reprlib.repr(value)}")
    return bool(value)


def _scalar(value: object) -> object:
    """The value in an array or tensor without dimensions; anything else as it is."""
    if isinstance(value, np.generic) or (is_array(value) and value.ndim == 0 and has_values(value)):
        return value.item()
    return value


def foreign_state(method: str) -> MimoError:
    """The error for what is no state of a stream of this model."""
    return MimoError(f"state: is not what {method} of this model returned; None starts a new stream")
