import errno
import itertools
import json
import math
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mimo_codec import bitstream
from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError

EIGHT = (1024, 1024, 128, 128, 128, 128, 128, 128)
TWENTY = (1024, 1024) + (128,) * 18
SAMPLES_PER_FRAME = 960

unhurried = settings(deadline=None)  # a busy machine is no failure


def make(sizes=EIGHT, num_frames=50, num_samples=None, model="nano@1a2b3c4d", seed=0, tensor=False) -> AudioCodes:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(size, size=num_frames) for size in sizes])
    return AudioCodes(
        codes=torch.from_numpy(codes) if tensor else codes,
        num_samples=num_samples or num_frames * SAMPLES_PER_FRAME,
        sample_rate=24000,
        frame_rate=25.0,
        codebook_sizes=sizes,
        model=model,
    )


def fields(**changes):
    """Valid constructor arguments, with changes."""
    valid = {
        "codes": np.array([[0, 1, 2], [3, 4, 5]]),
        "num_samples": 2880,
        "sample_rate": 24000,
        "frame_rate": 25.0,
        "codebook_sizes": (8, 8),
        "model": None,
    }
    return valid | changes


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


# ---- the value


def test_figures():
    codes = make(num_frames=50, num_samples=47000)
    assert (codes.num_quantizers, codes.num_frames, len(codes)) == (8, 50, 50)
    assert codes.samples_per_frame == 960
    assert codes.duration == 47000 / 24000
    assert codes.bitrate == 1550.0
    assert repr(codes) == (
        "AudioCodes(8 codebooks x 50 frames, 1.958 s at 24000 Hz, 1.55 kbit/s, model='nano@1a2b3c4d')"
    )


def test_a_codebook_of_one_entry_costs_nothing():
    assert make(sizes=(1, 2, 3, 4, 5)).bitrate == (0 + 1 + 2 + 2 + 3) * 25.0


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint64"])
def test_integers_become_int64_of_the_same_kind(dtype):
    array = np.array([[0, 1, 2], [3, 4, 5]], dtype=dtype)
    from_array = AudioCodes(**fields(codes=array))
    from_tensor = AudioCodes(**fields(codes=torch.from_numpy(array)))
    assert isinstance(from_array.codes, np.ndarray) and from_array.codes.dtype == np.int64
    assert isinstance(from_tensor.codes, torch.Tensor) and from_tensor.codes.dtype == torch.int64
    assert from_array.to_numpy().tolist() == from_tensor.to_numpy().tolist() == array.tolist()


def test_big_endian_array():
    swapped = AudioCodes(**fields(codes=np.array([[0, 1, 2], [3, 4, 5]], dtype=">i4")))
    assert swapped == AudioCodes(**fields())
    assert swapped.codes.dtype == np.dtype("int64")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_tensor_keeps_its_device():
    codes = AudioCodes(**fields(codes=torch.tensor([[0, 1, 2], [3, 4, 5]], device="cuda")))
    assert codes.codes.device.type == codes[:0.04].codes.device.type == "cuda"
    assert AudioCodes.from_bytes(codes.to_bytes()) == codes


def test_numpy_scalars_and_lists_become_plain_values():
    codes = AudioCodes(
        **fields(
            num_samples=np.int32(2000),
            sample_rate=np.int64(24000),
            frame_rate=25,
            codebook_sizes=[np.int64(8), 8],
        )
    )
    kinds = [type(v) for v in (codes.num_samples, codes.sample_rate, codes.frame_rate)]
    assert kinds == [int, int, float]
    assert codes.codebook_sizes == (8, 8) and type(codes.codebook_sizes[0]) is int


def test_equality_compares_every_field_and_value():
    ours = AudioCodes(**fields())
    assert ours == AudioCodes(**fields())
    assert ours == AudioCodes(**fields(codes=torch.tensor([[0, 1, 2], [3, 4, 5]])))
    changes = [
        {"codes": np.array([[0, 1, 2], [3, 4, 6]])},
        {"num_samples": 2879},
        {"sample_rate": 48000, "frame_rate": 50.0},
        {"frame_rate": 12.5},
        {"codebook_sizes": (8, 9)},
        {"model": "nano@1a2b3c4d"},
    ]
    for change in changes:
        assert ours != AudioCodes(**fields(**change)), change
    assert ours != "codes"


