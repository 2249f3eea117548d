"""Standard input and output in the place of files: `-` on the command line."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.spooled import SpooledFile
from mimo_codec.common.temporaries import temporary_name

PIPE = "-"


class StandardInput(os.PathLike[str]):
    """Standard input as a file, into which it is copied when the file is first opened."""

    def __init__(self) -> None:
        """Copy nothing yet."""
        self._copy: SpooledFile | None = None

    def __fspath__(self) -> str:
        """Return the path of the copy; MimoError when there is nothing to read, or more than a copy may hold."""
        if self._copy is None:
            require(sys.stdin is not None, f"{self}: is closed")
            require(not sys.stdin.isatty(), f"{self}: is a terminal; pipe a file into this command")
            self._copy = SpooledFile(sys.stdin.buffer, str(self))
        return os.fspath(self._copy)

    def __str__(self) -> str:
        """Return what errors call it."""
        return "standard input"


@cache
def standard_input() -> StandardInput:
    """Return standard input, the same for all who ask: it can be read once."""
    return StandardInput()


def check_standard_output() -> None:
    """Raise MimoError when bytes cannot go to standard output."""
    require(sys.stdout is not None, "standard output: is closed")
    require(not sys.stdout.isatty(), "standard output: is a terminal; send it to a program or a file, or name a file")


@contextmanager
def output_file(output: str, suffix: str, inputs: Sequence[str]) -> Iterator[str]:
    """Yield the name of a file to write: `output`, or a temporary one that goes to standard output in the end.

    Raises MimoError when that is a terminal, cannot be written or would get what becomes of several inputs;
    BrokenPipeError when its reader has ended.
    """
    if output != PIPE:
        yield output
        return
    is_one = len(inputs) == 1 and not os.path.isdir(inputs[0])
    require(is_one, "standard output: takes what becomes of one file; name a folder for the outputs of several")
    check_standard_output()
    path = temporary_name(Path(tempfile.gettempdir()), suffix)
    try:
        yield str(path)
        with path.open("rb") as file:
            try:
                shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                with wrap_errors("standard output: cannot be written", OSError):
                    raise error from None
    finally:
        with suppress(OSError):
            path.unlink()
