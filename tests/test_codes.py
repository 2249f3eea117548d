"""AudioCodes: their fields, what joins, iterates, moves and sends them, and their use without torch."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from example_codes import TWENTY, fields, make

from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError

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
