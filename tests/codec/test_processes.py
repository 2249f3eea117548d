"""Codecs in other processes, under autocast and under other defaults of PyTorch."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, make_speech
from goldens import streaming_codec

from mimo_codec import MimoCodec, MimoError, save_audio

SPEECH = make_speech(0.8)


def test_a_codec_works_in_a_spawned_process() -> None:
    codec = streaming_codec()
    state = codec.encode_chunk(SPEECH[:4800])[1]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(codec.encode, (SPEECH, 24000)) == codec.encode(SPEECH, 24000)
        codes, _ = pool.apply(codec.encode_chunk, (SPEECH[4800:], state, True))
    assert torch.equal(codes, codec.encode_chunk(SPEECH[4800:], state, True)[0])


def test_a_codec_pickles_with_its_name_and_device() -> None:
    codec = streaming_codec()
    copy = pickle.loads(pickle.dumps(codec))
    assert (copy.model_id, copy.device, copy.dtype) == (codec.model_id, codec.device, codec.dtype)
    assert torch.equal(copy.decode(codec.encode(SPEECH, 24000)), codec.decode(codec.encode(SPEECH, 24000)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    """Codes that depended on it could not be compared, and states would not fit the next step."""
    codec = streaming_codec()
    codes = codec.encode(SPEECH, 24000)
    waveform = codec.decode(codes)
    pieces = SPEECH.split(1000)
    with torch.autocast("cpu", dtype=dtype):
        assert codec.encode(SPEECH, 24000) == codes
        assert codec.encode_batch([SPEECH, SPEECH[:9000]], 24000)[0] == codes
        assert torch.equal(codec.decode(codes), waveform)
        state, found = None, []
        for i, piece in enumerate(pieces):
            new, state = codec.encode_chunk(piece, state, i == len(pieces) - 1)
            found.append(new)
        streamed = torch.cat(list(codec.decode_stream([codes])), dim=-1)
    assert np.array_equal(torch.cat(found, dim=-1), codes.codes)
    assert streamed.dtype == torch.float32 and (streamed - waveform).abs().max() < 1e-5
    for value in state.values():
        assert value.dtype in (torch.float32, torch.int64, torch.bool)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_dtype_changes_nothing(tiny_folder: Path, dtype: torch.dtype) -> None:
    expected = MimoCodec.from_pretrained(tiny_folder, device="cpu").encode(SPEECH, 24000)
    with default_dtype(dtype):
        codec = MimoCodec.from_pretrained(tiny_folder, device="cpu")
        assert codec.encode(SPEECH, 24000) == expected
    assert codec.encode(SPEECH, 24000) == expected
    assert MimoCodec.from_pretrained(tiny_folder, device="cpu").encode(SPEECH, 24000) == expected


def test_the_device_without_values(run, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MimoError, match="device: meta cannot be used"):
        MimoCodec.from_pretrained(tiny_folder, device="meta")
    save_audio(tmp_path / "a.wav", SPEECH, 24000)
    arguments = ["encode", tmp_path / "a.wav", "-o", tmp_path / "a.mimo", "-m", tiny_folder, "--device", "meta"]
    assert_one_line_error(run(*arguments), "device: meta cannot be used")
