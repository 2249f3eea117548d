"""Methods that compute in the dtype of the weights, whatever `torch.autocast` is on around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Method = TypeVar("Method", bound=Callable[..., Any])


def without_autocast(method: Method) -> Method:
    """Run a method of an object that has a `device` with autocast off there.

    What such methods return has to fit what they returned before: states of streams, caches of generation.
    """

    @functools.wraps(method)
    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        if not torch.is_autocast_enabled(self.device.type):
            return method(self, *arguments, **options)
        with torch.autocast(self.device.type, enabled=False):
            return method(self, *arguments, **options)

    return cast(Method, run)
