"""Writing audio that fails, or is refused, leaves what was there."""

from __future__ import annotations

import io
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from signals import SPEECH_LIKE, noise
from torch import Tensor

from mimo_codec.audio import writer
from mimo_codec.audio.files import audio_info, load_audio
from mimo_codec.audio.writer import AudioWriter, save_audio
from mimo_codec.common.errors import MimoError

# --- writes that fail leave what was there


@pytest.mark.parametrize(
    ("name", "rate", "waveform", "message"),
    [
        ("a.txt", 16_000, noise(9), "known are .wav, .flac, .ogg, .opus, .mp3"),
        ("a", 16_000, noise(9), "known are .wav, .flac, .ogg, .opus, .mp3"),
        ("a.opus", 44_100, noise(9), "8000, 12000, 16000, 24000, and 48000"),
        ("a.mp3", 96_000, noise(9), "8000, 11025, 12000"),
        ("a.flac", 768_000, noise(9), "FLAC/PCM_16 at 768000 Hz"),
        ("a.wav", 0, noise(9), "0 is not a sample rate"),
        ("a.wav", None, noise(9), "None is not a sample rate"),
        ("a.wav", 16_000, torch.tensor([0.0, math.nan]), "sample 1 is NaN"),
        ("a.wav", 16_000, torch.tensor([[0.0, 0.0], [math.inf, 0.0]]), "sample 0 is infinite"),
        ("a.wav", 16_000, torch.empty(0), "no samples to write"),
        ("a.wav", 16_000, torch.empty(0, 9), "cannot be written"),
        ("a.wav", 16_000, noise(1, 1, 9), "[channels, S] is needed"),
        ("a.wav", 16_000, noise(900, 2), "transpose"),
        ("a.wav", 16_000, [0.0, 0.1], "list"),
        ("no/folder/a.wav", 16_000, noise(9), "no/folder"),
    ],
)
def test_saves_that_are_refused(tmp_path: Path, name: str, rate: int, waveform: Tensor, message: str) -> None:
    with pytest.raises(MimoError) as raised:
        save_audio(tmp_path / name, waveform, rate)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == []


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, torch.zeros(5), 16_000)
    with pytest.raises(MimoError, match="exists"):
        save_audio(path, torch.ones(9), 16_000, overwrite=False)
    assert load_audio(path)[0].tolist() == [0] * 5
    save_audio(path, torch.ones(9), 16_000)
    assert len(load_audio(path)[0]) == 9


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    old, new = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
    old.write_bytes(b"what was there")
    for path in (old, new):
        with pytest.raises(error), AudioWriter(path, 24_000) as writer:
            writer.write(SPEECH_LIKE)
            raise error
    assert os.listdir(tmp_path) == [old.name]
    assert old.read_bytes() == b"what was there"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "a.wav"
    path.write_bytes(b"what was there")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MimoError, match="cannot be written"):
            save_audio(path, noise(200_000), 16_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["a.wav"]
    assert path.read_bytes() == b"what was there"


def test_writer_refuses_other_channels_and_use_outside_its_block(tmp_path: Path) -> None:
    writer = AudioWriter(tmp_path / "a.wav", 16_000)
    with pytest.raises(RuntimeError, match="with"):
        writer.write(noise(5))
    with pytest.raises(MimoError, match="2 channels"), writer:
        writer.write(noise(2, 5))
    assert os.listdir(tmp_path) == []
    with writer:
        writer.write(noise(5))
    with pytest.raises(RuntimeError, match="with"):
        writer.write(noise(5))
    assert len(load_audio(tmp_path / "a.wav")[0]) == 5


# ---- writing that fails ----------------------------------------------------------------------------------------------


def test_a_wav_beyond_its_limit_is_rf64_where_the_length_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("mimo_codec.audio.writer._MAX_WAV_BYTES", 1000)
    save_audio(tmp_path / "long.wav", SPEECH_LIKE, 24_000)
    assert audio_info(tmp_path / "long.wav").format == "RF64/PCM_16"
    assert (load_audio(tmp_path / "long.wav")[0] - SPEECH_LIKE).abs().max() <= 2**-16
    save_audio(tmp_path / "short.wav", SPEECH_LIKE[:500], 24_000)
    assert audio_info(tmp_path / "short.wav").format == "WAV/PCM_16"
    with pytest.raises(MimoError, match="4 GiB"), AudioWriter(tmp_path / "unknown.wav", 24_000) as writer:
        for piece in SPEECH_LIKE.split(300):
            writer.write(piece)
    assert not (tmp_path / "unknown.wav").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_a_full_disk_is_named(suffix, tmp_path, monkeypatch):
    sink = writer._Sink
    monkeypatch.setattr(writer, "_Sink", lambda path, mode: sink("/dev/full", mode))
    with pytest.raises(MimoError, match="No space left on device") as caught:
        save_audio(tmp_path / f"a{suffix}", SPEECH_LIKE, 24_000)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_ctrl_c_while_writing_is_not_lost(suffix, tmp_path, monkeypatch):
    """Also where it comes while libsndfile calls back, which would print and forget it."""

    def interrupted(self, data):
        signal.raise_signal(signal.SIGINT)
        return io.FileIO.write(self, data)

    monkeypatch.setattr(writer._Sink, "write", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            save_audio(tmp_path / f"a{suffix}", SPEECH_LIKE, 24_000)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())