def test_frozen_and_unhashable():
    with pytest.raises(AttributeError):
        make().num_samples = 1
    with pytest.raises(TypeError):
        hash(make())


def test_to_numpy_is_a_copy():
    for codes in (make(), make(tensor=True)):
        codes.to_numpy()[:] = -1
        assert codes == make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": [[0, 1], [2, 3]]}, "not list"),
        ({"codes": np.zeros((2, 3))}, "integers, not float64"),
        ({"codes": np.zeros((2, 3), bool)}, "integers, not bool"),
        ({"codes": np.zeros((2, 3), complex)}, "integers, not complex128"),
        ({"codes": np.zeros((2, 3), object)}, "integers, not object"),
        ({"codes": torch.zeros(2, 3)}, "integers, not torch.float32"),
        ({"codes": torch.zeros(2, 3, dtype=torch.bfloat16)}, "integers, not torch.bfloat16"),
        ({"codes": torch.zeros(2, 3, dtype=torch.bool)}, "integers, not torch.bool"),
        ({"codes": np.zeros(3, int)}, r"\[Q, T\].*\(3,\)"),
        ({"codes": np.zeros((1, 2, 3), int)}, r"\[Q, T\].*\(1, 2, 3\)"),
        ({"codes": np.zeros((0, 3), int)}, r"\[Q, T\].*\(0, 3\)"),
        ({"codes": torch.zeros(2, 0, dtype=torch.int64)}, r"\[Q, T\].*\(2, 0\)"),
        ({"codes": np.array([[0, 1, 2], [3, 8, 5]])}, "codebook 1, frame 1: 8 is not in 0..7"),
        ({"codes": np.array([[0, 1, -2], [3, 8, 5]])}, "codebook 0, frame 2: -2 is not in 0..7"),
        (
            {"codes": np.array([[0, 1, 2], [3, 4, 2**64 - 1]], dtype=np.uint64)},
            "codebook 1, frame 2: 18446744073709551615 is not in 0..7",
        ),
        ({"codebook_sizes": (8,)}, "2 codebooks, codebook_sizes has 1"),
        ({"codebook_sizes": ()}, "codebook_sizes"),
        ({"codebook_sizes": 8}, "codebook_sizes"),
        ({"codebook_sizes": (8, 8.0)}, "codebook size"),
        ({"codebook_sizes": (8, 0)}, "codebook size"),
        ({"codebook_sizes": (8, 65537)}, "codebook size"),
        ({"num_samples": 0}, "num_samples must be an integer from 1 to 2880, not 0"),
        ({"num_samples": 2881}, "num_samples"),
        ({"num_samples": 100.0}, "num_samples"),
        ({"num_samples": True}, "num_samples"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": 24000.0}, "sample_rate"),
        ({"sample_rate": 10**400}, "sample_rate"),
        ({"frame_rate": 0}, "frame_rate"),
        ({"frame_rate": -25.0}, "frame_rate"),
        ({"frame_rate": math.nan}, "frame_rate"),
        ({"frame_rate": math.inf}, "frame_rate"),
        ({"frame_rate": 5e-324}, "frame_rate"),
        ({"frame_rate": "25"}, "frame_rate"),
        ({"frame_rate": True}, "frame_rate"),
        ({"frame_rate": 25.1}, "frame_rate 25.1 does not divide sample_rate 24000"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": "n" * 65}, "model"),
        ({"model": "nano\n"}, "model"),
        ({"model": "nano\x1b[2J"}, "model"),
        ({"model": "nano\ud800"}, "model"),
    ],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(MimoError, match=message) as caught:
        AudioCodes(**fields(**change))
    assert "\n" not in str(caught.value)


def test_first():
    codes = make(sizes=TWENTY)
    assert codes.first(20) == codes
    first = codes.first(3)
    assert first.codebook_sizes == (1024, 1024, 128)
    assert np.array_equal(first.codes, codes.codes[:3])
    assert first.num_samples == codes.num_samples
    with pytest.raises(MimoError, match="has 8 codebooks, 9 were asked for"):
        make().first(9)
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(MimoError, match="num_quantizers"):
            make().first(wrong)


# ---- slicing by seconds


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


# ---- without torch


def run_python(script: str, *arguments: str) -> None:
    root = ROOT
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_everything_works_without_torch(tmp_path):
    make(tensor=True).save(tmp_path / "in.mimo")
    script = """
import sys
sys.modules["torch"] = None  # makes `import torch` fail
import numpy as np
from mimo_codec.codes import AudioCodes
codes = AudioCodes.load(sys.argv[1])
assert isinstance(codes.codes, np.ndarray) and codes.codes.dtype == np.int64
assert codes[0.4:1].num_frames == 15 and codes.first(2).to_numpy().shape == (2, 50)
AudioCodes(codes.to_numpy(), codes.num_samples, 24000, 25.0, codes.codebook_sizes, codes.model)
codes[:1].save(sys.argv[2])
"""
    run_python(script, str(tmp_path / "in.mimo"), str(tmp_path / "out.mimo"))
    assert AudioCodes.load(tmp_path / "out.mimo") == make()[:1]


def test_import_and_numpy_use_do_not_import_torch():
    script = """
import sys
import numpy as np
from mimo_codec.codes import AudioCodes
AudioCodes(np.zeros((1, 1), np.int64), 960, 24000, 25.0, (2,)).to_bytes()
assert "torch" not in sys.modules
"""
    run_python(script)


# ---- joined, iterated, moved, batched, sent --------------------------------------------------------------------------


def small_codes(kind: str, num_samples: int = 4 * 960 + 3, sizes: tuple[int, ...] = (9, 4)) -> AudioCodes:
    ids = np.arange(5 * len(sizes)).reshape(5, len(sizes)).T % 4
    return AudioCodes(ids if kind == "numpy" else torch.from_numpy(ids.copy()), num_samples, 24000, 25.0, sizes, "a@1")


KINDS = pytest.mark.parametrize("kind", ["numpy", "torch"])


@KINDS
def test_joined_in_time(kind):
    codes = small_codes(kind)
    assert codes[:0.08] + codes[0.08:] == codes
    joined = small_codes(kind, 2 * 960 + 1) + codes  # what comes after the end of the first is left out
    assert joined.num_frames == 3 + 5 and joined.num_samples == 3 * 960 + codes.num_samples
    assert type(joined.codes) is type(codes.codes)
    with pytest.raises(MimoError, match="cannot be joined: codebook_sizes"):
        codes + small_codes(kind, sizes=(9, 4, 4))
    with pytest.raises(TypeError):
        codes + 1


@KINDS
def test_iterated_moved_and_batched(kind):
    codes = small_codes(kind)
    assert [frame.shape for frame in codes] == [(2, 1)] * len(codes)
    assert isinstance(codes.to("cpu").codes, torch.Tensor) and codes.to("cpu") == codes
    batch, lengths = next(iter(torch.utils.data.DataLoader([codes, codes[:0.04]], 2, collate_fn=AudioCodes.collate)))
    assert batch.shape == (2, 2, 5) and lengths.tolist() == [5, 1]
    assert batch[1, :, 0].equal(batch[0, :, 0]) and not batch[1, :, 1:].any()
    with pytest.raises(MimoError, match="different codebooks"):
        AudioCodes.collate([codes, small_codes(kind, sizes=(9, 5))])
    with pytest.raises(MimoError, match="at least one"):
        AudioCodes.collate([])


@KINDS
def test_pickled_and_loaded_without_other_classes(kind, tmp_path):
    import pickle

    codes = small_codes(kind)
    torch.save({"codes": codes}, tmp_path / "codes.pt")
    for loaded in (pickle.loads(pickle.dumps(codes)), torch.load(tmp_path / "codes.pt", weights_only=True)["codes"]):
        assert loaded == codes and type(loaded.codes) is type(codes.codes)
    with pytest.raises(MimoError, match="num_samples"):
        codes.__setstate__({**codes.__getstate__(), "num_samples": -1})


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
