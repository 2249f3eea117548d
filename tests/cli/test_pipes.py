"""`-`: standard input and output in the place of files."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, Outcome, Run, assert_one_line_error, make_speech

from mimo_codec import AudioCodes, MimoCodec, load_audio, save_audio
from mimo_codec.cli import pipes
from mimo_codec.common import spooled


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    save_audio(path, make_speech(0.7), 24000)
    return path


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    for module in (spooled, pipes):
        monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(folder))
    pipes.standard_input.cache_clear()
    return folder


class Stream(io.TextIOWrapper):
    """Standard input or output that is no terminal."""

    def __init__(self, data: bytes = b""):
        super().__init__(io.BytesIO(data), "utf-8")


@pytest.fixture
def piped(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process with bytes on standard input -> (outcome, bytes on standard output)."""

    def invoke(data: bytes | None, *arguments: object) -> tuple[Outcome, bytes]:
        stdout = Stream()
        with monkeypatch.context() as patch:
            pipes.standard_input.cache_clear()
            patch.setattr(sys, "stdin", None if data is None else Stream(data))
            patch.setattr(sys, "stdout", stdout)
            outcome = run(*arguments)
        stdout.flush()
        return outcome, stdout.buffer.getvalue()  # type: ignore[attr-defined]

    return invoke


def test_a_chain_of_commands(tmp_path: Path, wav: Path, tiny_folder: Path, tiny_codec: MimoCodec) -> None:
    """As a shell has it, with true pipes."""
    command = f"{sys.executable} -m mimo_codec"
    chain = f"cat {wav} | {command} encode - -o - -m {tiny_folder} | {command} decode - -o - -m {tiny_folder} > out.wav"
    done = subprocess.run(["sh", "-c", chain], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    tiny_codec.decode(tiny_codec.encode(wav))
    save_audio(tmp_path / "expected.wav", tiny_codec.decode(tiny_codec.encode(wav)), 24000)
    assert torch.equal(load_audio(tmp_path / "out.wav")[0], load_audio(tmp_path / "expected.wav")[0])


def test_encode_and_decode(piped: Any, tmp_path: Path, wav: Path, tiny_folder: Path, tiny_codec: MimoCodec) -> None:
    model = ["-m", tiny_folder]
    outcome, data = piped(wav.read_bytes(), "encode", "-", "-o", "-", *model)
    assert (outcome.code, outcome.err) == (0, "") and AudioCodes.from_bytes(data) == tiny_codec.encode(wav)
    assert piped(wav.read_bytes(), "encode", "-", "-o", tmp_path / "a.mimo", *model)[0].code == 0
    assert AudioCodes.load(tmp_path / "a.mimo") == tiny_codec.encode(wav)
    outcome, sound = piped(data, "decode", "-", "-o", "-", "--format", "flac", *model)
    assert (outcome.code, outcome.err) == (0, "") and sound.startswith(b"fLaC")
    assert len(load_audio(sound)[0]) == len(load_audio(wav)[0])


def test_reconstruct_says_its_line_on_stderr(piped: Any, wav: Path, tiny_folder: Path) -> None:
    outcome, sound = piped(wav.read_bytes(), "reconstruct", "-", "-", "-m", tiny_folder)
    assert outcome.code == 0 and "0.700 s, 8 x 18 codes" in outcome.err
    assert len(load_audio(sound)[0]) == len(load_audio(wav)[0])


def test_info(piped: Any, wav: Path, tiny_codec: MimoCodec) -> None:
    out = piped(wav.read_bytes(), "info", "-", "--json")[1]
    facts = json.loads(out)
    assert (facts["file"], facts["format"], facts["size_bytes"]) == ("standard input", "WAV/PCM_16", wav.stat().st_size)
    facts = json.loads(piped(tiny_codec.encode(wav).to_bytes(), "info", "-", "--json")[1])
    assert (facts["file"], facts["codebooks"]) == ("standard input", 8)


def test_a_language_model_hears(piped: Any, wav: Path, tiny_folder: Path, tiny_codec: MimoCodec) -> None:
    pytest.importorskip("transformers")
    arguments = ["generate", "transcribe", "-", "-m", GOLDEN / "lm_base", "--codec", tiny_folder]
    arguments += ["--max-tokens", 3, "--greedy"]
    expected = piped(b"", *[wav if word == "-" else word for word in arguments])
    assert expected[0].code == 0
    assert piped(wav.read_bytes(), *arguments) == expected
    assert piped(tiny_codec.encode(wav).to_bytes(), *arguments) == expected


def test_nothing_is_left(piped: Any, wav: Path, tiny_folder: Path, place: Path) -> None:
    assert piped(wav.read_bytes(), "encode", "-", "-o", "-", "-m", tiny_folder)[0].code == 0
    assert_one_line_error(piped(b"no sound", "encode", "-", "-o", "-", "-m", tiny_folder)[0], "standard input: is not")
    pipes.standard_input.cache_clear()
    gc.collect()
    assert not list(place.iterdir())


def test_mistakes(piped: Any, tmp_path: Path, wav: Path, tiny_folder: Path) -> None:
    data, model = wav.read_bytes(), ["-m", tiny_folder]
    out = tmp_path / "out.mimo"
    assert_one_line_error(piped(b"", "encode", "-", "-o", out, *model)[0], "standard input: is empty")
    assert_one_line_error(piped(None, "encode", "-", "-o", out, *model)[0], "standard input: is closed")
    assert_one_line_error(piped(data, "encode", "-", wav, "-o", tmp_path, *model)[0], "stands alone")
    assert_one_line_error(piped(data, "encode", "-", "-o", f"{tmp_path}/", *model)[0], "standard input has no name")
    assert_one_line_error(piped(data, "decode", "-", "-o", "-", *model)[0], "standard input: not a .mimo file")
    assert_one_line_error(piped(data[:20], "info", "-")[0], "standard input: ")
    assert_one_line_error(piped(data, "decode", "-", "-o", "-", "--format", "txt", *model)[0], "format 'txt'")
    assert_one_line_error(piped(data, "encode", wav, wav, "-o", "-", *model)[0], "standard output: takes")
    assert not out.exists()


def test_terminals_get_no_bytes(run: Run, wav: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, terminal = os.openpty()
    with os.fdopen(terminal, "r+b", buffering=0) as raw:
        shown = io.TextIOWrapper(raw, write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", shown)
            outcome = run("encode", wav, "-o", "-", "-m", tiny_folder)
        assert_one_line_error(outcome, "standard output: is a terminal")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", shown)
            outcome = run("encode", "-", "-o", "x.mimo", "-m", tiny_folder)
        assert_one_line_error(outcome, "standard input: is a terminal")
        shown.detach()
    os.close(master)


def test_a_file_called_minus(run: Run, tmp_path: Path, wav: Path, tiny_folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    wav.rename(tmp_path / "-")
    assert run("encode", "./-", "-o", "a.mimo", "-m", tiny_folder).code == 0
