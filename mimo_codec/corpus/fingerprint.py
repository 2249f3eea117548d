"""Fingerprints of sound, by which segments that sound alike are found whatever their level, noise or coding.

A moment is described by the signs of differences of energy between bands and times, as in Haitsma and Kalker (2002), of
few bands at four times in a row. Only moments whose differences are large count, because noise and lossy coding leave
them as they are. The fingerprint keeps those with the smallest hashes (a bottom-k sketch, Cohen and Kaplan 2007), so
two segments keep the same moments of what both have, wherever they are cut. Two segments sound alike when several
moments are the same at the same distances (Wang 2003).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 5000
FRAME, HOP = 1856, 58
"""Samples of a frame, 0.37 s, and between frames, 11.6 ms."""
BANDS = 8
LOW, HIGH = 250.0, 1500.0
"""Lowest and highest frequency in Hz; bands are equally wide on a logarithmic scale."""
LAG = 8
"""Frames from one energy to the one that it is compared with."""
GAPS = (0, 12, 24, 36)
"""Frames from the beginning of a moment to the four times that describe it by seven bits each."""
RELIABLE = 0.4
"""Share of the moments that count, if they are more than SIZE."""
SIZE = 96
"""Moments of a fingerprint."""
MOMENT = np.dtype([("number", "<u4"), ("frame", "<u2")])
"""What a moment sounds like, and when it is."""
FRAMES_AT_ONCE = 512
MAX_SHARED = 256
"""Numbers that so many segments have tell nothing, such as those of a tone, and are not compared."""
MIN_SHARED = 4
"""Moments that two segments must have in common."""
TOLERANCE = 1
"""Frames by which the distances between these may differ."""
MIN_SPREAD = 12
"""Frames, 0.14 s, over which they must be spread: neighbours are nearly the same moment."""


def fingerprint(samples: NDArray[np.float32]) -> NDArray[np.void]:
    """Samples [S] at 5 kHz -> up to 96 of MOMENT, ascending by number; fewer for what is short or silent."""
    if len(samples) < FRAME + HOP * (LAG + GAPS[-1]):
        return np.zeros(0, MOMENT)
    between_bands = np.diff(_band_energies(samples), axis=1)
    changes = between_bands[LAG:] - between_bands[:-LAG]
    count = len(changes) - GAPS[-1]
    steps = np.concatenate([changes[gap : gap + count] for gap in GAPS], axis=1)
    reliability = np.abs(steps).min(axis=1)
    chosen = np.argsort(-reliability, kind="stable")[: max(int(RELIABLE * count), SIZE)]
    chosen = np.sort(chosen[reliability[chosen] > 0])
    bits = (steps[chosen] > 0).astype(np.uint32) @ (np.uint32(1) << np.arange(steps.shape[1], dtype=np.uint32))
    numbers, first = np.unique(_mix(bits.astype(np.uint32)), return_index=True)
    found = np.zeros(min(len(numbers), SIZE), MOMENT)
    found["number"] = numbers[:SIZE]
    found["frame"] = chosen[first][:SIZE].clip(max=np.iinfo(np.uint16).max)
    return found


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


def near_duplicates(fingerprints: list[NDArray[np.void]], similarity: float) -> dict[int, int]:
    """Number of a segment -> number of an earlier one, which stays, that it sounds like.

    similarity: share of the moments of the smaller fingerprint that both have, at least MIN_SHARED moments. Memory
    grows with all fingerprints, by about 50 bytes for each moment.
    """
    sizes = np.array([len(f) for f in fingerprints])
    if not sizes.sum():
        return {}
    owners, frames, firsts = _shared_moments(fingerprints, sizes)
    by_owner = np.argsort(owners, kind="stable")
    begins = np.searchsorted(owners[by_owner], np.arange(len(fingerprints) + 1))
    found: dict[int, int] = {}
    for segment in np.flatnonzero(np.diff(begins)).tolist():
        entries = by_owner[begins[segment] : begins[segment + 1]]
        earlier = np.concatenate([np.arange(firsts[entry], entry) for entry in entries])
        if len(earlier) < MIN_SHARED:
            continue
        times = np.repeat(frames[entries], entries - firsts[entries])
        others, which, counts = np.unique(owners[earlier], return_inverse=True, return_counts=True)
        needed = np.maximum(MIN_SHARED, similarity * np.minimum(sizes[segment], sizes[others]))
        for number in np.flatnonzero(counts >= needed).tolist():
            other, shared = int(others[number]), which == number
            if other not in found and _agreeing(times[shared], frames[earlier[shared]]) >= needed[number]:
                found[segment] = other
                break
    return found


def _shared_moments(
    fingerprints: list[NDArray[np.void]], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.int64]]:
    """Return owner and frame of every moment that several segments have, and the place of the first with its number.

    Those with one number follow each other, by their owners.
    """
    moments = np.concatenate(fingerprints)
    owners = np.repeat(np.arange(len(fingerprints), dtype=np.uint32), sizes)
    order = np.argsort(moments["number"], kind="stable")
    numbers = moments["number"][order]
    _, lengths = np.unique(numbers, return_counts=True)
    lengths = np.repeat(lengths, lengths)
    kept = (lengths > 1) & (lengths <= MAX_SHARED)
    order, numbers = order[kept], numbers[kept]
    firsts = np.searchsorted(numbers, numbers)
    return owners[order], moments["frame"][order].astype(np.int32), firsts


def _agreeing(times: NDArray[np.int32], others: NDArray[np.int32]) -> int:
    """Frames [n] of the same moments in two segments -> how many of them lie at the same distances in both."""
    shifts = times - others
    most = 0
    for shift in np.unique(shifts):
        near = np.abs(shifts - shift) <= TOLERANCE
        if np.ptp(times[near]) >= MIN_SPREAD:
            most = max(most, int(near.sum()))
    return most
