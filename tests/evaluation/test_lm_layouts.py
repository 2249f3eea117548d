"""Prompts of every suite against lists written by hand, prefixes and separators included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_sets as sets
import numpy as np
import pytest
from conftest import GOLDEN

from mimo_codec.evaluation.lm.judges import Judges
from mimo_codec.evaluation.lm.prompts import Beginning, Piece, Sound, Speech, as_segments, count_positions
from mimo_codec.evaluation.lm.setup import Prepared, Setup, Unit, prepare
from mimo_codec.evaluation.lm.suites.mmau import ask
from mimo_codec.lm.instructions import INSTRUCTIONS
from mimo_codec.lm.prompts import Markup, render

pytest.importorskip("tokenizers", reason="needs the lm extra")
pytest.importorskip("jiwer", reason="needs the eval extra")

WORDS = INSTRUCTIONS["en"]
SPEAK = Markup("<|sostm|>")


def prompt(prepared: Prepared, number: int, shots: int, mode: str = "") -> list[Piece]:
    unit = Unit(mode, shots, prepared.items[number])
    return prepared.suite.prompt(unit.item, prepared.shown(unit)[1], mode, WORDS)


def ready(name: str, data: Path, **changes: Any) -> Prepared:
    return prepare(Setup(name, data, judges=Judges(), **changes), judged=False)


def test_speechmmlu(tmp_path: Path) -> None:
    data = sets.speechmmlu(tmp_path)
    folder = data / "audio" / "anatomy" / "prompts" / "anatomy_english_prompt_002"
    question, beginning = "What is two and two?", sets.BEGINNING
    answers = ["The answer is option A.", "The answer is option B."]
    asked = Sound(data / "audio/anatomy/anatomy_1.mp3")
    heard = [Sound(folder / f"anatomy_{i}_question_and_choices.mp3") for i in (0, 1)]
    spoken = [Speech(answer, folder / f"anatomy_{i}_answer.mp3") for i, answer in enumerate(answers)]
    start = Sound(folder / "anatomy_beginning.mp3")
    expected: dict[tuple[str, int], list[Piece]] = {
        ("t2t", 0): [beginning, question],
        ("t2t", 2): [beginning, question, answers[0], question, answers[1], question],
        ("s2t", 0): ["<Spe>:", start, asked],
        ("s2t", 2): ["[Int]:", start, heard[0], answers[0], heard[1], answers[1], asked],
        ("t2s", 0): [beginning, question, SPEAK],
        ("t2s", 1): ["[Int]:", beginning, question, spoken[0], question, SPEAK],
        ("s2s", 0): ["<Spe>:", start, asked, SPEAK],
        ("s2s", 2): ["<Spe>:", start, heard[0], spoken[0], heard[1], spoken[1], asked, SPEAK],
    }
    prepared = ready("speechmmlu", data)
    assert [item.id for item in prepared.items][:2] == ["anatomy_0", "anatomy_1"]
    for (mode, shots), pieces in expected.items():
        assert prompt(prepared, 1, shots, mode) == pieces, (mode, shots)


def test_mmau(tmp_path: Path) -> None:
    data = sets.mmau(tmp_path)
    prepared = ready("mmau", data)
    lines = "What is heard?\n\nChoice: \n" + "".join(f"{choice}\n" for choice in sets.CHOICES)
    question = f"Question: {lines}\nMake a choice from the given 4 choices."
    assert ask("What is heard?", sets.CHOICES) == question.removeprefix("Question: ")
    asked = [Sound(data / "test-mini-audios/sound0.wav"), question, "\nAnswer:"]
    assert prompt(prepared, 0, 0) == ["[Int]:", *asked]
    names, examples = prepared.shown(Unit("", 2, prepared.items[0]))
    shown = [data / "test-mini-audios" / f"{name.replace('-', '')}.wav" for name in names]
    first, second = (f"Answer: {one.answer.text}\n\n" for one in examples)
    expected = ["[Int]:", Sound(shown[0]), question, first, Sound(shown[1]), question, second, *asked]
    assert prompt(prepared, 0, 2) == expected


def spoken_pairs(pairs: Sequence[tuple[Any, Speech]]) -> list[Piece]:
    return [piece for source, target in pairs for piece in (source, "\n", target, " \n\n")]


def test_voice_conversion(tmp_path: Path) -> None:
    data = sets.voice_conversion(tmp_path)
    base = data / "ESD" / "proc"
    prepared = ready("voice-conversion", data)
    sources, targets = (
        [base / name / "Neutral" / f"{name}_{number:06d}.wav" for number in range(3)] for name in ("0010", "0011")
    )
    pairs = [(Sound(sources[n]), Speech(sets.SPOKEN[n], targets[n])) for n in (1, 2)]
    assert prompt(prepared, 0, 0) == ["[Int]:", Sound(sources[0]), "\n", SPEAK]
    assert prompt(prepared, 0, 2) == ["[Int]:", *spoken_pairs(pairs), Sound(sources[0]), "\n", SPEAK]
    assert prepared.items[0].answer.text == sets.SPOKEN[0] and prepared.items[0].answer.audio == targets[0]


@pytest.mark.parametrize("name", ["rate-conversion", "style-conversion", "translation"])
def test_lists_of_pairs(name: str, tmp_path: Path) -> None:
    data = sets.pairs(tmp_path / "data", ["one", "other"], text=True)
    prepared = ready(name, data)
    names, examples = prepared.shown(Unit("", 2, prepared.items[0]))
    assert all(other.startswith("one ") for other in names)
    pairs = [
        (Sound(data / "one" / f"{n[-1]}_a.wav"), Speech(sets.SPOKEN[int(n[-1])], data / "one" / f"{n[-1]}_b.wav"))
        for n in names
    ]
    asked = Sound(data / "one" / "0_a.wav")
    assert prompt(prepared, 0, 2) == ["[Int]:", *spoken_pairs(pairs), asked, "\n", SPEAK]
    assert len(examples) == 2


def test_denoising_draws_from_the_same_speaker(tmp_path: Path) -> None:
    prepared = ready("denoising", sets.denoising(tmp_path))
    names, _ = prepared.shown(Unit("", 2, prepared.items[0]))
    assert prepared.items[0].id == "p230_000" and all(name.startswith("p230_") for name in names)
    pieces = prompt(prepared, 0, 1)
    clean = tmp_path / "clean_testset_wav" / f"{names[0]}.wav"
    number = int(names[0][-1])
    assert pieces[1:5] == [
        Sound(tmp_path / "noisy_testset_wav" / f"{names[0]}.wav"),
        "\n",
        Speech(sets.SPOKEN[number], clean),
        " \n\n",
    ]


def test_asr(tmp_path: Path) -> None:
    data = sets.asr(tmp_path)
    prepared = ready("asr", data)
    asked = Sound(data / "wav" / "utt0.wav")
    user, end = Markup("<|im_start|>user\n"), Markup("<|im_end|>\n")
    answer = Markup("<|im_start|>assistant\n<think>\n\n</think>\n")
    assert prompt(prepared, 0, 0) == [user, asked, WORDS.transcribe, end, answer]
    ((name, _),) = zip(*prepared.shown(Unit("", 1, prepared.items[0])), strict=True)
    shown = [Sound(data / "wav" / f"{name}.wav"), "\n", sets.SPOKEN[int(name[-1])].upper(), " \n\n"]
    assert prompt(prepared, 0, 1) == ["[Int]:", *shown, asked, "\n"]


def test_tts(tmp_path: Path) -> None:
    data = sets.tts(tmp_path)
    prepared = ready("tts", data)
    text, voice = sets.SPOKEN[0], data / "prompt-wavs" / "0.wav"
    user, end = Markup("<|im_start|>user\n"), Markup("<|im_end|>\n")
    answer = Markup("<|im_start|>assistant\n<|sostm|>")
    asked = [user, f"{WORDS.speak}: {text}", end, answer]
    assert prompt(prepared, 0, 0, "plain") == asked
    system = [Markup("<|im_start|>system\n"), WORDS.voice_system, Sound(voice), end]
    assert prompt(prepared, 0, 0, "voice") == [*system, *asked]
    ((name, _),) = zip(*prepared.shown(Unit("", 1, prepared.items[0])), strict=True)
    number = int(name[-1])
    said = sets.SENTENCES[4 + number % 3]
    shown = [said, "\n", Speech(said, data / "prompt-wavs" / f"{number}.wav"), " \n\n"]
    assert prompt(prepared, 0, 1, "plain") == ["[Int]:", *shown, text, "\n", SPEAK]


def test_continuation(tmp_path: Path) -> None:
    prepared = ready("continuation", sets.continuation(tmp_path))
    assert prompt(prepared, 0, 0) == [Beginning(tmp_path / "0.wav", 3.2)]


def test_custom(tmp_path: Path) -> None:
    prepared = ready("custom", sets.custom(tmp_path / "text"))
    ((name, _),) = zip(*prepared.shown(Unit("", 1, prepared.items[0])), strict=True)
    shown = [f"{name[1]}?", "\n", sets.SPOKEN[int(name[1])], " \n\n"]
    assert prompt(prepared, 0, 1) == [*shown, "0?", "\n"]
    data = sets.custom(tmp_path / "speech", spoken=True)
    prepared = ready("custom", data)
    assert prompt(prepared, 0, 0) == ["<Spe>:", Sound(data / "0_in.wav"), "\n", SPEAK]
    rows = (data / "items.jsonl").read_text().splitlines()
    lines = [
        rows[0].replace('{"id"', '{"instruction": "Do it.", "id"'),
        rows[1].replace('"id"', '"kind": "example", "id"'),
    ]
    (data / "items.jsonl").write_text("\n".join(lines))
    prepared = ready("custom", data)
    shown_pair = (Sound(data / "1_in.wav"), Speech(sets.SPOKEN[1], data / "1_out.wav"))
    expected = ["[Int]:Do it.\n", *spoken_pairs([shown_pair]), Sound(data / "0_in.wav"), "\n", SPEAK]
    assert prompt(prepared, 0, 1) == expected


def test_grids_are_those_of_the_tasks_and_lengths_are_known_before(tmp_path: Path, tiny_folder: Path) -> None:
    """The prompts of asr, tts, few_shot and continuation, which golden outputs prove, come of these pieces too."""
    pytest.importorskip("transformers", reason="needs the lm extra")
    from mimo_codec.lm import Example, MimoAudioLM

    lm = MimoAudioLM.from_pretrained(GOLDEN / "lm_base", codec=tiny_folder, device="cpu")
    a, b, c = (sets.sound(tmp_path / f"{n}.wav", sets.SPOKEN[n], n, 3.6 + 0.13 * n) for n in range(3))
    (tmp_path / "asr").mkdir()
    (tmp_path / "asr" / "manifest.txt").write_text("0\tGood morning.\n")
    sound = sets.sound(tmp_path / "asr" / "wav" / "0.wav", sets.SPOKEN[0])
    (tmp_path / "tts").mkdir()
    (tmp_path / "tts" / "meta.lst").write_text(f"x|said|{a}|{sets.SPOKEN[1]}\n")
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "x.scp").write_text(f"{a}|{b}|one\n{c}|{b}|two\n")
    shown = [Example("two", b, input_audio=c)]
    cases = [
        (prompt(ready("asr", tmp_path / "asr"), 0, 0), lm.prompt("asr", audio=sound)),
        (prompt(ready("tts", tmp_path / "tts"), 0, 0, "voice"), lm.prompt("tts", text=sets.SPOKEN[1], voice=a)),
        (
            prompt(ready("style-conversion", tmp_path / "pairs"), 0, 1),
            lm.prompt("few_shot", examples=shown, audio=a, prefix="[Int]:"),
        ),
        ([Beginning(a, 3.2)], lm.prompt("continuation", audio=lm.reader.codes(a)[:, :80])),
    ]
    for pieces, grid in cases:
        segments = as_segments(pieces, lambda path: lm.reader.codes(path))
        built = lm.layout.build(render(segments, lm.tokenizer, lm.layout))
        assert np.array_equal(built, grid)
        assert count_positions(pieces, lm.tokenizer, lm.layout) == lm.layout.num_positions(grid)
