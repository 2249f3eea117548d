"""The .mimo file: damaged, forged and random files give an error that names the fault."""

import json
import math
import os
import re
import struct
import tracemalloc
import zlib

import pytest
from example_codes import make, unhurried
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec import bitstream
from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError

# ---- the file: what is refused


def forge(header, payload=b"\x00\x00\x00", version=1, header_size=None) -> bytes:
    """A file with a right checksum around anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if header_size is None else header_size
    body = b"MIMO" + struct.pack("<BH", version, size) + text + payload
    return body + struct.pack("<I", zlib.crc32(body))


VALID = {
    "model": None,
    "codebooks": [[8, 2]],
    "frames": 3,
    "samples": 2880,
    "frame_rate": 25.0,
    "sample_rate": 24000,
}


def test_the_forged_file_is_valid_before_it_is_spoilt():
    assert AudioCodes.from_bytes(forge(VALID)).to_numpy().tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"MIM", "not a .mimo file"),
        (b"RIFF" + bytes(100), "not a .mimo file"),
        (b"MIMO", "cut short"),
        (forge(VALID, version=2), "version 2; this release reads up to 1: upgrade mimo-codec"),
        (forge(VALID, version=2)[:-9], "version 2; this release reads up to 1"),
        (forge(VALID, version=0), "no version 0"),
        (forge(VALID) + b"\x00", "bytes added"),
        (forge(VALID)[:-1], "cut short"),
        (forge(VALID, header_size=65535), "header of 65535 bytes"),
        (forge(VALID, header_size=10), "not JSON"),
        (forge(b"\xff"), "not JSON"),
        (forge(b"[" * 60000), "not JSON"),
        (forge(b"[]"), "not a JSON object"),
        (forge(VALID, payload=b"\x00\x00"), "3 frames take 3 bytes, there are 2"),
        (forge(VALID, payload=bytes(4)), "3 frames take 3 bytes, there are 4"),
        (forge(VALID, payload=b"\x00\x00\x01"), "bits after the last code"),
        (forge(VALID | {"codebooks": [[6, 2]]}, b"\x1c\x00\x00"), "codebook 1, frame 0: 7"),
    ],
)
def test_bad_files_are_errors(tmp_path, data, message):
    path = tmp_path / "bad.mimo"
    path.write_bytes(data)
    with pytest.raises(MimoError, match=message) as caught:
        AudioCodes.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


HUGE = 10**12


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [3, ["nano"], "", "n" * 65, "a\nb", "\ud800"]),
        (
            "codebooks",
            [None, 8, {}, [], [8, 8], [[8]], [[8, 2, 1]], [[8, 3]], [["8", 2]], [[8.0, 2]]]
            + [[[0, 2]], [[65537, 2]], [[8, 0]], [[8, -2]], [[8, True]], [[1, HUGE]]]
            + [[[1, 200], [2, 57]]],
        ),
        ("frames", [None, 0, -1, 2, 5, 3.0, "3", True, HUGE, 10**300]),
        ("samples", [None, 0, -1, 2881, 1.5, "1", True, HUGE]),
        ("frame_rate", [None, 0, -25, "25", True, math.nan, math.inf, 1e-300, 10**400]),
        ("sample_rate", [None, 0, -1, 24000.0, "24000", True, HUGE, 10**400]),
    ],
)
def test_wrong_header_values_are_errors(field, values):
    for value in values:
        with pytest.raises(MimoError, match="^speech.mimo: "):
            AudioCodes.from_bytes(forge(VALID | {field: value}), source="speech.mimo")


@pytest.mark.parametrize("field", VALID)
def test_missing_header_fields_are_named(field):
    header = {key: value for key, value in VALID.items() if key != field}
    with pytest.raises(MimoError, match=rf"missing \['{field}'\]"):
        AudioCodes.from_bytes(forge(header))


def test_unknown_header_fields_are_named():
    with pytest.raises(MimoError, match=r"unknown \['title'\]"):
        AudioCodes.from_bytes(forge(VALID | {"title": "x"}))


@pytest.mark.parametrize(
    ("codebooks", "frames", "num_bytes"),
    [
        ([[8, 2]], (1 << 26) + 1, 3),
        ([[8, 2]], HUGE, 3),
        ([[1, 2]], (1 << 26) + 1, 0),  # codebooks of one entry take no bytes, but memory
        ([[1, 2]], HUGE, 0),
        ([[1, 1]], (1 << 20) + 1, 0),
        ([[1, 255], [2, 1]], (1 << 19) + 8, (1 << 16) + 1),
    ],
)
def test_absurd_lengths_allocate_nothing(codebooks, frames, num_bytes, monkeypatch):
    def fail(*_, **__):
        pytest.fail("memory was asked for")

    monkeypatch.setattr(bitstream, "_unpack", fail)
    with pytest.raises(MimoError):
        header = VALID | {"codebooks": codebooks, "frames": frames}
        AudioCodes.from_bytes(forge(header, bytes(num_bytes)))


@pytest.fixture(scope="module")
def sample() -> bytes:
    return make(num_frames=7, num_samples=6000).to_bytes()


def test_truncated_at_any_byte(sample, tmp_path):
    path = tmp_path / "cut.mimo"
    for size in range(len(sample)):
        path.write_bytes(sample[:size])
        with pytest.raises(MimoError, match=f"^{re.escape(str(path))}: "):
            AudioCodes.load(path)


def test_any_byte_flipped(sample):
    for position in range(len(sample)):
        for flip in (0xFF, 0x01, 0x80):
            spoilt = bytearray(sample)
            spoilt[position] ^= flip
            with pytest.raises(MimoError):
                AudioCodes.from_bytes(bytes(spoilt))


@unhurried
@given(data=st.data())
def test_any_bits_flipped(sample, data):
    bits = data.draw(st.sets(st.integers(0, 8 * len(sample) - 1), min_size=1, max_size=20))
    spoilt = bytearray(sample)
    for bit in bits:
        spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MimoError):
        AudioCodes.from_bytes(bytes(spoilt))


@unhurried
@given(tail=st.binary(min_size=1, max_size=40))
def test_trailing_bytes(sample, tail):
    with pytest.raises(MimoError):
        AudioCodes.from_bytes(sample + tail)


def test_a_trailing_checksum_does_not_hide_trailing_bytes(sample):
    with pytest.raises(MimoError, match="there are"):
        AudioCodes.from_bytes(sample + struct.pack("<I", zlib.crc32(sample)))


@unhurried
@given(data=st.binary(max_size=200))
def test_random_bytes(data):
    for start in (b"", b"MIMO\x01"):
        with pytest.raises(MimoError):
            AudioCodes.from_bytes(start + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@unhurried
@given(changes=st.dictionaries(st.sampled_from(sorted(VALID)), json_values, min_size=1))
def test_random_headers_give_codes_or_an_error(changes):
    try:
        codes = AudioCodes.from_bytes(forge(VALID | changes))
    except MimoError:
        return
    assert codes.to_numpy().shape == (2, 3)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.mimo", tmp_path):
        with pytest.raises(MimoError, match=f"^{re.escape(str(path))}: cannot be read: ") as caught:
            AudioCodes.load(path)
        assert "\n" not in str(caught.value)


def test_a_large_file_of_another_kind_is_not_read_whole(tmp_path):
    path = tmp_path / "film.mkv"
    with path.open("wb") as file:
        file.truncate(1 << 28)
    tracemalloc.start()
    with pytest.raises(MimoError, match="not a .mimo file"):
        AudioCodes.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# ---- joined, iterated, moved, batched, sent --------------------------------------------------------------------------


def test_files_larger_than_any_mimo_file_are_refused(tmp_path):
    """A sparse file of 6 GB, which takes no room on the disk, takes no memory either."""
    path = tmp_path / "sparse.mimo"
    path.write_bytes(b"MIMO")
    os.truncate(path, 6_000_000_000)
    tracemalloc.start()
    with pytest.raises(MimoError, match=r"sparse\.mimo: has 6000000000 bytes, more than any \.mimo file"):
        AudioCodes.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mimo")
    with pytest.raises(MimoError, match=r"pipe\.mimo: cannot be read: it is not a regular file"):
        AudioCodes.load(tmp_path / "pipe.mimo")
