"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from mimo_codec.common.memory import give_back_memory


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_pieces_between_what_is_kept_are_given_back():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    pieces = [bytes(100_000) + b"x" for _ in range(2000)]
    kept = [bytes(100_000) + b"x" for _ in range(20)]
    full = resident_mb()
    del pieces
    give_back_memory()
    assert resident_mb() < full - 150 and len(kept) == 20


def test_other_systems_do_nothing(monkeypatch):
    def missing(name: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    give_back_memory()
