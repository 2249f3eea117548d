"""Audio files written and read, whole and in blocks; headers that lie; files that are refused."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import make_speech
from signals import SPEECH_LIKE, noise

from mimo_codec.audio.files import AudioInfo, audio_blocks, audio_info, iter_arrays, iter_audio, load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.audio.waveform import check_array
from mimo_codec.audio.writer import AudioWriter, save_audio
from mimo_codec.common.errors import MimoError

# --- files, written and read


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_load_wav_of_any_subtype(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, SPEECH_LIKE.numpy(), 22_050, subtype=subtype)
    x, rate = load_audio(path)
    assert x.dtype == torch.float32 and rate == 22_050
    step = {"PCM_U8": 2**-7, "PCM_16": 2**-15}.get(subtype, 2**-23)
    assert (x - SPEECH_LIKE).abs().max() <= 2 * step  # libsndfile scales by one step less


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sixteen_bits_survive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 70_000).astype(np.int16)
    save_audio(path, pcm, 16_000)
    assert torch.equal(load_audio(path)[0], torch.from_numpy(pcm) / 2**15)
    save_audio(path, load_audio(path)[0], 16_000)
    assert np.array_equal(sf.read(path, dtype="int16")[0], pcm)


@pytest.mark.parametrize(
    ("suffix", "coding", "tolerance"),
    [
        (".wav", "WAV/PCM_16", 2**-16),
        (".flac", "FLAC/PCM_16", 2**-16),
        (".ogg", "OGG/VORBIS", 0.05),
        (".opus", "OGG/OPUS", 0.05),
        (".MP3", "MP3/MPEG_LAYER_III", 0.05),
    ],
)
def test_round_trip(tmp_path: Path, suffix: str, coding: str, tolerance: float) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, SPEECH_LIKE, 24_000)
    x, rate = load_audio(str(path))
    assert rate == 24_000 and x.shape == SPEECH_LIKE.shape
    assert (x - SPEECH_LIKE).abs().max() <= tolerance
    assert audio_info(path) == AudioInfo(24_000, len(SPEECH_LIKE), 1, coding)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_channels_are_saved_and_averaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, torch.stack([SPEECH_LIKE, torch.zeros_like(SPEECH_LIKE)]), 24_000)
    assert audio_info(path).num_channels == 2
    assert (load_audio(path)[0] - SPEECH_LIKE / 2).abs().max() < 0.05


def test_more_than_full_scale_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, np.array([-7.0, -1.0, 0.0, 1.0, 7.0]), 16_000)
    assert sf.read(path, dtype="int16")[0].tolist() == [-(2**15), -(2**15), 0, 2**15 - 1, 2**15 - 1]


def test_writer_in_pieces_equals_save(tmp_path: Path) -> None:
    x = noise(150_000).requires_grad_()
    save_audio(tmp_path / "a.flac", x, 16_000)
    with AudioWriter(tmp_path / "b.flac", 16_000) as writer:
        for piece in x.split(7001):
            writer.write(piece)
        writer.write(x[:0])
    assert torch.equal(load_audio(tmp_path / "a.flac")[0], load_audio(tmp_path / "b.flac")[0])


# --- iter_audio


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_iter_audio_equals_load_audio(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, torch.stack([noise(36_001, seed=1), noise(36_001, seed=2)]) / 2, 24_000)
    whole, _ = load_audio(path)
    for seconds in (0.1, 0.333, 10.0, 1e-4) if suffix == ".wav" else (0.1, 10.0):
        blocks = list(iter_audio(path, seconds))
        assert all(0 < len(block) <= max(1, round(seconds * 24_000)) for block in blocks)
        assert torch.equal(torch.cat(blocks), whole)


@pytest.mark.parametrize("new", [8000, 16_000, 24_000, 44_100, 44_101])
def test_iter_audio_resamples(tmp_path: Path, new: int) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, noise(36_001) / 2, 22_050)
    expected = resample(load_audio(path)[0], 22_050, new)
    for seconds in (0.01, 10.0):
        blocks = list(iter_audio(path, seconds, sample_rate=new))
        assert torch.equal(torch.cat(blocks), expected)
        arrays = list(iter_arrays(path, seconds, sample_rate=new))
        assert [len(array) for array in arrays] == [len(block) for block in blocks]
        assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in arrays)
        assert np.array_equal(np.concatenate(arrays), expected.numpy())


@pytest.mark.parametrize("new", [16_000, 22_050, 44_101])
@pytest.mark.parametrize("num_channels", [1, 2, 5])
def test_files_arrays_and_tensors_give_the_same_blocks(tmp_path: Path, new: int, num_channels: int) -> None:
    path = tmp_path / "a.wav"
    channels = noise(num_channels, 36_001) / 2
    save_audio(path, channels, 22_050)
    array = sf.read(path, dtype="float32", always_2d=True)[0].T
    expected = list(audio_blocks(path, None, new, block_seconds=0.5))
    assert len(expected) == 4 + (new != 22_050) and all(block.dtype == np.float32 for block in expected)
    for audio in (array, torch.from_numpy(array)):
        blocks = list(audio_blocks(audio, 22_050, new, block_seconds=0.5))
        assert [len(block) for block in blocks] == [len(block) for block in expected]
        assert all(isinstance(block, np.ndarray) for block in blocks)
        assert np.array_equal(np.concatenate(blocks), np.concatenate(expected))
        assert np.array_equal(np.concatenate(blocks), resample(check_array(audio, 22_050), 22_050, new))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read in /proc")
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_pieces_of_a_file_equal_those_of_the_whole(tmp_path: Path, suffix: str) -> None:
    """An Opus decoder need not forget within 80 ms how it came to a place, which leaves a small difference."""
    path = tmp_path / f"a{suffix}"
    save_audio(path, make_speech(5.0), 24000)
    whole, rate = load_audio(path)
    for start, end in [(0.0, 0.5), (0.0301, None), (1.23456, 4.0), (4.5, 9.0)]:
        expected = whole[round(start * rate) : None if end is None else round(end * rate)]
        assert torch.allclose(load_audio(path, start, end)[0], expected, atol=1e-3 if suffix == ".opus" else 1e-6)
        blocks = torch.cat(list(iter_audio(path, 0.3, start=start, end=end)))
        assert torch.allclose(blocks, expected, atol=1e-3 if suffix == ".opus" else 1e-6)
    with pytest.raises(MimoError, match=f"a{suffix}: holds no samples from 5.5 s on"):
        load_audio(path, 5.5, 6.0)


def test_pieces_of_files_of_unknown_length(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, make_speech(3.0), 24000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert audio_info(path).num_samples is None
    whole, _ = load_audio(path)
    assert torch.equal(load_audio(path, 1.5, 2.0)[0], whole[36000:48000])
    with pytest.raises(MimoError, match="no samples from 5 s on"):
        load_audio(path, 5.0)


def test_pieces_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, make_speech(20.0), 24000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(load_audio(path, 1.0, 2.0)[0]) == 24000
    with pytest.raises(MimoError, match="a.flac: is damaged"):
        load_audio(path, 18.0, 19.0)


def test_iter_audio_holds_no_more_than_blocks(tmp_path: Path) -> None:
    def resident_megabytes() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    path = tmp_path / "long.flac"
    with AudioWriter(path, 8000) as writer:
        for _ in range(60):
            writer.write(SPEECH_LIKE.repeat(5))
    num_samples = 60 * 5 * len(SPEECH_LIKE)  # 22 minutes: 41 MB as read, 124 MB at 24 kHz
    total, before, peak = 0, 0.0, 0.0
    for i, block in enumerate(iter_audio(path, 5.0, sample_rate=24_000)):
        total += len(block)
        peak = max(peak, resident_megabytes())
        before = before if i else peak
    assert total == 3 * num_samples
    assert peak - before < 20


# --- headers that do not tell the truth


def test_mp3_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    """libsndfile alone would stop after the 5 s that the size of the loud first frame suggests."""
    told, untold = tmp_path / "told.mp3", tmp_path / "untold.mp3"
    loud_then_silent = np.concatenate([noise(80_000).numpy() / 3, np.zeros(400_000)])
    coding = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE"}
    sf.write(told, loud_then_silent, 24_000, **coding, compression_level=0.5)
    data = told.read_bytes()
    first_audio_frame = data.index(data[:2], 2)  # the one before holds the header's length
    tag = b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)
    for start in (b"", tag):
        untold.write_bytes(start + data[first_audio_frame:])
        assert audio_info(told).num_samples == 480_000
        assert audio_info(untold).num_samples is None
        assert sf.info(untold).frames < 400_000
        assert 480_000 <= len(load_audio(untold)[0]) < 480_000 + 3 * 1152  # the coder's own delay


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, SPEECH_LIKE, 24_000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert audio_info(path).num_samples is None
    assert load_audio(path)[0].shape == SPEECH_LIKE.shape


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, SPEECH_LIKE, 24_000)
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert load_audio(path)[0].shape == SPEECH_LIKE.shape


# --- files that are refused


def read_with_all(path: Path, message: str, header_is_bad: bool = True) -> None:
    def whole() -> None:
        load_audio(path)

    def blocks() -> None:
        list(iter_audio(path, 0.01, sample_rate=24_000))

    def header() -> None:
        audio_info(path)

    for read in (whole, blocks, *([header] if header_is_bad else [])):
        with pytest.raises(MimoError) as raised:
            read()
        text = str(raised.value)
        assert text.startswith(f"{path}: ") and message in text and "\n" not in text


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    read_with_all(tmp_path / "none.wav", "there is no such file")
    read_with_all(tmp_path, "is a folder")
    read_with_all(tmp_path / ("x" * 300), "cannot be read")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wav", b"", "is empty"),
        ("a.wav", b"hello world, " * 100, "is not audio"),
        ("a.mp3", b"hello world, " * 100, "is not audio"),
        ("a.raw", b"hello world, " * 100, "is not audio"),
        ("a", b"\x00", "is not audio"),
        ("a.wav", b"RIFF\xff\xff\xff\xffWAVE", "is not audio"),
    ],
)
def test_files_that_are_not_audio(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read_with_all(path, message)


def test_file_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(0), 16_000)
    read_with_all(path, "holds no samples", header_is_bad=False)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (-np.inf, "infinite")])
def test_file_with_samples_that_are_no_numbers(tmp_path: Path, value: float, kind: str) -> None:
    path = tmp_path / "a.wav"
    x = np.zeros((300_000, 2), dtype=np.float32)
    x[270_001, 1] = x[280_000, 0] = value
    sf.write(path, x, 16_000, subtype="FLOAT")
    read_with_all(path, f"sample 270001 is {kind}", header_is_bad=False)


def test_file_with_an_absurd_sample_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(10), 10)
    read_with_all(path, "10 is not a sample rate")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, noise(10), 16_000)
    path.chmod(0)
    read_with_all(path, "cannot be read: Permission denied")


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf])
def test_block_seconds_that_are_refused(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, noise(10), 16_000)
    with pytest.raises(MimoError, match="block_seconds"):
        next(iter_audio(path, seconds))
    with pytest.raises(MimoError, match="0 is not a sample rate"):
        next(iter_audio(path, sample_rate=0))
