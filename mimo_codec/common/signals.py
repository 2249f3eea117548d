"""Ctrl-C and SIGTERM at places where an exception would get lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Handle SIGINT and SIGTERM at the end of the block instead of inside it.

    For calls into C libraries that call back into Python: an exception that a signal handler raises in such a
    callback is printed and forgotten. Keep the block short. Outside the main thread, where no handler runs, it does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    replaced = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in replaced:
        signal.signal(number, lambda signum, frame: received.append(signum))
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        for signum in received:
            signal.raise_signal(signum)
