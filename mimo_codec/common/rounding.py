"""Integer division that rounds up."""

from __future__ import annotations


def ceil_div(number: int, divisor: int) -> int:
    """Return the quotient of two integers, rounded up."""
    return -(-number // divisor)
