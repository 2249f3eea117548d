"""Checks of what a caller passes in, with errors that name the value and what it may be.

A value is checked once, where it enters: in the fields of a configuration, in public methods and in commands. The
context managers turn other exceptions, such as those about files of strangers, into MimoError.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import TypeGuard, TypeVar

from mimo_codec.common.errors import MimoError

Value = TypeVar("Value")


def require(condition: object, message: str) -> None:
    """Raise MimoError with `message` unless the condition holds."""
    if not condition:
        raise MimoError(message)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer, of numpy too; a bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number, of numpy too; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_integer(name: str, value: object, low: int, high: float = math.inf) -> int:
    """Return `value` as an int; raise MimoError unless it is an integer (no bool) in low..high."""
    if not is_integer(value) or not low <= value <= high:
        raise MimoError(f"{name} must be an integer {_limits(low, high)}, not {reprlib.repr(value)}")
    return int(value)


def check_number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return `value` as a float; raise MimoError unless it is a number (no bool, no NaN) in low..high."""
    if not is_number(value) or not low <= value <= high:
        raise MimoError(f"{name} must be a number {_limits(low, high)}, not {reprlib.repr(value)}")
    return float(value)


def _limits(low: float, high: float) -> str:
    return f"from {low} to {high}" if high < math.inf else f"of at least {low}"


def check_choice(name: str, value: Value, choices: Iterable[Value]) -> Value:
    """Return `value`; raise MimoError, which lists the choices, unless it is one of them."""
    known = list(choices)
    if not any(isinstance(value, type(choice)) and value == choice for choice in known):
        shown = repr(value) if isinstance(value, str) else reprlib.repr(value)
        raise MimoError(f"{name} {shown} is not known; choose one of {', '.join(map(str, known))}")
    return value


def check_type(name: str, value: object, kind: type[Value], what: str) -> Value:
    """Return `value`; raise MimoError unless it is an instance of `kind`, which the message calls `what` ("a list")."""
    if not isinstance(value, kind):
        raise MimoError(f"{name} must be {what}, not {reprlib.repr(value)}")
    return value


def check_count(num_quantizers: object, most: int) -> int:
    """Return `num_quantizers` as an int; raise MimoError unless it is an integer in 1..most."""
    if not is_integer(num_quantizers) or not 1 <= num_quantizers <= most:
        raise MimoError(f"num_quantizers = {num_quantizers!r}: this model has {most} codebooks, ask for 1..{most}")
    return int(num_quantizers)


@contextmanager
def wrap_errors(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a MimoError that says `message` and, in one line, the reason.

    A MimoError passes unchanged, although it is a ValueError. Keep the block small: whatever it raises is reported
    as `message`.
    """
    try:
        yield
    except MimoError:
        raise
    except kinds as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
        first_line = (reason.strip().splitlines() or [type(error).__name__])[0]
        raise MimoError(f"{message}: {first_line}") from error


@contextmanager
def error_prefix(where: object) -> Iterator[None]:
    """Put `where`, such as the path of a file, in front of every MimoError that is raised inside."""
    try:
        yield
    except MimoError as error:
        raise type(error)(f"{where}: {error}") from None


@contextmanager
def needs_extra(package: str, install: str) -> Iterator[None]:
    """Turn an ImportError inside into a MimoError that says how to install `package`.

    install: an extra of this package ("lm"), or a whole command.
    """
    try:
        yield
    except ImportError:
        command = install if " " in install else f"pip install 'mimo-codec[{install}]'"
        raise MimoError(f"{package} is not installed: {command}") from None
