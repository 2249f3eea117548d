"""`mimo-codec generate`: every task, audio in and text or audio out, with a small model of random weights."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import GOLDEN, Outcome, assert_one_line_error, make_speech

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec import AudioCodes, MimoCodec, load_audio, save_audio
from mimo_codec.cli.session import Session
from mimo_codec.lm import Generation, MimoAudioLM

SAME = ["--seed", "0"]
LIMITS = {
    "continue": [],
    "transcribe": ["--max-tokens", "12"],
    "understand": ["--max-tokens", "12"],
    "dialogue": ["--max-tokens", "12", "--max-seconds", "0.5"],
    "speak": ["--max-seconds", "0.5"],
    "few-shot": ["--max-tokens", "12", "--max-seconds", "0.5"],
}


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
    turns = [
        {"role": "user", "audio": "a.wav"},
        {"role": "assistant", "text": "yes", "audio": "b.wav"},
        {"role": "user", "text": "and?"},
    ]
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


def test_in_a_shell(run, folder: Path, model: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "a.wav", arguments(SPOKEN["speak"], folder, model)
    call = [sys.executable, "-m", "mimo_codec", *map(str, words), "-o", "-"]
    done = subprocess.run(call, capture_output=True, timeout=120)
    saved = run(*words, "-o", out)
    assert done.returncode == 0 and saved.code == 0, (done, saved)
    assert re.fullmatch(r"(mimo-codec: the answer was cut at its limit \(\w+\)\n)?", saved.err), saved
    assert done.stderr.decode() == saved.err + saved.out, "what is said with speech goes to standard error"
    assert done.stdout == out.read_bytes(), "- gives what a file gets, and nothing else"
    assert_one_line_error(run(*words, "-o", out), "--overwrite")


def test_text_goes_to_standard_output_by_either_name(run, folder: Path, model: Path) -> None:
    words = arguments(WRITTEN["transcribe"], folder, model)
    assert run(*words).out == run(*words, "-o", "-").out != ""
    both = arguments(["transcribe", "a.wav", "b.wav"], folder, model)
    assert run(*both).out == run(*both, "-o", "-").out != ""


Chat = Callable[..., Outcome]


@pytest.fixture
def chat(run, monkeypatch, model: Path) -> Chat:
    """Lines said to a model -> what comes of it."""

    def talk(lines: str, *options: object, model: Path = model, code: int = 0) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        limits = "--max-tokens", 12, "--max-seconds", 1.5  # enough for some audio in every answer
        outcome = run("generate", "chat", "--model", model, "--codec", "nano", *SAME, *limits, *options)
        assert outcome.code == code, outcome
        return outcome

    return talk


def test_a_chat_remembers_and_survives_mistakes(chat: Chat, folder: Path, tmp_path: Path) -> None:
    both, first = chat("Hello\nHello\n").out, chat("Hello\n").out
    assert both.startswith(first) and len(both) > len(first)
    other, other_first = chat("Other\nHello\n").out, chat("Other\n").out
    assert both[len(first) :] != other[len(other_first) :]
    spoken = chat(f"@{folder / 'nothing.wav'}\n@{folder / 'a.wav'}\nHello\n", "-o", tmp_path / "out")
    errors = [line for line in spoken.err.splitlines() if "error" in line]
    assert len(errors) == 1 and "nothing.wav" in errors[0], spoken
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.wav", "2.wav"]


def test_a_chat_leaves_out_what_no_longer_fits(chat: Chat, model: Path, tmp_path: Path) -> None:
    small = shutil.copytree(model, tmp_path / "small")
    config = json.loads((model / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100}))
    spoken = chat("Hello\n" * 5 + "Hello " * 50 + "\nHello\n", "-o", tmp_path / "out", model=small)
    lines = spoken.err.splitlines()
    assert sum("without the two oldest turns" in line for line in lines) > 1, spoken
    assert sum("more than fit into the context" in line for line in lines) == 1, spoken  # the line that is too long
    answers = 7 - sum("error" in line for line in lines)  # not all have speech: the weights are random
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{i}.wav" for i in range(1, answers + 1)]
    written = chat("Hello\n" * 8, model=small)
    assert "without the two oldest turns" in written.err and "error" not in written.err, written


def test_a_chat_begins_in_a_folder_without_answers(chat: Chat, before_loading: None, tmp_path: Path) -> None:
    for name in ("2.wav", "10.wav", "other.wav"):
        (tmp_path / name).touch()
    assert_one_line_error(chat("Hello\n", "-o", tmp_path, code=2), "10.wav", "1 more of 2", "--overwrite")
    assert_one_line_error(chat("Hello\n", "-o", tmp_path / "2.wav", code=2), "2.wav")


def test_a_chat_replaces_answers_if_asked_to(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "1.wav").touch()
    assert "error" not in chat("Hello\n", "-o", tmp_path, "--overwrite").err
    assert (tmp_path / "1.wav").stat().st_size


def test_the_text_of_an_answer_without_audio_is_shown(run, monkeypatch, model: Path, tmp_path: Path) -> None:
    answer = Generation(torch.zeros(9, 0), "only words", None, None, None, "<|im_end|>")
    monkeypatch.setattr(MimoAudioLM, "speak", lambda *arguments, **options: answer)
    outcome = run("generate", "speak", "Hello", "-o", tmp_path / "a.wav", "--model", model, "--codec", "nano")
    assert outcome.out == "only words\n" and not (tmp_path / "a.wav").exists()
    assert_one_line_error(outcome, "without speech")


def test_weights_do_not_come_down_for_want_of_a_codec(run, monkeypatch, folder: Path, model: Path) -> None:
    asked: list[str] = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_one_line_error(run("generate", "transcribe", folder / "a.wav", "--model", "owner/name"), "--codec")
    assert asked == ["config.json"]


@pytest.fixture
def before_loading(monkeypatch) -> None:
    """No model is loaded."""
    monkeypatch.setattr(Session, "load", lambda self: pytest.fail("a model would be loaded"))


def test_what_is_refused_before_a_model_is_loaded(run, before_loading: None, folder: Path, tmp_path: Path) -> None:
    none, sound, text = tmp_path / "none.wav", folder / "a.wav", tmp_path / "a.txt"
    answered = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}]
    bad = {
        "order.json": answered,
        "role.json": [{"role": "owner", "text": "a"}],
        "key.json": [{"role": "user", "txt": "a"}],
        "part.json": [{"role": "user", "content": [{"type": "audio", "audio": "none.wav"}]}],
        "silent.json": [*answered, answered[0]],
        "examples.json": [{"input_text": "a"}],
    }
    (tmp_path / "bad").mkdir()
    for name, turns in bad.items():
        (tmp_path / "bad" / name).write_text(json.dumps(turns))
    (tmp_path / "turns.json").write_text(json.dumps([{"role": "user", "audio": "none.wav"}]))
    spoken = "-o", tmp_path / "a.wav"
    for words, message in [
        (["transcribe", none], none),
        (["transcribe", tmp_path], "is a folder"),
        (["transcribe", tmp_path / "none.mimo"], "none.mimo"),
        (["understand", none], none),
        (["understand", sound, ""], "QUESTION"),
        (["continue", none, *spoken], none),
        (["speak", "Hello", "--voice", none, *spoken], none),
        (["speak", " ", *spoken], "TEXT"),
        (["speak", "Hello", "--style", "", *spoken], "--style"),
        (["dialogue", none], none),
        (["dialogue", tmp_path / "turns.json"], none),
        (["dialogue", sound, "--thinking", *spoken], "--thinking is for answers in text"),
        (["dialogue", sound, "--voice", sound], "--voice is for spoken answers"),
        (["dialogue", sound, "--voice", sound, "-o", text], "--voice is for spoken answers"),
        (["few-shot", " ", sound, "--examples", folder / "examples.json"], "INSTRUCTION"),
        (["few-shot", "Copy.", none, "--examples", folder / "examples.json"], none),
        (["few-shot", "Copy.", "--text", "", "--examples", folder / "texts.json"], "--text"),
        (["dialogue", tmp_path / "bad" / "order.json"], "order.json: turns: the last is the assistant's"),
        (["dialogue", tmp_path / "bad" / "role.json"], "role.json: turns[0]: role 'owner'"),
        (["dialogue", tmp_path / "bad" / "key.json"], "txt is not known; there is role, text, audio, content"),
        (["dialogue", tmp_path / "bad" / "part.json"], "none.wav"),
        (["dialogue", tmp_path / "bad" / "silent.json", *spoken], "turn 1 of the assistant needs its audio"),
        (["few-shot", "", "--text", "a", "--examples", tmp_path / "bad" / "examples.json"], "output_text is missing"),
        (["few-shot", "", "--text", "a", "--examples", folder / "texts.json", *spoken], "needs output_audio"),
        (["transcribe", sound, none], none),
        (["transcribe", sound, sound, "-o", tmp_path / "new"], "would both be written"),
        (["transcribe", sound, folder / "b.wav", "-o", folder / "a.wav"], "a.wav"),
        (["transcribe", sound, "--spoken-language", "fr"], "choose one of en, zh"),
        (["transcribe", sound, "--sampling", "loud"], "choose one of evaluation, greedy"),
        (["transcribe", sound, "--repetition-penalty", "0"], "--repetition-penalty"),
        (["chat", "--voice", none, *spoken], none),
        (["chat", "--voice", sound], "--voice is for spoken answers"),
        (["chat", "--thinking", *spoken], "--thinking is for answers in text"),
    ]:
        assert_one_line_error(run("generate", *words, "--model", "owner/name"), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "turns.json"]


def test_several_files_with_one_load(run, monkeypatch, folder: Path, model: Path, tmp_path: Path) -> None:
    loads: list[bool] = []
    load = Session.load
    monkeypatch.setattr(Session, "load", lambda self, codec=True: loads.append(codec) or load(self, codec))
    names = ["a.wav", "b.wav", "voice.wav"]
    rest = ["--model", model, "--codec", "nano", *SAME, "--max-tokens", "12", "--sampling", "evaluation"]
    alone = [run("generate", "transcribe", folder / name, *rest).out for name in names]
    assert len({*alone}) > 1
    for size in (1, 2):
        loads.clear()
        shown = run("generate", "transcribe", *(folder / name for name in names), *rest, "--batch-size", size)
        assert shown.code == 0 and loads == [True], shown
        assert shown.out == "".join(f"{folder / n}: {text}" for n, text in zip(names, alone, strict=True))
    files = [folder / name for name in names]
    written = run("generate", "transcribe", *files, *rest, "--batch-size", 3, "-o", tmp_path / "texts")
    assert written.code == 0 and written.out == "", written
    found = [(tmp_path / "texts" / name).with_suffix(".txt").read_text(encoding="utf-8") for name in names]
    assert found == alone


def test_a_question_about_several_files(run, folder: Path, model: Path, tmp_path: Path) -> None:
    files, question = [folder / "a.wav", folder / "b.wav"], "What is said, in talk.wav or elsewhere?"
    rest = ["--model", model, "--codec", "nano", *SAME, "--max-tokens", "8"]
    for asked, others in (([question], []), ([], ["--thinking"])):
        alone = [run("generate", "understand", file, *asked, *others, *rest).out for file in files]
        shown = run("generate", "understand", *files, *asked, *others, *rest, "--batch-size", 2)
        assert shown.code == 0 and shown.out == "".join(f"{n}: {t}" for n, t in zip(files, alone, strict=True)), shown
    written = run("generate", "understand", *files, *rest, "-o", tmp_path / "texts")
    assert written.code == 0 and len(list((tmp_path / "texts").glob("*.txt"))) == 2
    for words in (["none.wav"], [files[0], "none.mimo"], [*files, "none.m4a", question]):
        assert_one_line_error(run("generate", "understand", *words, *rest), "none")


def test_a_file_that_fails_does_not_end_the_others(run, folder: Path, model: Path, tmp_path: Path) -> None:
    small = shutil.copytree(model, tmp_path / "small")
    config = json.loads((model / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 56}))
    save_audio(tmp_path / "long.wav", make_speech(5), 24000)
    save_audio(tmp_path / "longer.wav", make_speech(10), 24000)
    files = [tmp_path / "longer.wav", folder / "a.wav", tmp_path / "long.wav"]
    rest = ["--model", small, "--codec", "nano", *SAME, "--max-tokens", "3"]
    for size in (1, 3):
        outcome = run("generate", "transcribe", *files, *rest, "--batch-size", size)
        assert outcome.code != 0 and outcome.out.count("\n") == 1 and "a.wav: " in outcome.out, outcome
        assert "longer.wav: audio: 10 s" in outcome.err and "long.wav: the prompt" in outcome.err, outcome
        assert "2 of 3 files failed" in outcome.err


def test_text_alone_loads_no_codec(run, chat: Chat, monkeypatch, folder: Path, model: Path, tmp_path: Path) -> None:
    from mimo_codec.lm import pipeline

    loaded: list[str] = []
    load = pipeline.load_codec
    monkeypatch.setattr(pipeline, "load_codec", lambda name, **given: loaded.append(name) or load(name, **given))
    chat("Hello\n")
    bare = ["--model", model, *SAME, "--max-tokens", "4"]  # the model names no codec, and needs none
    for words in (
        ["dialogue", folder / "text.json"],
        ["few-shot", "Turn it round.", "--text", "no", "--examples", folder / "texts.json"],
        ["few-shot", "", "--text", "no", "--examples", folder / "texts.json", "--min-tokens", "3"],
    ):
        outcome = run("generate", *words, *bare)
        assert outcome.code == 0, outcome
    assert loaded == []
    chat(f"Hello\n@{folder / 'a.wav'}\n@{folder / 'b.wav'}\n")
    assert loaded == ["nano"]


def test_parts_of_a_turn(run, folder: Path, model: Path, tmp_path: Path) -> None:
    content = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "Louder than "}]
    content += [{"type": "audio", "audio": "b.wav"}, {"type": "text", "text": "?"}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    (folder / "parts.json").write_text(json.dumps(turns))
    outcome = run(*arguments(["dialogue", "parts.json"], folder, model))
    assert outcome.code == 0 and outcome.out, outcome


def test_answers_are_drawn_as_options_say(run, folder: Path, model: Path, tmp_path: Path) -> None:
    call = [*arguments(SPOKEN["speak"], folder, model), "--overwrite", "-o", tmp_path / "a.wav"]
    sounds = []
    for option in ([], ["--repetition-penalty", "2"], ["--sampling", "evaluation"], ["--dtype", "bf16"]):
        assert run(*call, *option).code == 0
        sounds.append((tmp_path / "a.wav").read_bytes())
    assert len({*sounds}) == 4


@pytest.mark.parametrize(("reason", "words"), [("repetition", "only repeated itself"), ("silence", "was silent")])
def test_answers_that_ran_away_are_reported(run, monkeypatch, model: Path, reason: str, words: str, folder) -> None:
    answer = Generation(torch.zeros(9, 0), "well well", None, None, None, reason)
    monkeypatch.setattr(MimoAudioLM, "transcribe", lambda *arguments, **options: answer)
    outcome = run("generate", "transcribe", folder / "a.wav", "--model", model, "--codec", "nano")
    assert outcome.out == "well well\n" and words in outcome.err and "--no-end-runaway" in outcome.err


def test_what_is_refused(run, folder: Path, model: Path, tmp_path: Path) -> None:
    save_audio(tmp_path / "short.wav", make_speech(0.1), 24000)
    (tmp_path / "bad.json").write_text("{}")
    for words, message in [
        (["speak", "Hello", "-o", tmp_path / "a.xyz"], "a.xyz"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--voice", tmp_path / "short.wav"], "too short"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--natural", "--style", "calm"], "exclude"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--max-seconds", "0"], "--max-seconds"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--language", "xx"], "en, zh"),
        (["dialogue", folder / "a.wav", "-o", tmp_path / "a.m4a"], "a.m4a"),
        (["speak", "Hello", "-o", tmp_path / "a.wav", "--quantize", "int2"], "int2"),
        (["dialogue", tmp_path / "bad.json"], "list of turns"),
        (
            ["few-shot", "Copy.", folder / "a.wav", "--examples", tmp_path / "none.json", "-o", tmp_path / "a.wav"],
            "none.json",
        ),
    ]:
        assert_one_line_error(run("generate", *words, "--model", model, "--codec", "nano"), message)
    assert_one_line_error(run("generate", "transcribe", folder / "a.wav", "--model", "nowhere"), "nowhere")
    assert_one_line_error(run("generate", "transcribe", folder / "a.wav"), "--model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "short.wav"]


@pytest.mark.parametrize("name", ["turns.json", "parts.json", "examples.json"])
def test_an_answer_never_replaces_what_a_json_file_names(run, folder: Path, tmp_path: Path, name: str) -> None:
    """Nor under another name of it."""
    shutil.copytree(folder, tmp_path / "talk")
    sound, link = tmp_path / "talk" / "a.wav", tmp_path / "link.wav"
    link.symlink_to(sound)
    parts = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What is it?"}]
    (tmp_path / "talk" / "parts.json").write_text(json.dumps([{"role": "user", "content": parts}]))
    task = ("few-shot", "Copy.", "--text", "no", "--examples") if name == "examples.json" else ("dialogue",)
    before = sound.read_bytes()
    for output in (sound, link, tmp_path / "talk" / ".." / "talk" / "a.wav"):
        call = [*task, tmp_path / "talk" / name, "-o", output, "--overwrite"]
        done = run("generate", *call, "-m", GOLDEN / "lm_base", "--codec", "nano")
        assert_one_line_error(done, "is an input and would be overwritten")
    assert sound.read_bytes() == before


def test_chat_never_replaces_what_it_hears(
    run, folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1.wav", "2.wav"):
        shutil.copy(folder / "voice.wav", tmp_path / name)
    before = (tmp_path / "1.wav").read_bytes()
    call = ["generate", "chat", "-m", model, "--codec", "nano", "--max-seconds", "0.4", "--overwrite"]
    done = run(*call, "-o", tmp_path, "--voice", tmp_path / "2.wav")
    assert_one_line_error(done, "2.wav is an input and would be overwritten")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"@{tmp_path / '2.wav'}\n@{tmp_path / '1.wav'}\n"))
    done = run(*call, "-o", tmp_path)
    assert done.code == 0 and done.err.count("is an input and would be overwritten") == 2
    assert (tmp_path / "1.wav").read_bytes() == (tmp_path / "2.wav").read_bytes() == before
    assert_one_line_error(run(*call, "-o", "-"), "standard output is none")


def test_control_characters_in_names_do_not_reach_the_terminal(run, folder: Path, model: Path, tmp_path: Path) -> None:
    names = [tmp_path / "a\x1b[31mred.wav", tmp_path / "b\nnew.wav"]
    for name in names:
        shutil.copy(folder / "a.wav", name)
    done = run("generate", "transcribe", *names, "-m", model, "--codec", "nano", "--max-tokens", "3", *SAME)
    assert done.code == 0 and "\x1b" not in done.out
    assert f"{tmp_path}/a\\x1b[31mred.wav: " in done.out and f"{tmp_path}/b\\nnew.wav: " in done.out
