"""`mimo-codec generate`: every task, audio in and text or audio out, with a small model of random weights."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, Outcome, assert_one_line_error, make_speech

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec import AudioCodes, MimoCodec, load_audio, save_audio
from mimo_codec.lm import MimoAudioLM

SAME = ["--seed", "0"]
LIMITS = {"continue": [], "transcribe": ["--max-tokens", "12"], "understand": ["--max-tokens", "12"],
          "dialogue": ["--max-tokens", "12", "--max-seconds", "0.5"], "speak": ["--max-seconds", "0.5"],
          "few-shot": ["--max-tokens", "12", "--max-seconds", "0.5"]}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with a liking for audio, so that short answers have some."""
    lm = MimoAudioLM.from_pretrained(GOLDEN / "lm_base", device="cpu")
    with torch.no_grad():
        lm.model.lm_head.weight[lm.tokenizer.special.empty] *= 3
    folder = tmp_path_factory.mktemp("lm") / "small"
    lm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech, a conversation and examples."""
    folder = tmp_path_factory.mktemp("speech")
    for i, name in enumerate(("a.wav", "b.wav", "voice.wav")):
        save_audio(folder / name, make_speech(0.6 + 0.1 * i, seed=i), 24000)
    turns = [{"role": "user", "audio": "a.wav"}, {"role": "assistant", "text": "yes", "audio": "b.wav"},
             {"role": "user", "text": "and?"}]  # fmt: skip
    (folder / "turns.json").write_text(json.dumps(turns))
    (folder / "text.json").write_text(json.dumps([{"role": "user", "text": "Hello"}]))
    (folder / "written.json").write_text(json.dumps([{"input_audio": "a.wav", "output_text": "hello"}]))
    (folder / "texts.json").write_text(json.dumps([{"input_text": "on", "output_text": "no"}]))
    examples = [{"input_audio": "a.wav", "output_audio": "b.wav", "output_text": "hello"}]
    (folder / "examples.json").write_text(json.dumps(examples))
    return folder


WRITTEN = {
    "transcribe": ["transcribe", "a.wav"],
    "understand": ["understand", "a.wav", "What is it?"],
    "understand, thinking": ["understand", "a.wav", "--thinking"],
    "speech to text": ["dialogue", "a.wav"],
    "several turns": ["dialogue", "turns.json", "--thinking"],
    "text": ["dialogue", "text.json", "--system", "Be brief."],
    "few-shot": ["few-shot", "Write it down.", "a.wav", "--examples", "written.json"],
    "few-shot, text": ["few-shot", "Turn it round.", "--text", "no", "--examples", "texts.json"],
}
SPOKEN = {
    "speak": ["speak", "Hello there"],
    "with a voice": ["speak", "Hello there", "--voice", "voice.wav"],
    "with a style": ["speak", "Hello there", "--style", "calm"],
    "with both": ["speak", "Hello there", "--style", "calm", "--voice", "voice.wav"],
    "natural": ["speak", "Say calmly: hello", "--natural"],
    "dialogue": ["dialogue", "a.wav", "--voice", "voice.wav"],
    "several turns": ["dialogue", "turns.json", "--system", "Be brief."],
    "few-shot": ["few-shot", "Copy the voice.", "a.wav", "--examples", "examples.json"],
    "continue": ["continue", "a.wav", "--seconds", "0.5"],
}


def arguments(words: list[str], folder: Path, model: Path) -> list[str]:
    known = {path.name for path in folder.iterdir()}
    placed = [str(folder / word) if word in known else word for word in words]
    return ["generate", *placed, "--model", str(model), "--codec", "nano", *SAME, *LIMITS[words[0]]]


@pytest.mark.parametrize("task", WRITTEN)
def test_tasks_that_answer_in_text(task: str, run, folder: Path, model: Path, tmp_path: Path) -> None:
    call = arguments(WRITTEN[task], folder, model)
    first = run(*call, "-o", tmp_path / "a.txt")
    assert first.code == 0 and first.out == "", first
    second = run(*call)
    assert second.code == 0 and second.out == (tmp_path / "a.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", SPOKEN)
def test_tasks_that_speak_give_the_same_bytes_for_the_same_seed(
    task: str, run, folder: Path, model: Path, tmp_path: Path
) -> None:
    call = arguments(SPOKEN[task], folder, model)
    for name in ("a.wav", "b.wav", "c.mimo"):
        outcome = run(*call, "-o", tmp_path / name)
        assert outcome.code == 0, outcome
        assert task != "continue" or "max_seconds" not in outcome.err  # it was asked for
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    waveform, rate = load_audio(tmp_path / "a.wav")
    codes = AudioCodes.load(tmp_path / "c.mimo")
    assert rate == 24000 and codes.num_quantizers == 8
    assert waveform.shape == (codes.num_samples,) and waveform.abs().max() > 1e-4


def test_a_model_says_whose_codes_it_reads(run, folder: Path, model: Path, tmp_path: Path) -> None:
    words = ["generate", "transcribe", folder / "a.wav", *SAME, "--max-tokens", "2", "--model"]
    assert_one_line_error(run(*words, model), "--codec", "whose codes")
    own = MimoCodec.from_pretrained("nano").model_id
    copy = shutil.copytree(model, tmp_path / "copy")
    for codec, error in (("nano", ""), (own, ""), ("nano@00000000", f"{own} is not the one")):
        config = json.loads((model / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "codec": codec}))
        outcome = run(*words, copy)
        assert outcome.code == 0 if not error else error in outcome.err, outcome


def test_in_a_shell(folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.wav"
    call = [sys.executable, "-m", "mimo_codec", *arguments(SPOKEN["speak"], folder, model), "-o", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and out.is_file(), done
    assert re.fullmatch(r"(mimo-codec: the answer was cut at its limit \(\w+\)\n)?", done.stderr), done
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--overwrite" in done.stderr, done


def test_a_chat_remembers_and_survives_mistakes(run, monkeypatch, folder: Path, model: Path, tmp_path: Path) -> None:
    def chat(lines: str, *options: object) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        limits = "--max-tokens", 12, "--max-seconds", 1.5  # enough for some audio in every answer
        outcome = run("generate", "chat", "--model", model, "--codec", "nano", *SAME, *limits, *options)
        assert outcome.code == 0, outcome
        return outcome

    both, first = chat("Hello\nHello\n").out, chat("Hello\n").out
    assert both.startswith(first) and len(both) > len(first)
    other, other_first = chat("Other\nHello\n").out, chat("Other\n").out
    assert both[len(first) :] != other[len(other_first) :]
    spoken = chat(f"@{folder / 'nothing.wav'}\n@{folder / 'a.wav'}\nHello\n", "-o", tmp_path / "out")
    errors = [line for line in spoken.err.splitlines() if "error" in line]
    assert len(errors) == 1 and "nothing.wav" in errors[0], spoken
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.wav", "2.wav"]


def test_what_is_refused(run, folder: Path, model: Path, tmp_path: Path) -> None:
    save_audio(tmp_path / "short.wav", make_speech(0.1), 24000)
    (tmp_path / "bad.json").write_text("{}")
    for words, message in [
        (["speak", "Hello", "-o", tmp_path / "a.xyz"], "a.xyz"),
        (["speak", " ", "-o", tmp_path / "a.wav"], "empty"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--voice", tmp_path / "short.wav"], "too short"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--natural", "--style", "calm"], "exclude"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--max-seconds", "0"], "--max-seconds"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--language", "xx"], "en, zh"),
        (["dialogue", folder / "a.wav", "-o", tmp_path / "a.m4a"], "a.m4a"),
        (["chat", "--thinking", "-o", tmp_path / "out"], "--thinking"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--quantize", "int2"], "int2"),
        (["transcribe", tmp_path / "none.wav"], "none.wav"),
        (["dialogue", tmp_path / "bad.json"], "list of turns"),
        (["few-shot", "Copy.", folder / "a.wav", "--examples", tmp_path / "none.json", "-o", tmp_path / "a.wav"],
         "none.json"),
        (["chat", "--voice", folder / "voice.wav"], "--voice"),
    ]:  # fmt: skip
        assert_one_line_error(run("generate", *words, "--model", model, "--codec", "nano"), message)
    assert_one_line_error(run("generate", "transcribe", folder / "a.wav", "--model", "nowhere"), "nowhere")
    assert_one_line_error(run("generate", "transcribe", folder / "a.wav"), "--model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "short.wav"]
