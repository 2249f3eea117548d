"""Runs of a suite: what is shown, what is refused before generation, and what goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_sets as sets
import pytest
from conftest import GOLDEN, ROOT, assert_one_line_error
from lm_sets import Perfect, tones

from mimo_codec import MimoError
from mimo_codec.cli.evaluate_lm import SUITES as NAMES
from mimo_codec.common.engines import Resources
from mimo_codec.evaluation.lm.items import Examples, Item, Side
from mimo_codec.evaluation.lm.judges import Judges
from mimo_codec.evaluation.lm.model import Measure
from mimo_codec.evaluation.lm.report import write_report
from mimo_codec.evaluation.lm.run import Running, evaluate
from mimo_codec.evaluation.lm.setup import Setup
from mimo_codec.evaluation.lm.suite import Answer, Ask
from mimo_codec.evaluation.lm.suites import SUITES
from mimo_codec.lm.tokenizer import TextTokenizer

pytest.importorskip("jiwer", reason="needs the eval extra")
pytest.importorskip("tokenizers", reason="needs the lm extra")

__all__ = ["tones"]
LM = str(GOLDEN / "lm_base")


class Unloadable:
    """A model that nobody may load."""

    def __init__(self) -> None:
        pytest.fail("the model was loaded")


def refused(
    name: str, data: Path, match: str, tmp_path: Path, judges: Judges, measure: Any = None, **changes: Any
) -> None:
    with pytest.raises(MimoError, match=match):
        evaluate(Setup(name, data, judges=judges, **changes), Unloadable, tmp_path / "out", measure=measure)


def files(folder: Path) -> dict[str, bytes]:
    """All that a run promises to be the same."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and "work" not in p.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# ---- examples --------------------------------------------------------------------------------------------------------


def test_examples_depend_on_seed_and_item_alone_and_more_begin_with_fewer() -> None:
    items = [Item(f"i{n}", Side(f"q{n}"), Side(f"a{n}"), pool=str(n % 2)) for n in range(40)]
    one, other = Examples(items, 3), Examples(items, 4)
    for item in items:
        names = [name for name, _ in one.of(item, 16)]
        assert len(set(names)) == 16 and item.id not in names
        assert {int(name[1:]) % 2 for name in names} == {int(item.id[1:]) % 2}
        assert (
            [name for name, _ in one.of(item, 4)] == names[:4] == [name for name, _ in Examples(items, 3).of(item, 4)]
        )
    drawn = [[name for name, _ in examples.of(items[0], 16)] for examples in (one, other)]
    assert drawn[0] != drawn[1]
    assert one.most(items[0]) == 19


# ---- what is refused before a model is loaded ------------------------------------------------------------------------


def test_layouts_that_are_not_the_suites(tmp_path: Path, tones: Judges) -> None:
    (tmp_path / "empty").mkdir()
    for name, kind in SUITES.items():
        refused(name, tmp_path / "empty", "empty", tmp_path, tones)
        with pytest.raises(MimoError) as error:
            evaluate(Setup(name, tmp_path / "nowhere", judges=tones), Unloadable, tmp_path / "out")
        assert "there is no such file or folder" in str(error.value) and kind.layout in str(error.value)
    bad = {
        "mmau": ("mmau-test-mini.json", '[{"audio_id": 3}]', "row 0: audio_id must be text"),
        "asr": ("manifest.txt", "no tab\n", "line 1: is not an id, a tab and a text"),
        "tts": ("meta.lst", "a|b\n", r"line 1: is not id\|text"),
        "voice-conversion": ("VoiceConversion.tsv", "source_id\tx\n1\t2\n", "has no column source_path"),
        "rate-conversion": ("x.scp", "only one\n", r"is not source\|target"),
        "custom": ("items.jsonl", '{"input_text": "a"}\n', "row 1: needs output_text or output_audio"),
        "speechmmlu": ("few_shot_prompts.json", "{}", r"has no \*.parquet"),
    }
    for name, (file, content, message) in bad.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
        refused(name, tmp_path / name, message, tmp_path, tones)


