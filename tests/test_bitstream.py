"""The .mimo file: what is written, how quickly, and saves that fail."""

import errno
import json
import math
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from example_codes import SAMPLES_PER_FRAME, TWENTY, fields, make, unhurried
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mimo_codec import bitstream
from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError


@st.composite
def audio_codes(draw) -> AudioCodes:
    sizes = draw(st.lists(st.integers(1, 65536), min_size=1, max_size=20))
    num_frames = draw(st.integers(1, 200))
    unit = draw(hnp.arrays(np.float64, (len(sizes), num_frames), elements=st.floats(0, 1)))
    codes = np.minimum(np.floor(unit * np.array(sizes)[:, None]), np.array(sizes)[:, None] - 1)
    printable = st.text(st.characters().filter(str.isprintable), min_size=1, max_size=64)
    return AudioCodes(
        codes=codes.astype(np.int64),
        num_samples=draw(st.integers(1, num_frames * SAMPLES_PER_FRAME)),
        sample_rate=24000,
        frame_rate=25.0,
        codebook_sizes=tuple(sizes),
        model=draw(st.none() | printable),
    )


# ---- the file: what is written


@unhurried
@given(codes=audio_codes())
def test_round_trip(codes):
    data = codes.to_bytes()
    again = AudioCodes.from_bytes(data)
    assert again == codes
    assert isinstance(again.codes, torch.Tensor) and again.codes.dtype == torch.int64
    assert again.to_bytes() == data


@pytest.mark.parametrize("num_frames", [4095, 4096, 4097, 9001])
def test_round_trip_across_blocks(num_frames):
    codes = make(sizes=(1024, 1, 3, 128), num_frames=num_frames)
    assert AudioCodes.from_bytes(codes.to_bytes()) == codes


def test_save_and_load(tmp_path):
    path = tmp_path / "speech.mimo"
    codes = make(tensor=True)
    codes.save(path)
    assert AudioCodes.load(path) == AudioCodes.load(str(path)) == codes
    assert os.listdir(tmp_path) == ["speech.mimo"]


def test_layout_is_as_documented():
    """Every byte written out by hand: it must never change for version 1."""
    codes = AudioCodes(np.array([[5, 1], [0, 0], [2, 3]]), 1000, 24000, 25.0, (6, 1, 4), "m@f")
    header = (
        b'{"model":"m@f","codebooks":[[6,1],[1,1],[4,1]],"frames":2,"samples":1000,'
        b'"frame_rate":25.0,"sample_rate":24000}'
    )
    body = b"MIMO\x01" + struct.pack("<H", len(header)) + header
    body += bytes([0b101_10_001, 0b11_000000])
    assert codes.to_bytes() == body + struct.pack("<I", zlib.crc32(body))


def test_runs_of_sizes():
    header = header_of(make(sizes=TWENTY).to_bytes())
    assert header["codebooks"] == [[1024, 2], [128, 18]]


def test_eight_codebooks_cost_1550_bits_per_second():
    hour = 90000
    payload = 1550 * 3600 // 8
    one_frame, data = (make(num_frames=n).to_bytes() for n in (1, hour))
    growth = len(str(hour)) + len(str(hour * 960)) - len("1") - len("960")
    assert len(data) - payload == len(one_frame) - 62 // 8 - 1 + growth


def test_overhead_is_under_200_bytes():
    codes = make(sizes=TWENTY, num_frames=90000, model="n" * 64)
    payload = math.ceil(90000 * 146 / 8)
    assert payload < len(codes.to_bytes()) < payload + 200


def test_an_hour_of_twenty_codebooks_is_quick():
    codes = make(sizes=TWENTY, num_frames=90000)
    start = time.process_time()
    data = codes.to_bytes()
    packed = time.process_time()
    AudioCodes.from_bytes(data)
    # About a second each is wanted; the limit allows for a slow and busy machine.
    assert packed - start < 4 and time.process_time() - packed < 4


def test_packing_takes_little_memory_besides_the_codes():
    codes = make(sizes=TWENTY, num_frames=90000)
    tracemalloc.start()
    data = codes.to_bytes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A few copies of the file and a block of bits; all bits at once would be 13 MB more.
    assert peak < 4 * len(data) + 4e6


def test_too_many_codes_for_a_file_is_said_before_packing():
    wide = np.broadcast_to(np.zeros(1, np.int64), (256, (1 << 19) + 1))
    with pytest.raises(MimoError, match="too many for one file"):
        bitstream.encode(codes=wide, **{**rates(), "codebook_sizes": (2,) * 256})
    with pytest.raises(MimoError, match="1048576 of codebooks with one entry"):
        bitstream.encode(codes=wide[:3], **{**rates(), "codebook_sizes": (1, 1, 2)})


def rates():
    valid = fields()
    del valid["codes"]
    return valid


# ---- the file: what is refused


def header_of(data: bytes) -> dict:
    (size,) = struct.unpack_from("<H", data, 5)
    return json.loads(data[7 : 7 + size])


# ---- saving that fails


def test_save_does_not_overwrite_unasked(tmp_path):
    path = tmp_path / "a.mimo"
    make(seed=1).save(path, overwrite=False)
    with pytest.raises(MimoError, match="already exists"):
        make(seed=2).save(path, overwrite=False)
    assert AudioCodes.load(path) == make(seed=1)
    make(seed=2).save(path)
    assert AudioCodes.load(path) == make(seed=2)


def test_save_to_impossible_places(tmp_path):
    with pytest.raises(MimoError, match="is a folder"):
        make().save(tmp_path)
    with pytest.raises(MimoError, match="there is no folder"):
        make().save(tmp_path / "missing" / "a.mimo")


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", ["write", "replace"])
def test_failed_save_leaves_things_as_they_were(tmp_path, monkeypatch, failing, existing):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_half(path, data):
        path.open("wb").write(data[: len(data) // 2])
        refuse()

    target = tmp_path / "a.mimo"
    if existing:
        make(seed=1).save(target)
    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(Path, "write_bytes", write_half)
        else:
            patch.setattr(os, "replace", refuse)
        with pytest.raises(MimoError, match="a.mimo: cannot be written: No space left on device"):
            make(seed=2).save(target)
    assert os.listdir(tmp_path) == (["a.mimo"] if existing else [])
    if existing:
        assert AudioCodes.load(target) == make(seed=1)
