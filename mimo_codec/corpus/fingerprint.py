"""Fingerprints of sound, by which segments that sound alike are found whatever their level or coding.

Every 11.6 ms has 32 bits, the signs of differences of energy between bands and moments (Haitsma and Kalker 2002). The
fingerprint keeps those of a segment that have the smallest hashes (a bottom-k sketch, Cohen and Kaplan 2007): what two
fingerprints have in common estimates how much the two segments have in common, cut wherever they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 5000
FRAME, HOP = 1856, 58
"""Samples of a frame, 0.37 s, and between frames, 11.6 ms."""
BANDS = 33
LOW, HIGH = 300.0, 2000.0
"""Lowest and highest frequency in Hz; bands are equally wide on a logarithmic scale."""
QUIET = 1e-4
"""Frames whose energy is below this share of the largest have no bits: noise alone is alike everywhere."""
SIZE = 32
"""Numbers of a fingerprint."""
FRAMES_AT_ONCE = 512
MAX_SHARED = 64
"""Numbers that so many segments have tell nothing, such as those of a tone, and are not compared."""


def fingerprint(samples: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Samples [S] at 5 kHz -> up to 32 numbers, ascending; fewer for what is short or silent."""
    if len(samples) < FRAME + HOP:
        return np.zeros(0, np.uint32)
    energies = _band_energies(samples)
    steps = np.diff(energies[1:], axis=1) - np.diff(energies[:-1], axis=1)
    bits = (steps > 0).astype(np.uint32) @ (np.uint32(1) << np.arange(BANDS - 1, dtype=np.uint32))
    loud = energies[1:].sum(1) > QUIET * energies.sum(1).max(initial=0.0)
    found = np.unique(_mix(bits[loud].astype(np.uint32)))
    return found[:SIZE]


def _band_energies(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """[frames, BANDS]."""
    edges = np.geomspace(LOW, HIGH, BANDS + 1) * FRAME / RATE
    places = np.round(edges).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    found = []
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(frames[start : start + FRAMES_AT_ONCE] * window, axis=1)[:, : places[-1]]
        found.append(np.add.reduceat(np.square(np.abs(spectrum)), places[:-1], axis=1))
    return np.concatenate(found)


def _mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash numbers so that their order is as good as random (the finalizer of MurmurHash3)."""
    x = values.copy()
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def near_duplicates(fingerprints: list[NDArray[np.uint32]], similarity: float) -> dict[int, int]:
    """Number of a segment -> number of an earlier one, which stays, that it sounds like.

    similarity: share of the numbers of the smaller fingerprint that both have. Memory grows with the numbers in all
    fingerprints, 12 bytes for each.
    """
    sizes = np.array([len(f) for f in fingerprints])
    if not sizes.sum():
        return {}
    values = np.concatenate(fingerprints)
    owners = np.repeat(np.arange(len(fingerprints), dtype=np.uint32), sizes)
    order = np.lexsort((owners, values))
    values, owners = values[order], owners[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    lengths = np.diff(np.append(starts, len(values)))
    sharers: dict[int, list[tuple[int, int]]] = {}  # segment -> the groups of equal numbers that it is in
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if 1 < length <= MAX_SHARED:
            for owner in owners[start : start + length].tolist():
                sharers.setdefault(owner, []).append((start, length))
    found: dict[int, int] = {}
    for segment in sorted(sharers):
        common: dict[int, int] = {}
        for start, length in sharers[segment]:
            for other in owners[start : start + length].tolist():
                if other < segment and other not in found:
                    common[other] = common.get(other, 0) + 1
        for other in sorted(common):
            if common[other] >= max(similarity * min(sizes[segment], sizes[other]), 2):
                found[segment] = other
                break
    return found
