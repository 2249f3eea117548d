"""Output of commands on stderr: a progress bar if that is a terminal, and one line for every error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

from mimo_codec.common.errors import MimoError

Key = TypeVar("Key", bound=Hashable)

MESSAGE_SECONDS = 30.0
"""Time between two lines of progress where there is no terminal."""


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


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    def __init__(self, action: str, lengths: Mapping[Key, float], in_seconds: bool):
        """Lengths of all jobs; in_seconds: whether they are of audio."""
        self.action, self.count, self.in_seconds = action, len(lengths), in_seconds
        self.done, self.passed, self.total = 0, 0.0, sum(lengths.values())
        self.start = self.said = time.monotonic()

    def add(self, length: float) -> None:
        """Count a job that is done."""
        self.done += 1
        self.passed += length
        now = time.monotonic()
        if now - self.said < MESSAGE_SECONDS or not self.passed:
            return
        self.said = now
        left = (now - self.start) / 60 * (self.total - self.passed) / self.passed
        hours = f"{self.passed / 3600:.2f} of {self.total / 3600:.2f} hours, " if self.in_seconds else ""
        print_line(f"{self.action}: {self.done} of {self.count}, {hours}{left:.0f} min left")


@contextmanager
def progress_bar(action: str, lengths: Mapping[Key, float], in_seconds: bool = True) -> Iterator[Callable[[Key], None]]:
    """Show a bar that advances by the lengths of jobs, infinite ones left out; yield a function to call for each job.

    Without a terminal there is a line now and then instead. in_seconds: whether lengths are seconds of audio.
    """
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
        lines = _Lines(action, known, in_seconds)

        def finished(job: Key) -> None:
            bar.update(task, advance=known.get(job, 0.0), done=bar.tasks[0].fields["done"] + 1)
            if not console.is_terminal:
                lines.add(known.get(job, 0.0))

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
