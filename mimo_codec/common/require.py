"""Checks of what a caller gave; each raises one MimoError that names the value and what it may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mimo_codec.common.errors import MimoError

T = TypeVar("T")


def require(condition: object, message: str) -> None:
    """Raise MimoError with `message` unless `condition` is true."""
    if not condition:
        raise MimoError(message)


def check_choice(name: str, value: object, choices: Collection[str]) -> str:
    """Return `value` if it is one of `choices`; MimoError lists them otherwise."""
    if not isinstance(value, str) or value not in choices:
        raise MimoError(f"{name}: {value!r} is not known; there is {', '.join(choices)}")
    return value


def check_type(name: str, value: object, kind: type[T], what: str) -> T:
    """Return `value` if it is an instance of `kind`, which the message calls `what` ("a Stop")."""
    if not isinstance(value, kind):
        raise MimoError(f"{name}: {what} is needed, not {value!r}")
    return value


def check_text(name: str, value: object) -> str:
    """Return `value` if it is a string with more than white space in it."""
    if not check_type(name, value, str, "text").strip():
        raise MimoError(f"{name}: is empty")
    return str(value)


@contextmanager
def error_prefix(where: object) -> Iterator[None]:
    """Put `where`, such as the path of a file, in front of every MimoError that is raised inside."""
    try:
        yield
    except MimoError as error:
        raise type(error)(f"{where}: {error}") from None


@contextmanager
def needs_extra(purpose: str, extra: str) -> Iterator[None]:
    """Turn an ImportError inside into a MimoError that says which extra of this package brings what is missing."""
    try:
        yield
    except ImportError as error:
        raise MimoError(f"{purpose} needs {error.name}: pip install 'mimo-codec[{extra}]'") from None
