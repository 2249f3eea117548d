"""Output of commands on stderr: a progress bar if that is a terminal, and one line for every error."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

from mimo_codec.common.errors import MimoError

Key = TypeVar("Key", bound=Hashable)


class FilesFailed(MimoError):
    """Some of many files failed: each was reported, and the others are done."""


def printable(text: object) -> str:
    """Return text in which what no terminal should get is escaped: control characters, bytes that are no text."""
    known = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in known)


def print_error(message: object) -> None:
    """Print an error as one line, even if a file's name has line breaks or control characters."""
    print_line(f"error: {message}")


def print_line(message: object) -> None:
    """Print one line on stderr that is no error."""
    text = " ".join(map(str.strip, str(message).splitlines()))
    with suppress(OSError, ValueError):  # stderr is closed
        print("mimo-codec:", printable(text), file=sys.stderr)


@contextmanager
def progress_bar(action: str, lengths: Mapping[Key, float]) -> Iterator[Callable[[Key], None]]:
    """Show a bar that advances by seconds of audio, infinite ones left out; yield a function to call for each job."""
    from rich import progress
    from rich.console import Console

    known = {job: seconds for job, seconds in lengths.items() if math.isfinite(seconds)}
    console = Console(stderr=True, soft_wrap=True)  # so that lines printed meanwhile are not cut at the width
    bar = progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description} {task.fields[done]}/{task.fields[files]}"),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        redirect_stdout=False,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(action, total=sum(known.values()) or None, done=0, files=len(lengths))

        def finished(job: Key) -> None:
            bar.update(task, advance=known.get(job, 0.0), done=bar.tasks[0].fields["done"] + 1)

        yield finished


@contextmanager
def counter(what: str) -> Iterator[Callable[[], None]]:
    """Show a count on stderr if that is a terminal; yield a function that adds one."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.completed:.0f} {task.description}"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(
        *columns, console=console, redirect_stdout=False, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda: bar.advance(task)
