"""Memory that is free, but that the C library keeps for the process."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back_memory() -> None:
    """Give free memory back to the system, where the C library can (glibc).

    Arrays of ever other sizes leave it in pieces: without this, a process that works for hours grows and grows.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
