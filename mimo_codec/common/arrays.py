"""Torch tensors and numpy arrays: telling them apart and turning one into the other, with torch or without."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT", "torch.Tensor", NDArray[Any])
"""A tensor or an array, where the result is of the same kind."""
AnyArray: TypeAlias = "torch.Tensor | NDArray[Any]"
FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


def is_tensor(x: object) -> TypeGuard[torch.Tensor]:
    """Whether `x` is a tensor. Does not import torch: where nobody has imported it there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_array(x: object) -> TypeGuard[AnyArray]:
    """Whether `x` is a tensor or a numpy array."""
    return is_tensor(x) or isinstance(x, np.ndarray)


def has_values(x: AnyArray) -> bool:
    """Whether the values of an array can be read one by one: not those of sparse, nested and meta tensors."""
    return not is_tensor(x) or (str(x.layout) == "torch.strided" and not x.is_nested and not x.is_meta)


def dtype_name(x: AnyArray) -> str:
    """Return the name of the dtype, such as "float32" or "int64": the same for both kinds and any byte order."""
    return x.dtype.name if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.")


def to_numpy(x: AnyArray) -> NDArray[Any]:
    """Return a tensor as an array on the CPU, without its gradient, bfloat16 as float32; return an array unchanged."""
    if not is_tensor(x):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if dtype_name(x) == "bfloat16" else x).numpy()


def to_tensor(x: AnyArray) -> torch.Tensor:
    """Return an array as a tensor of the same memory; return a tensor unchanged.

    Where torch cannot be imported, the array is returned as it is: callers that only pass it on work without torch.
    """
    try:
        import torch
    except ImportError:
        return x  # type: ignore[return-value]
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(x)


def to_cpu(x: ArrayT) -> ArrayT:
    """Return a tensor in the memory of the CPU; return an array unchanged."""
    here: ArrayT = cast(Any, x).cpu() if is_tensor(x) else x
    return here


def is_finite(x: torch.Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; it is read once, and no memory is taken."""
    if not x.is_floating_point() or x.numel() == 0:
        return True
    return all(bool(extreme.isfinite()) for extreme in x.aminmax())


def concatenate(parts: Sequence[ArrayT], axis: int = -1) -> ArrayT:
    """Join tensors or arrays, all of one kind, along an axis."""
    library: Any = sys.modules["torch"] if is_tensor(parts[0]) else np
    joined: ArrayT = library.concatenate(parts, axis=axis)
    return joined
