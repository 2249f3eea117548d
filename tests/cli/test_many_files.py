"""The command line with many files, long files and names that are not text: what it writes, and where."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import assert_same_waveform, files, random_codes, speech
from conftest import assert_one_line_error, make_speech
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec import AudioCodes, CodecConfig, MimoCodec, load_audio, save_audio
from mimo_codec.audio.formats import AUDIO, WRITABLE
from mimo_codec.audio.writer import AudioWriter
from mimo_codec.cli.batch import _batches
from mimo_codec.cli.plan import Job

# ---- many files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    speech(root / "b.wav", 0.4)
    speech(root / "a" / "b.FLAC", 1.1, 16000, seed=1)
    speech(root / "a" / "c" / "d.e.ogg", 2.3, 44100, seed=2)
    speech(root / "a" / "long.wav", 4.5, seed=3)
    speech(root / ".hidden" / "b.wav", 0.1)
    (root / "a" / ".b.wav").write_bytes(b"of another program")
    (root / "notes.txt").write_text("no audio")
    return root


NAMES = ["a/b", "a/c/d.e", "a/long", "b"]


def test_tree_is_mirrored_and_batches_equal_files_alone(run, tmp_path, tree, tiny_folder, tiny_codec, monkeypatch):
    batch_sizes = []
    encode_batch = MimoCodec.encode_batch

    def counted(self, audio, *args, **kwargs):
        batch_sizes.append(len(audio))
        return encode_batch(self, audio, *args, **kwargs)

    monkeypatch.setattr(MimoCodec, "encode_batch", counted)
    out = tmp_path / "out"
    assert run("encode", tree, "-o", out, "-m", tiny_folder, "--batch-seconds", 4) == (0, "", "")
    assert files(out) == [f"{name}.mimo" for name in NAMES]
    assert batch_sizes == [2]  # 4.5 s and 2.3 s alone
    alone = {Path(path).stem: tiny_codec.encode(tree / path) for path in ("b.wav", "a/long.wav", "a/c/d.e.ogg")}
    assert AudioCodes.load(out / "b.mimo") == alone["b"]
    assert AudioCodes.load(out / "a" / "b.mimo") == tiny_codec.encode(tree / "a" / "b.FLAC")
    assert AudioCodes.load(out / "a" / "c" / "d.e.mimo") == alone["d.e"]
    assert AudioCodes.load(out / "a" / "long.mimo") == alone["long"]

    assert run("decode", out, "-o", tmp_path / "wavs", "-m", tiny_folder, "--format", "flac") == (0, "", "")
    assert files(tmp_path / "wavs") == [f"{name}.flac" for name in NAMES]
    for name in NAMES:
        expected = tiny_codec.decode(AudioCodes.load(out / f"{name}.mimo"))
        assert_same_waveform(tmp_path / "wavs" / f"{name}.flac", expected)


def test_codes_may_lie_beside_the_audio(run, tree, tiny_folder):
    before = files(tree)
    assert run("encode", tree, "-o", tree, "-m", tiny_folder).code == 0
    assert files(tree) == sorted([*before, *(f"{name}.mimo" for name in NAMES)])


def test_several_files_and_a_folder(run, tmp_path, tiny_folder):
    inputs = [speech(tmp_path / "x.wav"), speech(tmp_path / "y.flac"), speech(tmp_path / "in" / "z.wav").parent]
    assert run("encode", *inputs, "-o", tmp_path / "out", "-m", tiny_folder) == (0, "", "")
    assert files(tmp_path / "out") == ["x.mimo", "y.mimo", "z.mimo"]


@pytest.mark.parametrize("existing", [False, True])
def test_one_file_into_a_folder(run, tmp_path, tiny_folder, existing):
    source, out = speech(tmp_path / "x.wav"), tmp_path / "out"
    if existing:
        out.mkdir()
    assert run("encode", source, "-o", out if existing else f"{out}/", "-m", tiny_folder) == (0, "", "")
    assert files(out) == ["x.mimo"]


def test_reconstruct_keeps_every_length(run, tmp_path, tiny_folder):
    lengths = {"one": (1, 16000), "hop": (239, 8000), "frame": (960, 24000), "odd": (12345, 11025), "cd": (7777, 44100)}
    (tmp_path / "in").mkdir()
    for name, (num_samples, rate) in lengths.items():
        save_audio(tmp_path / "in" / f"{name}.wav", make_speech(2, rate)[:num_samples], rate)
    outcome = run("reconstruct", tmp_path / "in", tmp_path / "out", "-m", tiny_folder)
    assert outcome == (0, "", "")
    for name, (num_samples, rate) in lengths.items():
        waveform, new_rate = load_audio(tmp_path / "out" / f"{name}.wav")
        assert (len(waveform), new_rate) == (math.ceil(num_samples * 24000 / rate), 24000)


@given(
    st.lists(st.one_of(st.floats(0, 300), st.just(math.inf)), min_size=1, max_size=30),
    st.floats(0.1, 1000),
)
def test_batches_hold_every_job_once_within_the_limit(seconds, most):
    lengths = {Job(Path(str(i)), Path("out")): length for i, length in enumerate(seconds)}
    batches = list(_batches(lengths, most))
    assert sorted(str(job.source) for batch in batches for job in batch) == sorted(map(str, range(len(seconds))))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[job] for job in batch) <= most


def test_progress_shows_on_a_terminal_only(run, tmp_path, tiny_folder, monkeypatch):
    speech(tmp_path / "in" / "x.wav")
    bad = tmp_path / "in" / f"{'long' * 20}.wav"
    bad.write_text("not audio")
    arguments = ["encode", tmp_path / "in", "-o", tmp_path / "out", "-m", tiny_folder, "--overwrite"]
    assert "2/2" not in run(*arguments).err
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    outcome = run(*arguments)
    assert "encode 2/2" in outcome.err and outcome.code == 1
    assert f"mimo-codec: error: {bad}: is not audio" in outcome.err


def test_the_formats_offered_are_those_that_can_be_written(run):
    assert set(WRITABLE) <= set(AUDIO)
    offered = run("decode", "--help").out
    assert all(suffix.removeprefix(".") in offered for suffix in WRITABLE)


# ---- long files ------------------------------------------------------------------------------------------------------


def test_long_codes_are_decoded_and_written_in_pieces(run, tmp_path, tiny_folder, tiny_codec, monkeypatch):
    sizes = []
    write = AudioWriter.write

    def counted(self, waveform):
        sizes.append(len(waveform))
        write(self, waveform)

    monkeypatch.setattr(AudioWriter, "write", counted)
    codes = random_codes(tiny_codec, 25 * 45)
    codes.save(tmp_path / "x.mimo")
    assert run("decode", tmp_path / "x.mimo", "-o", tmp_path / "x.wav", "-m", tiny_folder).code == 0
    assert sum(sizes) == codes.num_samples and max(sizes) <= 21 * 24000
    assert_same_waveform(tmp_path / "x.wav", tiny_codec.decode(codes))


def test_models_that_do_not_stream_decode_segment_by_segment(run, tmp_path):
    torch.manual_seed(1)
    codec = MimoCodec(CodecConfig.preset("tiny").replace(decoder_conv_norm="group", segment_seconds=1)).eval()
    codec.save_pretrained(tmp_path / "model")
    source = speech(tmp_path / "x.wav", 3.4)
    model = ["-m", tmp_path / "model"]
    assert run("encode", source, "-o", tmp_path / "x.mimo", *model).code == 0
    assert run("decode", tmp_path / "x.mimo", "-o", tmp_path / "y.wav", *model).code == 0
    codes = AudioCodes.load(tmp_path / "x.mimo")
    assert torch.equal(torch.as_tensor(codes.codes), torch.as_tensor(codec.encode(source).codes))
    assert_same_waveform(tmp_path / "y.wav", codec.decode(codec.encode(source)))


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text")
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_names_that_are_no_text(locale, tmp_path, tiny_folder):
    """Bytes that are not UTF-8, characters that the terminal has not, escape sequences and line breaks."""
    data = speech(tmp_path / "good.wav").read_bytes()
    names = [b"latin\xff", "日本".encode(), b"red\x1b[31m", b"two\nlines"]
    source = os.fsencode(tmp_path / "in")
    os.mkdir(source)
    for name in names:
        with open(source + b"/" + name + b".wav", "wb") as file:
            file.write(data)
    with open(source + b"/broken\xfe\x1b[2J.wav", "wb") as file:
        file.write(b"no audio")
    command = [sys.executable, "-m", "mimo_codec"]
    options = {"capture_output": True, "env": {**os.environ, **locale}}
    done = subprocess.run([*command, "encode", source, "-o", tmp_path / "out", "-m", tiny_folder], **options)
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(name + b".mimo" for name in names)
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and b"\x1b" not in done.stderr and rb"\x1b[2J.wav: is not audio" in lines[0]
    for name in names:
        told = subprocess.run([*command, "info", source + b"/" + name + b".wav"], **options)
        assert told.returncode == 0 and b"\x1b" not in told.stdout, told.stderr


def test_an_interrupted_batch_goes_on(run, tmp_path, tiny_folder):
    first, second = speech(tmp_path / "in" / "a.wav"), speech(tmp_path / "in" / "b.wav", seed=1)
    arguments = ("encode", first.parent, "-o", tmp_path / "out", "-m", tiny_folder)
    assert run(*arguments).code == 0
    expected = (tmp_path / "out" / "b.mimo").read_bytes()
    (tmp_path / "out" / "b.mimo").unlink()
    (tmp_path / "out" / "a.mimo").write_bytes(b"kept as it is")
    assert_one_line_error(run(*arguments), "a.mimo exists", "--skip-existing")
    assert run(*arguments, "--skip-existing").code == 0
    assert (tmp_path / "out" / "a.mimo").read_bytes() == b"kept as it is"
    assert (tmp_path / "out" / "b.mimo").read_bytes() == expected
    done = run(*arguments, "--skip-existing")
    assert done.code == 0 and done.err == "mimo-codec: all outputs exist\n"
    done = run("reconstruct", second, tmp_path / "new.wav", "-m", tiny_folder, "--skip-existing")
    assert done.code == 0 and (tmp_path / "new.wav").exists()
    assert run("reconstruct", second, tmp_path / "new.wav", "-m", tiny_folder, "--skip-existing").code == 0
    assert_one_line_error(run(*arguments, "--skip-existing", "--overwrite"), "exclude each other")
