"""Formats and codings of files; files that are cut short, do not know their length, or ask for too much memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import make_speech

from mimo_codec import MimoError, load_audio, save_audio
from mimo_codec.audio import folders
from mimo_codec.audio.files import audio_info, iter_audio
from mimo_codec.audio.formats import AV_SUFFIXES, SNDFILE_SUFFIXES
from mimo_codec.common.errors import DamageWarning

RATE = 24000
SPEECH = make_speech(2.0, RATE)
CODINGS = {
    "wav": (
        "WAV",
        ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"],
    ),
    "wavex": ("WAVEX", ("PCM_16",)),
    "rf64": ("RF64", ("PCM_16",)),
    "w64": ("W64", ("PCM_16", "FLOAT")),
    "aiff": ("AIFF", ("PCM_16", "PCM_S8")),
    "caf": ("CAF", ("PCM_16", "ALAC_16")),
    "au": ("AU", ("PCM_16", "ULAW")),
    "flac": ("FLAC", ("PCM_16", "PCM_24")),
    "ogg": ("OGG", ("VORBIS", "OPUS")),
    "mp3": ("MP3", ("MPEG_LAYER_III",)),
}
CASES = [(suffix, container, coding) for suffix, (container, codings) in CODINGS.items() for coding in codings]


def encoded(container: str, coding: str, samples: np.ndarray | None = None) -> bytes:
    buffer, samples = io.BytesIO(), SPEECH.numpy() if samples is None else samples
    sf.write(buffer, samples, 8000 if coding == "GSM610" else RATE, format=container, subtype=coding)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_unexpected_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamageWarning)
        yield


@pytest.mark.parametrize(("suffix", "container", "coding"), CASES)
def test_a_piece_is_that_of_the_whole(suffix, container, coding, tmp_path):
    """Also of codings that libsndfile seeks inexactly in, or not at all."""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(container, coding))
    whole, rate = load_audio(path)
    for start, end in [(0.1234, 0.5), (0.9, None), (0.0, 0.3), (1.0, 1.0001)]:
        piece, _ = load_audio(path, start, end)
        stop = len(whole) if end is None else round(end * rate)
        assert np.array_equal(piece, whole[round(start * rate) : stop])
    blocks = list(iter_audio(path, 0.1, start=0.25))
    assert np.array_equal(np.concatenate(blocks), whole[round(0.25 * rate) :])


@pytest.mark.parametrize(
    ("start", "end"), [(-1, None), (float("nan"), None), (0, float("inf")), (2, 1), (0, -1), ("0", 1)]
)
def test_impossible_times(start, end, tmp_path):
    save_audio(tmp_path / "a.wav", SPEECH, RATE)
    with pytest.raises(MimoError, match="start|end"):
        load_audio(tmp_path / "a.wav", start, end)


# ---- cut short -------------------------------------------------------------------------------------------------------

CUT = [case for case in CASES if case[1] not in ("CAF",)]
"""Libsndfile refuses the header of a CAF file that is cut short."""


@pytest.mark.parametrize(("suffix", "container", "coding"), CUT)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_a_file_is_a_warning_and_with_strict_an_error(suffix, container, coding, share, tmp_path):
    path, noise = tmp_path / f"a.{suffix}", np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE)
    data = encoded(container, coding, noise)
    path.write_bytes(data)
    whole, rate = load_audio(path)
    path.write_bytes(data[: round(len(data) * share)])
    with pytest.warns(DamageWarning) as caught:
        half, _ = load_audio(path)
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith(f"{path}: ") and f"sample {len(half)}" in message and "\n" not in message
    assert (share - 0.3) * len(whole) < len(half) < (share + 0.05) * len(whole)
    settled = slice(0, len(half) - rate // 10)  # lossy coders overlap the frame that is gone
    assert np.abs(half - whole[: len(half)])[settled].max() < 1e-6
    for read in (lambda: load_audio(path, strict=True), lambda: list(iter_audio(path, 0.05, strict=True))):
        with pytest.raises(MimoError, match=f"sample {len(half)}"):
            read()
    with pytest.raises(MimoError, match=f"sample {len(half)}"):  # the filter of this file
        load_audio(path)
    assert len(load_audio(path, 0.0, 0.2)[0]) == round(0.2 * rate)  # a piece before the place is whole


def test_the_samples_before_damage_are_kept(tmp_path):
    path = tmp_path / "a.flac"
    save_audio(path, np.random.default_rng(0).uniform(-0.5, 0.5, 100_000), RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(DamageWarning):
        assert 40_000 < len(load_audio(path)[0]) < 52_000  # of the first block of samples, which is larger


def test_nothing_before_the_damage_is_an_error(tmp_path):
    path = tmp_path / "a.flac"
    save_audio(path, SPEECH, RATE)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MimoError, match="damaged"):
        load_audio(path)


# ---- lengths that are not known --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_wav_that_was_streamed_is_read_to_its_end(size, tmp_path):
    path, data = tmp_path / "a.wav", bytearray(encoded("WAV", "PCM_16"))
    data[4:8] = data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    assert len(load_audio(path)[0]) == len(SPEECH)
    assert np.array_equal(np.concatenate(list(iter_audio(path, 0.3))), load_audio(path)[0])
    assert len(load_audio(path, 0.5, 1.0)[0]) == RATE // 2


def test_a_wav_without_samples_holds_none(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("WAV", "PCM_16", np.zeros(0)))
    with pytest.raises(MimoError, match="holds no samples"):
        load_audio(tmp_path / "a.wav")


def test_an_mp3_that_counts_no_frames_is_read_to_its_end(tmp_path):
    path, data = tmp_path / "a.mp3", bytearray(encoded("MP3", "MPEG_LAYER_III", make_speech(20.0, RATE).numpy()))
    path.write_bytes(data)
    num_samples = len(load_audio(path)[0])
    place = max(data.find(b"Xing"), data.find(b"Info"))
    data[place + 8 : place + 12] = bytes(4)
    path.write_bytes(data)
    assert abs(len(load_audio(path)[0]) - num_samples) < 3 * 1152  # the coder's own delay is counted there too
    assert audio_info(path).num_samples is None


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["MAT5", "SDS", "PVF"])
def test_containers_of_other_things_are_not_read(container, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(container, "PCM_16"))
    with pytest.raises(MimoError, match="not audio in a known format"):
        load_audio(path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1024), (768_000, 1024)])
def test_many_channels_take_no_more_memory_than_one(rate, channels, tmp_path):
    path = tmp_path / "a.wav"
    with sf.SoundFile(path, "w", rate, channels, format="WAV", subtype="PCM_U8") as file:
        file.write(np.zeros((100, channels)))
    script = (
        "import sys, resource; from mimo_codec.audio.files import load_audio, iter_arrays\n"
        "resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))\n"
        "assert len(load_audio(sys.argv[1])[0]) == 100\n"
        "assert sum(map(len, iter_arrays(sys.argv[1], 3600.0))) == 100\n"
    )
    limit = 4 * 2**30
    done = subprocess.run([sys.executable, "-c", script, path, str(limit)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_loading_takes_the_memory_of_the_samples_once(tmp_path):
    path, seconds = tmp_path / "a.wav", 1500
    with sf.SoundFile(path, "w", 48000, 1, format="WAV", subtype="PCM_16") as file:
        for _ in range(seconds):
            file.write(np.zeros(48000, np.int16))
    script = (
        "import sys, resource, numpy; from mimo_codec.audio.files import load_audio\n"
        "import torch; load_audio(sys.argv[1], 0, 1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "size = load_audio(sys.argv[1])[0].nbytes\n"
        "grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        "assert grown < 1.5 * size, (grown, size)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- what PyAV reads -------------------------------------------------------------------------------------------------


def with_av(path: Path, codec: str, container: str) -> Path:
    av = pytest.importorskip("av", reason="needs the formats extra")
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE if codec != "libopus" else 48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(SPEECH.numpy()[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for converted in av.AudioResampler(stream.format.name, "mono", stream.rate).resample(frame):
            for packet in stream.encode(converted):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "container"), [("m4a", "aac", "ipod"), ("aac", "aac", "adts"), ("webm", "libopus", "webm")]
)
def test_formats_that_libsndfile_cannot_read(suffix, codec, container, tmp_path):
    path = with_av(tmp_path / f"a.{suffix}", codec, container)
    assert path.suffix in AV_SUFFIXES
    waveform, rate = load_audio(path)
    assert abs(len(waveform) / rate - 2.0) < 0.1 and np.abs(waveform).max() > 0.1
    assert np.array_equal(load_audio(path, 0.5, 1.0)[0], waveform[rate // 2 : rate])
    assert audio_info(path).num_samples is None and audio_info(path).sample_rate == rate
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MimoError, match="known format|no audio|no samples|damaged"):
        load_audio(path)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    path = with_av(tmp_path / "a.m4a", "aac", "ipod")
    monkeypatch.setattr("mimo_codec.audio.decoders.find_spec", lambda name: None)
    with pytest.raises(MimoError, match=r"mimo-codec\[formats\]"):
        load_audio(path)


def test_play_lists_open_nothing(tmp_path):
    pytest.importorskip("av", reason="needs the formats extra")
    save_audio(tmp_path / "secret.wav", SPEECH, RATE)
    for name, text in {
        "a.m3u8": f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(MimoError, match="not audio in a known format"):
            load_audio(tmp_path / name)


def test_folders_say_what_they_leave_out(tmp_path, monkeypatch):
    save_audio(tmp_path / "a.wav", SPEECH, RATE)
    (tmp_path / "b.M4A").touch()
    (tmp_path / "c.aiff").touch()
    monkeypatch.setattr(folders, "AUDIO", SNDFILE_SUFFIXES)
    with pytest.warns(UserWarning, match=r"1 files are left out: \.m4a need PyAV"):
        assert [path.name for path in folders.find_files(tmp_path, folders.AUDIO)] == ["a.wav", "c.aiff"]
    monkeypatch.setattr(folders, "AUDIO", (*SNDFILE_SUFFIXES, *AV_SUFFIXES))
    assert len(folders.find_files(tmp_path, folders.AUDIO)) == 3
