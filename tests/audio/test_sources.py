"""Audio in whatever form callers have it: bytes, file objects, pipes, pairs, dictionaries of data sets."""

from __future__ import annotations

import gc
import io
import os
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import make_speech

from mimo_codec import AudioCodes, MimoCodec, MimoError, load_audio, save_audio
from mimo_codec.audio.files import audio_info, iter_audio
from mimo_codec.common import spooled
from mimo_codec.common.errors import MimoWarning

SPEECH = make_speech(0.5).numpy()
RATE = 24000


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "a.wav"
    save_audio(path, SPEECH, RATE)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(spooled.tempfile, "gettempdir", lambda: str(folder))
    return folder


class Pipe(io.RawIOBase):
    """A file object that cannot seek and gives a little at a time."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.data.readinto(memoryview(buffer)[:1000])


class Decoder:
    """What data sets give that decode by torchcodec."""

    def get_all_samples(self) -> Any:
        class Samples:
            data, sample_rate = torch.from_numpy(SPEECH)[None].repeat(2, 1), RATE

        return Samples


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "pipe": lambda path: Pipe(path.read_bytes()),
    "dictionary of bytes": lambda path: {"path": "elsewhere.wav", "bytes": path.read_bytes()},
    "dictionary of a path": lambda path: {"path": str(path), "bytes": None},
    "dictionary of an array": lambda path: {"path": None, "array": sf.read(path)[0], "sampling_rate": RATE},
    "pair": lambda path: (sf.read(path)[0], RATE),
    "pair of a tensor": lambda path: (torch.from_numpy(sf.read(path)[0]), float(RATE)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_codes(tiny_codec: MimoCodec, wav: Path, form: str) -> None:
    assert tiny_codec.encode(FORMS[form](wav)) == tiny_codec.encode(wav)


def test_batches_of_every_form_from_a_generator(tiny_codec: MimoCodec, wav: Path) -> None:
    found = tiny_codec.encode_batch(make(wav) for make in FORMS.values())
    assert found == [tiny_codec.encode(wav)] * len(FORMS)
    waveforms = tiny_codec.decode_batch(iter(found[:2]))
    assert torch.equal(waveforms[0], waveforms[1])


def test_a_decoder_of_a_data_set(tiny_codec: MimoCodec) -> None:
    assert tiny_codec.encode(Decoder()) == tiny_codec.encode(SPEECH, RATE)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_files_in_memory_are_read_as_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, SPEECH, RATE)
    expected, rate = load_audio(path)
    for form in ("bytes", "file", "pipe"):
        waveform, found = load_audio(FORMS[form](path))
        assert torch.equal(waveform, expected) and found == rate
    assert audio_info(path.read_bytes()) == audio_info(path)
    assert torch.equal(torch.cat(list(iter_audio(Pipe(path.read_bytes()), 0.1))), expected)
    assert torch.equal(load_audio(path.read_bytes(), 0.1, 0.3)[0], load_audio(path, 0.1, 0.3)[0])


def test_a_file_object_is_read_from_where_it_stands(wav: Path) -> None:
    file = io.BytesIO(b"before" + wav.read_bytes())
    file.seek(6)
    assert torch.equal(load_audio(file)[0], load_audio(wav)[0])


def test_codes_in_memory(tiny_codec: MimoCodec, wav: Path, tmp_path: Path) -> None:
    codes = tiny_codec.encode(wav)
    codes.save(tmp_path / "a.mimo")
    data = (tmp_path / "a.mimo").read_bytes()
    for form in (tmp_path / "a.mimo", str(tmp_path / "a.mimo"), data, io.BytesIO(data), Pipe(data)):
        assert AudioCodes.load(form) == codes
    for form in (tmp_path / "a.mimo", data, Pipe(data)):
        assert torch.equal(tiny_codec.decode(form), tiny_codec.decode(codes))
    with pytest.raises(MimoError, match="codes: damaged"):
        AudioCodes.load(data[:-1] + b"x")


# ---- temporary files -------------------------------------------------------------------------------------------------


def test_temporary_copies_go_away(tiny_codec: MimoCodec, wav: Path, place: Path) -> None:
    tiny_codec.encode(wav.read_bytes())
    with pytest.raises(MimoError):
        tiny_codec.encode(b"not audio")
    next(iter_audio(wav.read_bytes(), 0.1))
    gc.collect()
    assert not list(place.iterdir())


def test_what_never_ends_is_given_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "MAX_BYTES", 2**22)

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    with pytest.raises(MimoError, match="audio: goes on after 4194304 bytes"):
        load_audio(Endless())
    gc.collect()
    assert not list(place.iterdir())


def test_a_full_disk_is_named(place: Path, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    def opened(number: int, mode: str) -> Full:
        os.close(number)
        return Full()

    monkeypatch.setattr(spooled.os, "fdopen", opened)
    with pytest.raises(MimoError, match="audio: cannot be copied to .*TMPDIR.*: No space left on device"):
        load_audio(wav.read_bytes())
    assert not list(place.iterdir())


def test_a_pipe_of_the_system(tiny_codec: MimoCodec, wav: Path) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(wav.read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as file:
        assert tiny_codec.encode(file) == tiny_codec.encode(wav)
    writer.join()


# ---- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Any, str]] = {
    "text": (io.StringIO("no bytes"), "audio: is opened as text; open it as binary"),
    "no sound": (b"no sound at all", "audio: is not audio in a known format"),
    "nothing": (b"", "audio: is empty"),
    "cut short": (b"RIFF\x00\x00", "audio: is"),
    "empty dictionary": ({}, "audio: a dictionary of nothing; array and sampling_rate"),
    "other dictionary": ({"text": "a"}, "audio: a dictionary of 'text'; array and"),
    "no rate": ({"array": SPEECH}, "audio: has an array without sampling_rate"),
    "no rate in it": ({"array": SPEECH, "sampling_rate": None}, "audio: its sample rate is not known"),
    "list": ({"array": [0.0, 1.0], "sampling_rate": RATE}, "audio: is a list"),
    "bad rate": ((SPEECH, "fast"), "audio: sample_rate: 'fast' is not a sample rate"),
    "path of no kind": ({"path": 3}, "audio: is a int; the path of a file"),
    "no file": ({"path": "no-such.wav"}, "no-such.wav: there is no such file"),
    "nothing at all": (None, "audio: "),
    "many channels": ((np.zeros((24000, 100), np.float32), RATE), r"\[24000, 100\] looks like \[S, channels\]"),
    "rate first": ((RATE, SPEECH), "audio: sample_rate: .* is not a sample rate"),
    "sparse": ((torch.zeros(9).to_sparse(), RATE), "audio: is a sparse, nested or meta tensor"),
    "meta": ((torch.zeros(9, device="meta"), RATE), "audio: is a sparse, nested or meta tensor"),
    "two channels": ((np.zeros((24000, 2), np.float32), RATE), "transpose it"),
}


@pytest.mark.parametrize("error", [EOFError("it ended"), zlib.error("bad"), RuntimeError("gone"), KeyError(1)])
def test_whatever_a_file_object_raises_is_one_error(tiny_codec: MimoCodec, error: Exception) -> None:
    """As those of gzip, of archives and of connections do."""

    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise error

    for read in (tiny_codec.encode, load_audio, AudioCodes.load, tiny_codec.decode):
        with pytest.raises(MimoError, match="cannot be read") as caught:
            read(Broken())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codes", [5, None, ["a.mimo"], {"bytes": b""}, np.zeros((2, 2), int), torch.zeros(2, 2)])
def test_what_is_no_file_of_codes(codes: Any) -> None:
    with pytest.raises(MimoError, match="codes: is a .*; the path of a file") as caught:
        AudioCodes.load(codes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codes", [torch.zeros(8, 3).long().to_sparse(), torch.zeros(8, 3, device="meta").long()])
def test_codes_without_values(tiny_codec: MimoCodec, codes: torch.Tensor) -> None:
    for use in (tiny_codec.decode, tiny_codec.decode_chunk, lambda c: AudioCodes(c, 9, 24000, 25.0, (9,) * 8)):
        with pytest.raises(MimoError, match="codes: is a sparse, nested or meta tensor"):
            use(codes)


def test_tensors_with_a_gradient_are_read_without_a_warning(tiny_codec: MimoCodec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_codec.encode(torch.zeros(2400, requires_grad=True), RATE)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(tiny_codec: MimoCodec, name: str) -> None:
    audio, message = MISTAKES[name]
    with pytest.raises(MimoError, match=message):
        tiny_codec.encode(audio)
    with pytest.raises(MimoError) as caught:
        tiny_codec.encode_batch([audio])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("single", [b"RIFF", io.BytesIO(b"RIFF"), {"array": SPEECH, "sampling_rate": RATE}, 3])
def test_a_single_item_is_no_batch(tiny_codec: MimoCodec, single: Any) -> None:
    with pytest.raises(MimoError, match="audio: is a single .* list of items is needed"):
        tiny_codec.encode_batch(single)


def test_two_rates_that_differ(tiny_codec: MimoCodec) -> None:
    with pytest.raises(MimoError, match="comes with the sample rate 24000, and sample_rate=16000 says another"):
        tiny_codec.encode((SPEECH, RATE), 16000)
    assert tiny_codec.encode((SPEECH, RATE), RATE) == tiny_codec.encode(SPEECH, RATE)


@pytest.mark.parametrize("rate", [24000.0, np.float32(24000), np.int16(24000), torch.tensor(24000)])
def test_rates_of_other_types(tiny_codec: MimoCodec, rate: Any) -> None:
    assert tiny_codec.encode(SPEECH, rate) == tiny_codec.encode(SPEECH, RATE)


@pytest.mark.parametrize("rate", [24000.5, float("inf"), float("nan"), 1e300, -24000.0, "24000", 2.0])
def test_rates_that_are_none(tiny_codec: MimoCodec, rate: Any) -> None:
    with pytest.raises(MimoError, match="is not a sample rate; a whole number"):
        tiny_codec.encode(SPEECH, rate)


def test_floats_in_the_scale_of_integers_are_warned_of(tiny_codec: MimoCodec) -> None:
    with pytest.warns(MimoWarning, match="float samples beyond 64, and full scale is 1: divide samples of 16 bits"):
        tiny_codec.encode(SPEECH * 32768, RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_codec.encode(SPEECH * 20, RATE)
        tiny_codec.encode((SPEECH * 32767).astype(np.int16), RATE)
