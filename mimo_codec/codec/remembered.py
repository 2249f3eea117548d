"""Values computed from weights, and computed again only after a weight has changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

Value = TypeVar("Value")


class _Mark(NamedTuple):
    """A tensor as it was when it was last read."""

    tensor: weakref.ref[Tensor]
    address: int
    version: int
    """Number of changes in place so far, counted by PyTorch."""

    def is_of(self, tensor: Tensor) -> bool:
        """Whether it is this tensor, unchanged."""
        return self.tensor() is tensor and (self.address, self.version) == (tensor.data_ptr(), tensor._version)


_VALUES: weakref.WeakKeyDictionary[nn.Module, tuple[list[_Mark], Any]] = weakref.WeakKeyDictionary()
"""Not attributes of the modules, which their copies and pickles would take along."""


def remembered(module: nn.Module, weights: Sequence[Tensor], compute: Callable[[], Value]) -> Value:
    """What `compute` gives for a module; it is called again when one of the weights was replaced or changed in place.

    PyTorch does not count changes through `tensor.data`. Weights that count none, and those of a traced graph, are
    computed from at every call.
    """
    if not all(type(weight) in (Tensor, nn.Parameter) and _counts_changes(weight) for weight in weights):
        return compute()
    marks, value = _VALUES.get(module, ([], None))
    if len(marks) != len(weights) or not all(map(_Mark.is_of, marks, weights)):
        with torch.inference_mode(False):
            value = compute()
        _VALUES[module] = [_Mark(weakref.ref(w), w.data_ptr(), w._version) for w in weights], value
    return cast(Value, value)


def _counts_changes(weight: Tensor) -> bool:
    return not weight.is_inference() and weight.device.type != "meta"
