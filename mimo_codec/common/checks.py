"""Checks of single values, with errors that name the value and what it may be."""

from __future__ import annotations

import reprlib

import numpy as np

from mimo_codec.common.errors import MimoError


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int; raises MimoError unless it is an integer (no bool) in low..high."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        got = reprlib.repr(value)
        raise MimoError(f"{name} must be an integer from {low} to {high}, not {got}")
    return int(value)


def check_number(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float; raises MimoError unless it is a number (no bool, no NaN) in low..high."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.integer, np.floating))
        or not low <= value <= high
    ):
        got = reprlib.repr(value)
        raise MimoError(f"{name} must be a number from {low} to {high}, not {got}")
    return float(value)


def check_count(num_quantizers: object, most: int) -> None:
    """MimoError unless 1 <= num_quantizers <= most."""
    is_bool = isinstance(num_quantizers, bool)
    if is_bool or not isinstance(num_quantizers, (int, np.integer)) or not 1 <= num_quantizers <= most:
        raise MimoError(f"num_quantizers = {num_quantizers!r}: this model has {most} codebooks, ask for 1..{most}")