def test_missing_sounds_are_listed_and_left_out(tmp_path: Path, tones: Judges) -> None:
    data = sets.mmau(tmp_path / "data")
    (data / "test-mini-audios" / "sound0.wav").unlink()
    (data / "test-mini-audios" / "music1.wav").write_bytes(b"RIFF")
    results = evaluate(Setup("mmau", data, (1,), judges=tones), Perfect, tmp_path / "out")
    (cell,) = results.overall()
    assert set(results.failed) == {"sound-0", "music-1"} and (cell.scored, cell.asked) == (7, 9)
    assert "sound0.wav" in results.failed["sound-0"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert not {"sound-0", "music-1"} & {name for row in rows for name in row["examples"]}
    for path in (data / "test-mini-audios").iterdir():
        path.unlink()
    refused("mmau", data, "all 9 items are left out; the first: .*sound0.wav", tmp_path, tones)


def test_a_question_without_its_sound_is_left_out_where_the_sound_is_needed(tmp_path: Path, tones: Judges) -> None:
    data = sets.speechmmlu(tmp_path / "data")
    (data / "audio/anatomy/anatomy_0.mp3").unlink()
    results = evaluate(Setup("speechmmlu", data, (1,), ("t2t", "s2t"), tones), Perfect, tmp_path / "out")
    by_mode = {cell.mode: (cell.scored, cell.asked) for cell in results.overall()}
    assert by_mode == {"t2t": (8, 8), "s2t": (7, 8)} and list(results.failed) == ["s2t 1 examples anatomy_0"]


def test_more_examples_than_there_are(tmp_path: Path, tones: Judges) -> None:
    refused(
        "mmau", sets.mmau(tmp_path / "a"), "9 examples were asked for, and there are 8", tmp_path, tones, shots=(9,)
    )
    data = sets.speechmmlu(tmp_path / "b")
    refused("speechmmlu", data, "6 examples were asked for, and there are 5", tmp_path, tones, shots=(6,))
    data = sets.continuation(tmp_path / "c")
    refused("continuation", data, "has no examples; --shots 0", tmp_path, tones, shots=(1,))


def test_prompts_that_do_not_fit(tmp_path: Path, tones: Judges) -> None:
    tokenizer = TextTokenizer.load(LM)
    data = sets.mmau(tmp_path / "a")
    message = "with 8 examples: none of 9 questions can be asked.*positions, and the context 300: use fewer examples"
    refused("mmau", data, message, tmp_path, tones, Measure(tokenizer, None, 300), shots=(0, 8))
    sets.sound(data / "test-mini-audios" / "sound0.wav", "A dog barks.", seconds=60.0)
    setup = Setup("mmau", data, (0,), judges=tones)
    results = evaluate(setup, Perfect, tmp_path / "out", measure=Measure(tokenizer, None, 300))
    assert list(results.failed) == ["0 examples sound-0"] and "sound-0: the prompt has" in _report(results, tmp_path)


def _report(results: Any, folder: Path) -> str:
    write_report(results, folder)
    return (folder / "report.md").read_text()


def test_judges_that_are_not_there(tmp_path: Path) -> None:
    data = sets.pairs(tmp_path / "data", ["one"])
    for judges, message in (
        (Judges("nobody"), "recogniser 'nobody' is not known"),
        (Judges("pocketsphinx", "de"), "hears English alone"),
        (Judges("pocketsphinx", "en", "nobody"), "encoder 'nobody' is not known"),
        (Judges("pocketsphinx", "en", "no.such.function"), "no.such.function cannot be imported"),
    ):
        refused("rate-conversion", data, message, tmp_path, judges)
    for changes, message in (
        ({"shots": (-1,)}, "shots must be"),
        ({"modes": ("x",)}, "mmau has one way to ask only, not 'x'"),
        ({"limit": 0}, "limit must be"),
    ):
        with pytest.raises(MimoError, match=message):
            Setup("mmau", data, **changes)


# ---- goes on ---------------------------------------------------------------------------------------------------------


class Failing(Perfect):
    """Ends the process, or cannot answer one question."""

    def answer(self, asks: Sequence[Ask]) -> list[Any]:
        answers: list[Any] = list(super().answer(asks))
        for number, ask in enumerate(asks):
            if ask.item.id == "q2":
                answers[number] = MimoError("it is too hard")
        return answers


def test_a_question_that_cannot_be_answered_is_listed(tmp_path: Path) -> None:
    data = sets.custom(tmp_path / "data")
    results = evaluate(Setup("custom", data, (0,)), Failing, tmp_path / "out")
    (cell,) = results.overall()
    assert cell.scored == 3 and cell.asked == 4 and results.failed == {"0 examples q2": "it is too hard"}


class Slow(Perfect):
    """Takes a while."""

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        time.sleep(0.15)
        return super().answer(asks)


PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_lm_evaluation_run import Slow
from mimo_codec.evaluation.lm.report import write_report
from mimo_codec.evaluation.lm.run import Running, evaluate
from mimo_codec.evaluation.lm.setup import Setup

setup = Setup("custom", Path({data!r}), (0, 2))
results = evaluate(setup, Slow, Path({output!r}), model="slow", running=Running(batch_size=2))
write_report(results, Path({output!r}))
"""


def test_a_killed_run_goes_on_to_the_same_report(tmp_path: Path) -> None:
    data, out = sets.custom(tmp_path / "data", count=20), tmp_path / "out"
    setup = Setup("custom", data, (0, 2))
    whole = evaluate(setup, Perfect, tmp_path / "whole", model="slow", running=Running(batch_size=2))
    write_report(whole, tmp_path / "whole")
    here = Path(__file__).parent
    program = PROGRAM.format(paths=[str(here), str(here.parent), str(ROOT)], data=str(data), output=str(out))
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", program])
        before = len(list((out / "work").glob("*.jsonl"))) if out.exists() else 0
        while process.poll() is None and len(list((out / "work").glob("*.jsonl"))) < before + 2:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = list((out / "work").glob("*.jsonl"))
    assert 4 <= len(done) < 20 and not (out / "report.json").exists()
    results = evaluate(setup, Perfect, out, model="slow", running=Running(batch_size=2))
    write_report(results, out)
    assert files(out) == files(tmp_path / "whole")
    again = evaluate(setup, Unloadable, out, model="slow", running=Running(batch_size=2))
    assert again.as_dict() == whole.as_dict()


def test_other_runs_are_not_mixed(tmp_path: Path) -> None:
    data, out = sets.custom(tmp_path / "data"), tmp_path / "out"
    evaluate(Setup("custom", data, (0,)), Perfect, out, model="one")
    for setup, model, message in (
        (Setup("custom", data, (1,)), "one", "another settings"),
        (Setup("custom", data, (0,)), "two", "another model"),
        (Setup("custom", data, (0,), judges=Judges("moonshine")), "one", "another judges"),
    ):
        with pytest.raises(MimoError, match=message):
            evaluate(setup, Unloadable, out, model=model)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_two_workers_make_the_report_of_one(engine: str, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the corpus extra")
    data = sets.custom(tmp_path / "data", count=12)
    setup = Setup("custom", data, (0, 2))
    for name, running in (
        ("one", Running(batch_size=4)),
        ("two", Running(engine, Resources(workers=2), batch_size=4)),
    ):
        write_report(evaluate(setup, Perfect, tmp_path / name, model="x", running=running), tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_lists_all_suites() -> None:
    assert set(NAMES) == set(SUITES)


def test_the_command(run, tmp_path: Path, tiny_folder: Path) -> None:
    pytest.importorskip("transformers", reason="needs the lm extra")
    data = sets.custom(tmp_path / "data")
    options = ["--model", LM, "--codec", tiny_folder, "--data", data, "--device", "cpu", "-o", tmp_path / "out"]
    outcome = run("evaluate-lm", "custom", *options, "--shots", "0,2", "--limit", "2")
    assert outcome.code == 0, outcome.err
    assert "0-shot" in outcome.out and "2 of 2" in outcome.out and "report.md" in outcome.out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["suite"] == "custom"
    again = run("evaluate-lm", "custom", *options, "--shots", "0,2", "--limit", "2")
    assert again.out == outcome.out
    other = run("evaluate-lm", "custom", *options, "--shots", "1")
    assert_one_line_error(other, "another settings")
    assert_one_line_error(run("evaluate-lm", "custom", *options, "--shots", "x"), "'x' is not a number")
    assert_one_line_error(run("evaluate-lm", "nothing"), "nothing")


def test_plan(run, tmp_path: Path) -> None:
    data = sets.mmau(tmp_path / "data")
    outcome = run("evaluate-lm", "plan", "mmau", "--data", data, "--shots", "0,2", "--model", LM)
    lines = outcome.out.splitlines()
    assert outcome.code == 0 and lines[1].split()[:2] == ["0-shot", "9"] and "GiB" in lines[-1]
    longer = [int(line.split()[2]) for line in lines[1:3]]
    assert longer[1] > 2 * longer[0]
    estimated = run("evaluate-lm", "plan", "mmau", "--data", data, "--shots", "0")
    assert estimated.code == 0 and "hours at 4000 positions" in estimated.out
    assert_one_line_error(run("evaluate-lm", "plan", "mmau", "--data", tmp_path / "no"), "no such file or folder")
    assert_one_line_error(run("evaluate-lm", "plan", "chess", "--data", data), "suite 'chess' is not known")
