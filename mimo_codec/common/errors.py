"""The exception for everything a user can get wrong, and the one place where other exceptions turn into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MimoError(ValueError):
    """Bad input, named in one line: what was wrong, where, and what to do about it."""


class ContextError(MimoError):
    """A prompt that does not fit into the context of a language model; a shorter one may."""


@contextmanager
def wrap_errors(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a MimoError that says `message` and the reason.

    A MimoError passes unchanged, although it is a ValueError. Keep the block small: whatever it raises is reported
    as `message`.
    """
    try:
        yield
    except MimoError:
        raise
    except kinds as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or error
        raise MimoError(f"{message}: {reason}") from error


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
