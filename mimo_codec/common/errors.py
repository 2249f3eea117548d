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
def needs_extra(extra: str) -> Iterator[None]:
    """Turn an ImportError inside into a MimoError that says which extra of this package installs what is missing."""
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise MimoError(f"{package} is not installed: pip install 'mimo-codec[{extra}]'") from None
