"""Temporary copies of what comes in a pipe, a file object or bytes: files that can be read from any place."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.temporaries import temporary_name

MAX_BYTES = 2**32
"""Most that is copied: a pipe may never end."""
_BLOCK = 2**20


class SpooledFile(os.PathLike[str]):
    """A temporary file under the name that users know it by: `str` gives that name, `os.fspath` the path.

    The file is removed with the object, at the latest when the program ends.
    """

    def __init__(self, content: Any, name: str, suffix: str = ""):
        """Copy bytes, or what is left in a binary file object.

        Raises MimoError, which begins with `name`, for files opened as text, what cannot be read, more than MAX_BYTES,
        and when there is no room in the folder for temporary files.
        """
        self.name = name
        self.path = temporary_name(Path(tempfile.gettempdir()), suffix)
        self._remove = weakref.finalize(self, _remove, self.path)
        no_room = f"{name}: cannot be copied to {self.path.parent}, which TMPDIR chooses"
        with wrap_errors(no_room, OSError):
            number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(number, "wb") as file:
                for block in _blocks(content, name):
                    with wrap_errors(no_room, OSError):
                        file.write(block)
                        file.flush()
        except BaseException:
            self._remove()
            raise

    def __fspath__(self) -> str:
        """Return the path of the temporary file."""
        return str(self.path)

    def __str__(self) -> str:
        """Return the name that users know it by."""
        return self.name


def as_path(file: object, name: str = "audio") -> str | os.PathLike[str]:
    """Return the path of a file; bytes and file objects as a temporary copy that is called `name` in errors.

    Raises MimoError for anything else, and for what cannot be copied.
    """
    if isinstance(file, (str, os.PathLike)):
        return file
    if is_content(file):
        given = getattr(file, "name", None)
        return SpooledFile(file, given if isinstance(given, str) else name)
    raise MimoError(f"{name}: is a {type(file).__name__}; the path of a file, its bytes or a file object is needed")


def is_content(value: object) -> bool:
    """Whether this is bytes or a file object, which SpooledFile takes."""
    return isinstance(value, (bytes, bytearray, memoryview)) or callable(getattr(value, "read", None))


def _blocks(content: Any, name: str) -> Iterator[bytes]:
    if not callable(getattr(content, "read", None)):
        yield bytes(content)
        return
    total = 0
    while True:
        with wrap_errors(f"{name}: cannot be read", Exception):  # whatever a file object comes up with
            block = content.read(_BLOCK)
        if isinstance(block, str):
            raise MimoError(f"{name}: is opened as text; open it as binary, with the mode 'rb'")
        if not isinstance(block, bytes):
            raise MimoError(f"{name}: cannot be read: read() returns a {type(block).__name__}, not bytes")
        if not block:
            return
        total += len(block)
        require(total <= MAX_BYTES, f"{name}: goes on after {MAX_BYTES} bytes; write it to a file and read that")
        yield block


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
