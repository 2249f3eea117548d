"""Checks of what a caller gave; each raises one MimoError that names the value and what it may be."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mimo_codec.common.errors import MimoError

Value = TypeVar("Value")


def require(condition: object, message: str) -> None:
    """Raise MimoError with `message` unless the condition holds."""
    if not condition:
        raise MimoError(message)


def check_choice(name: str, value: Value, choices: Iterable[Value]) -> Value:
    """Return `value`; raise MimoError, which lists the choices, unless it is one of them."""
    known = list(choices)
    if value not in known:
        raise MimoError(f"{name} {value!r} is not known; choose one of {', '.join(map(str, known))}")
    return value


def check_type(name: str, value: object, kind: type[Value], what: str) -> Value:
    """Return `value`; raise MimoError unless it is an instance of `kind`, which the message calls `what` ("a list")."""
    if not isinstance(value, kind):
        raise MimoError(f"{name} must be {what}, not {reprlib.repr(value)}")
    return value


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
