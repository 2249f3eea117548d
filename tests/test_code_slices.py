"""AudioCodes by the second: slices cover their interval and nothing else."""

import itertools
import math

import numpy as np
import pytest
import torch
from example_codes import SAMPLES_PER_FRAME, make, unhurried
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError


def frames_of(whole: AudioCodes, part: AudioCodes) -> tuple[int, int]:
    """Where the codes of `part`, which are unique in `whole`, lie: first frame and past the last"""
    first = whole.codes[0].tolist().index(part.codes[0, 0])
    assert np.array_equal(part.codes, whole.codes[:, first : first + len(part)])
    return first, first + len(part)


def counting(num_frames: int, num_samples: int) -> AudioCodes:
    """Codes that are their own frame numbers."""
    codes = np.arange(num_frames)[None]
    return AudioCodes(codes, num_samples, 24000, 25.0, (65536,))


@pytest.mark.parametrize(
    ("cut", "frames", "num_samples"),
    [
        (slice(None), (0, 50), 47100),
        (slice(0, None), (0, 50), 47100),
        (slice(0.5, 1.0), (12, 25), 13 * 960),
        (slice(0.56, 0.6), (14, 15), 960),  # 0.56 * 25 is 14.000000000000002
        (slice(0.57, 0.58), (14, 15), 960),
        (slice(1, None), (25, 50), 47100 - 25 * 960),
        (slice(None, 1), (0, 25), 25 * 960),
        (slice(None, 99), (0, 50), 47100),
        (slice(-99, 0.04), (0, 1), 960),
        (slice(-0.0025, None), (49, 50), 60),
        (slice(None, -0.0025), (0, 49), 49 * 960),
        (slice(-1, -0.5), (24, 37), 13 * 960),
        (slice(-math.inf, math.inf), (0, 50), 47100),
        (slice(np.float32(0.5), np.int64(1)), (12, 25), 13 * 960),
    ],
)
def test_slices_by_seconds(cut, frames, num_samples):
    whole = counting(50, 47100)  # 1.9625 s, the last frame has 60 samples
    part = whole[cut]
    assert frames_of(whole, part) == frames
    assert part.num_samples == num_samples


@pytest.mark.parametrize("num_samples", [1920, 1921, 2879])
def test_a_slice_to_the_end_keeps_the_last_frames(num_samples):
    """An encoder may give one frame more than the samples fill; it belongs to the last ones."""
    whole = counting(3, num_samples)
    assert whole[: num_samples / 24000] == whole[:] == whole
    assert whole[0.04:].num_frames == 2


def test_a_slice_keeps_kind_and_model():
    part = make(tensor=True)[0:0.2]
    assert isinstance(part.codes, torch.Tensor)
    assert part.model == "nano@1a2b3c4d"


@pytest.mark.parametrize("cut", [(1, 1), (1, 0.5), (2, None), (9, 10), (None, 0), (None, -2)])
def test_empty_slices_are_errors(cut):
    with pytest.raises(MimoError, match=f"no codes from {cut[0]} to {cut[1]} s.*2.000 s long"):
        make()[slice(*cut)]


@pytest.mark.parametrize("key", [0, 0.5, slice(0, 1, 1), slice("0", 1), slice(math.nan, 1), (0, 1)])
def test_wrong_keys_are_errors(key):
    with pytest.raises(MimoError, match="second"):
        make()[key]


@unhurried
@given(data=st.data(), num_frames=st.integers(1, 300), spare=st.integers(0, 1919))
def test_slices_at_frames_partition(data, num_frames, spare):
    num_samples = max(1, num_frames * SAMPLES_PER_FRAME - spare)
    whole = counting(num_frames, num_samples)
    inner = st.integers(1, max(1, (num_samples - 1) // SAMPLES_PER_FRAME))
    cuts = sorted(data.draw(st.sets(inner, max_size=5)) if num_samples > 960 else [])
    edges = [None, *(cut / 25 for cut in cuts), None]
    parts = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert np.concatenate([part.codes for part in parts], axis=1).tolist() == whole.codes.tolist()
    assert sum(part.num_samples for part in parts) == num_samples


@unhurried
@given(
    num_samples=st.integers(1, 20000),
    start=st.floats(-2, 2, allow_nan=False),
    length=st.floats(0, 2),
)
def test_a_slice_covers_its_interval_and_no_frame_more(num_samples, start, length):
    whole = counting(num_samples // SAMPLES_PER_FRAME + 1, num_samples)
    low = max(0.0, start if start >= 0 else start + whole.duration)
    high = min(low + length, whole.duration)
    try:
        first, last = frames_of(whole, whole[start:high])
    except MimoError:
        assert high - low < 1e-6
        return
    slack = 1e-6
    assert first / 25 <= low + slack and low < (first + 1) / 25 + slack
    if last < whole.num_frames:
        assert high <= last / 25 + slack and (last - 1) / 25 < high + slack
    else:
        assert high * 24000 > (whole.num_frames - 2) * SAMPLES_PER_FRAME - 1
