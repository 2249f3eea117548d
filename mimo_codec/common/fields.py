"""Dataclass fields that declare what values they take, and one function that checks them all.

@dataclass(frozen=True)
class Shape:
    width: int = integer(64, low=1)
    dropout: float = number(0.0, low=0, high=1)

    def __post_init__(self) -> None:
        check_fields(self)
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import field, fields
from functools import partial
from typing import Any, cast

from mimo_codec.common.checks import check_integer, check_number
from mimo_codec.common.errors import MimoError

_CHECK = "check"


def integer(default: int, low: int = 0, high: float = math.inf) -> int:
    """Declare a field that holds an integer from `low` to `high`."""
    check = partial(check_integer, low=low, high=high)
    return cast(int, _declared(default, check))


def integers(default: tuple[int, ...], low: int = 0, high: float = math.inf) -> tuple[int, ...]:
    """Declare a field that holds a tuple of integers, each from `low` to `high`."""
    one = partial(check_integer, low=low, high=high)
    return cast("tuple[int, ...]", _declared(default, partial(_check_tuple, one=one)))


def number(default: float, low: float = -math.inf, high: float = math.inf) -> float:
    """Declare a field that holds a number from `low` to `high`, never NaN."""
    check = partial(check_number, low=low, high=high)
    return cast(float, _declared(default, check))


def flag(default: bool) -> bool:
    """Declare a field that holds True or False."""
    return cast(bool, _declared(default, _check_flag))


def check_fields(instance: Any, prefix: str = "") -> None:
    """Check every field that was declared here; MimoError names the first that is wrong, after `prefix`."""
    for declared in fields(instance):
        if _CHECK in declared.metadata:
            declared.metadata[_CHECK](prefix + declared.name, getattr(instance, declared.name))


def _declared(default: object, check: Callable[[str, object], object]) -> object:
    return field(default=default, metadata={_CHECK: check})


def _check_tuple(name: str, value: object, one: Callable[[str, object], object]) -> None:
    if not isinstance(value, tuple):
        raise MimoError(f"{name}: a tuple of integers is needed, not {reprlib.repr(value)}")
    for item in value:
        one(name, item)


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise MimoError(f"{name} must be true or false, not {reprlib.repr(value)}")
