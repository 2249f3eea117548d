"""Runs of a suite on data, answers, judges and folders that are not as they should be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_sets as sets
import numpy as np
import pytest
from conftest import GOLDEN, assert_one_line_error
from lm_sets import Perfect, tones

from mimo_codec import MimoError
from mimo_codec.evaluation.lm import judges as judges_module
from mimo_codec.evaluation.lm.judges import Judges
from mimo_codec.evaluation.lm.model import LanguageModel
from mimo_codec.evaluation.lm.report import as_markdown
from mimo_codec.evaluation.lm.results import Results, read_answers
from mimo_codec.evaluation.lm.run import Running, evaluate
from mimo_codec.evaluation.lm.setup import Setup, Unit, prepare
from mimo_codec.evaluation.lm.suite import Answer, Ask
from mimo_codec.lm.instructions import INSTRUCTIONS
from mimo_codec.lm.request import GREEDY, Sampling

pytest.importorskip("jiwer", reason="needs the eval extra")
pytest.importorskip("tokenizers", reason="needs the lm extra")

__all__ = ["tones"]
Rows = Sequence[dict[str, Any]]


def items(folder: Path, rows: Rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def saying(text: str, waveform: Any = None) -> Callable[[], Any]:
    """A model that always says the same."""

    class Model:
        def answer(self, asks: Sequence[Ask]) -> list[Answer]:
            return [Answer(text, waveform) for _ in asks]

    return Model


def custom(data: Path, out: Path, model: Callable[[], Any] = Perfect, judges: Judges | None = None) -> Results:
    return evaluate(Setup("custom", data, (0,), judges=judges or Judges()), model, out, running=Running(batch_size=1))


QUERIES: Rows = [{"id": f"q{n}", "input_text": f"{n}?", "output_text": sets.SPOKEN[n]} for n in range(3)]


# ---- what is computed together ---------------------------------------------------------------------------------------


def test_answers_are_computed_together_where_and_only_where_their_options_are_the_same(tmp_path: Path) -> None:
    prepared = prepare(Setup("tts", sets.tts(tmp_path / "tts"), (0, 1), ("plain",), Judges()), judged=False)
    asks = []
    for unit in (Unit("plain", shots, item) for shots in prepared.shots for item in prepared.asked()):
        prompt = prepared.suite.prompt(unit.item, prepared.shown(unit)[1], unit.mode, INSTRUCTIONS["en"])
        options = prepared.suite.options(unit.item, unit.mode, unit.shots)
        asks.append(Ask(unit.item, unit.mode, unit.shots, prompt, options, 0))
    calls: list[tuple[int, Sampling]] = []

    def generate(grids: list[Any], *, text_sampling: Sampling, **options: Any) -> list[Any]:
        calls.append((len(grids), text_sampling))
        return [SimpleNamespace(text="", waveform=None, stop_reason="") for _ in grids]

    model = LanguageModel(SimpleNamespace(generate=generate))  # type: ignore[arg-type]
    model._as_grid = lambda pieces: np.zeros((9, 4))  # type: ignore[method-assign]
    assert len(model.answer(asks)) == 10
    assert sorted(count for count, _ in calls) == [5, 5]
    assert {sampling for _, sampling in calls} == {GREEDY, Sampling(0.6)}


# ---- going on --------------------------------------------------------------------------------------------------------


def test_damaged_and_failed_answers_are_asked_again(tmp_path: Path) -> None:
    data, out = items(tmp_path / "data", QUERIES), tmp_path / "out"
    whole = custom(data, out).as_dict()
    files = sorted((out / "work").glob("*.jsonl"))
    text = '{"mode": "", "shots": 0, "id": "q1", "scores": {"exact": "x"}}\n'
    for damage in ("", "[]\n", "3\n", "{}\n", files[0].read_text(), text):
        files[1].write_text(damage)
        assert custom(data, out).as_dict() == whole

    class Moody(Perfect):
        def answer(self, asks: Sequence[Ask]) -> list[Any]:
            return [MimoError("not now")] * len(asks)

    failed = custom(data, tmp_path / "moody", Moody)
    assert len(failed.failed) == 3 and next(failed.overall()).scored == 0
    assert custom(data, tmp_path / "moody").as_dict() == whole


@pytest.mark.parametrize("said", ["a\u2028b", "a\x85b\x0bc", "\ud800", "\x00", "x" * 100_000])
def test_strange_answers_are_kept(said: str, tmp_path: Path) -> None:
    custom(items(tmp_path / "data", QUERIES), tmp_path / "out", saying(said))
    rows = read_answers(tmp_path / "out" / "answers.jsonl")
    assert [row["answer"] for row in rows] == [said] * 3


def test_a_start_that_fails_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    def fail() -> Any:
        raise MimoError("there is no such codec")

    data = items(tmp_path / "data", QUERIES)
    for model, raises in ((fail, True), (Perfect, False)):
        run = lambda: evaluate(Setup("custom", data, (0,)), model, tmp_path / "out", model=str(model))  # noqa: B023, E731
        if raises:
            with pytest.raises(MimoError, match="no such codec"):
                run()
        else:
            assert next(run().overall()).scored == 3


def test_changed_data_are_refused(tmp_path: Path) -> None:
    rows = [*QUERIES, {"kind": "example", "input_text": "a", "output_text": "b"}]
    data, out = items(tmp_path / "data", rows), tmp_path / "out"
    custom(data, out)
    items(tmp_path / "data", [*rows[:-1], {**rows[-1], "output_text": "c"}])
    with pytest.raises(MimoError, match="begun with another items"):
        custom(data, out)
    items(tmp_path / "data", rows)
    words = INSTRUCTIONS["en"].replace({"transcribe": "Write."})
    with pytest.raises(MimoError, match="begun with another instructions"):
        evaluate(Setup("custom", data, (0,)), Perfect, out, words=words, running=Running(batch_size=1))


def test_a_sound_that_is_back_begins_another_run(tmp_path: Path, tones: Judges) -> None:
    data, out = sets.speechmmlu(tmp_path / "data"), tmp_path / "out"
    setup = Setup("speechmmlu", data, (1,), ("s2t",), tones)
    path = data / "audio/anatomy/anatomy_0.mp3"
    content = path.read_bytes()
    path.unlink()
    evaluate(setup, Perfect, out)
    path.write_bytes(content)
    with pytest.raises(MimoError, match="begun with another"):
        evaluate(setup, Perfect, out)


def test_the_output_is_not_in_the_data(tmp_path: Path, tones: Judges) -> None:
    data = sets.continuation(tmp_path / "data")
    with pytest.raises(MimoError, match="lies in the data"):
        evaluate(Setup("continuation", data, (0,), judges=tones), Perfect, data / "out")


# ---- what is counted -------------------------------------------------------------------------------------------------


def test_groups_named_all_or_nothing(tmp_path: Path) -> None:
    groups = ["all", None, "a\nb|c"]
    rows = [{**row, "group": group} for row, group in zip(QUERIES, groups, strict=True)]
    results = custom(items(tmp_path / "data", rows), tmp_path / "out")
    assert [cell.group for cell in results.cells] == [None, "a\nb|c", "all", "other"]
    (cell,) = results.overall()
    assert (cell.scored, cell.asked) == (3, 3)
    lines = as_markdown(results).split("## By group")[1].strip().splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_published_scores_of_groups(tmp_path: Path, tones: Judges) -> None:
    results = evaluate(Setup("mmau", sets.mmau(tmp_path / "data"), (1,), judges=tones), Perfect, tmp_path / "out")
    assert "| MiMo-Audio-7B-Base 5-shot (published) | speech | - | 67.6 |" in as_markdown(results)


def test_modes_and_shots_count_once(tmp_path: Path, tones: Judges) -> None:
    setup = Setup("speechmmlu", sets.speechmmlu(tmp_path / "data"), (1, 1), ("t2t", "t2t"), tones)
    (cell,) = evaluate(setup, Perfect, tmp_path / "out").overall()
    assert (cell.scored, cell.asked) == (8, 8)


def test_who_says_nothing_is_wrong(tmp_path: Path, tones: Judges) -> None:
    data = sets.custom(tmp_path / "data", spoken=True)
    rows = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    items(data, [{**row, "choices": sets.SPOKEN} for row in rows])
    for waveform in (None, np.zeros(0, np.float32)):
        model = saying("", waveform)
        (cell,) = custom(data, tmp_path / f"out{waveform is None}", model, tones).overall()
        means = {name: summary.mean for name, summary in cell.summaries.items()}
        assert means == {"accuracy": 0.0, "exact": 0.0, "spoke": 0.0} and cell.scored == 4
    data = sets.speechmmlu(tmp_path / "mmlu")
    setup = Setup("speechmmlu", data, (0,), ("t2s",), tones)
    (cell,) = evaluate(setup, saying("Option A", np.zeros(0, np.float32)), tmp_path / "mmlu-out").overall()
    assert cell.scored == 8 and cell.summaries["accuracy"].mean == 0


def test_answers_without_letters(tmp_path: Path) -> None:
    rows = [{"input_text": "1 ? 1 = 2", "output_text": "+", "choices": ["+", "-"]}]
    for said, right in (("+", 1.0), ("-", 0.0)):
        (cell,) = custom(items(tmp_path / "data", rows), tmp_path / f"out{right}", saying(said)).overall()
        assert cell.summaries["accuracy"].mean == cell.summaries["exact"].mean == right


def test_sounds_that_are_not_numbers_fail_alone(tmp_path: Path, tones: Judges) -> None:
    data = sets.custom(tmp_path / "data", spoken=True)
    results = custom(data, tmp_path / "out", saying("", np.full(2400, math.nan, np.float32)), tones)
    assert len(results.failed) == 4 and all("NaN" in reason for reason in results.failed.values())


def test_a_model_that_answers_too_little(tmp_path: Path) -> None:
    class Lazy:
        def answer(self, asks: Sequence[Ask]) -> list[Answer]:
            return []

    with pytest.raises(MimoError, match="0 answers to 1 questions"):
        custom(items(tmp_path / "data", QUERIES), tmp_path / "out", Lazy)


# ---- data ------------------------------------------------------------------------------------------------------------


def test_rows_that_are_none_are_listed(tmp_path: Path) -> None:
    data = sets.mmau(tmp_path / "data")
    path = data / "mmau-test-mini.json"
    rows = json.loads(path.read_text())
    rows[0]["answer"], rows[1]["answer"], rows[2]["task"] = None, "Nothing of it.", None
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    results = evaluate(Setup("mmau", data, (1,)), Perfect, tmp_path / "out")
    (cell,) = results.overall()
    assert (cell.scored, cell.asked) == (7, 9) and len(results.failed) == 2
    assert "none of the choices" in results.failed[f"{path}: row 1"]


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav", "x" * 300, "/", ".", "zero.wav", "no.wav"])
def test_names_of_no_sound_are_left_out(name: str, tmp_path: Path, tones: Judges) -> None:
    sets.custom(tmp_path / "data", spoken=True)
    import soundfile

    soundfile.write(tmp_path / "data" / "zero.wav", np.zeros(0, np.float32), 16000)
    rows = [json.loads(line) for line in (tmp_path / "data" / "items.jsonl").read_text().splitlines()]
    rows[0]["input_audio"] = name
    results = custom(items(tmp_path / "data", rows), tmp_path / "out", Perfect, tones)
    assert list(results.failed) == ["q0"] and next(results.overall()).scored == 3


def test_texts_that_are_no_unicode(tmp_path: Path) -> None:
    for key in ("id", "input_text", "output_text", "group"):
        data = items(tmp_path / key, [{**QUERIES[0], key: "\ud800"}, QUERIES[1]])
        with pytest.raises(MimoError, match="no valid Unicode"):
            custom(data, tmp_path / "out")
    (tmp_path / "lines").mkdir()
    line = json.dumps(QUERIES[0] | {"output_text": "a\u2028b"}, ensure_ascii=False)
    (tmp_path / "lines" / "items.jsonl").write_text(line + "\r\n\r\n", encoding="utf-8")
    assert prepare(Setup("custom", tmp_path / "lines", (0,))).items[0].answer.text == "a\u2028b"


def test_an_odd_table_of_voice_conversion(tmp_path: Path, tones: Judges) -> None:
    data = sets.voice_conversion(tmp_path / "data")
    path = data / "ESD" / "VoiceConversion.tsv"
    lines = path.read_text().splitlines()
    cells = lines[1].split("\t")
    odd = ["x" * 200_000, cells[1], "t", "/", cells[4]]
    path.write_text("\r\n".join([*lines, "\t".join(odd)]) + "\r\n")
    results = evaluate(Setup("voice-conversion", data, (1,), judges=tones), Perfect, tmp_path / "out")
    (cell,) = results.overall()
    assert (cell.scored, cell.asked) == (4, 5) and len(results.failed) == 1


def test_lists_of_one_name_and_texts_beside_sounds(tmp_path: Path, tones: Judges) -> None:
    for folder in ("p", "q"):
        sets.pairs(tmp_path / "data" / folder, ["x"])
    results = evaluate(Setup("style-conversion", tmp_path / "data", (1,), judges=tones), Perfect, tmp_path / "out")
    assert [cell.group for cell in results.cells] == [None, "p/x", "q/x"]
    data = sets.denoising(tmp_path / "noise")
    (data / "noisy_testset_wav" / "p230_000.txt").write_text("beside it")
    assert len(prepare(Setup("denoising", data, judges=tones)).items) == 6


def test_texts_alone_are_spoken_plainly(tmp_path: Path, tones: Judges) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text.txt").write_text(f"{sets.SPOKEN[0]}\n")
    (cell,) = evaluate(Setup("tts", tmp_path / "data", (0,), judges=tones), Perfect, tmp_path / "out").overall()
    assert cell.mode == "plain" and cell.scored == 1
    with pytest.raises(MimoError, match="there is no voice sample"):
        evaluate(Setup("tts", tmp_path / "data", (0,), ("voice",), tones), Perfect, tmp_path / "other")


# ---- judges ----------------------------------------------------------------------------------------------------------


def test_encoders_of_voices(tmp_path: Path, tones: Judges, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = (np.ones(16000, np.float32), 16000)
    found: dict[str, Any] = {}
    monkeypatch.setitem(judges_module.ENCODERS, "own", lambda samples: found["value"])
    own = replace(tones, encoder="own")
    for value in ([3, 4], np.array([3.0, 4.0]), (0.3, 0.4)):
        found["value"] = value
        assert own.similarity(sound, sound) == pytest.approx(1.0)
    for value in ("ab", [[1.0], [2.0]], [math.inf, 1.0], [0.0, 0.0], object()):
        found["value"] = value
        with pytest.raises(MimoError, match="encoder: own"):
            own.similarity(sound, sound)
    found["value"] = None
    assert math.isnan(own.similarity(sound, sound))


def test_recognizers_that_cannot_be_loaded(tmp_path: Path, tones: Judges) -> None:
    pytest.importorskip("faster_whisper")
    data = sets.pairs(tmp_path / "data", ["one"])
    for name in ("faster-whisper:/nonexistent", "faster-whisper:"):
        setup = Setup("rate-conversion", data, (0,), judges=replace(tones, recogniser=name))
        with pytest.raises(MimoError, match="recogniser"):
            evaluate(setup, lambda: pytest.fail("the model was loaded"), tmp_path / "out")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_was_left_out(run, tmp_path: Path, tiny_folder: Path) -> None:
    pytest.importorskip("transformers", reason="needs the lm extra")
    data = items(tmp_path / "data", [*QUERIES[:1], {"input_text": "x"}])
    options = ["--model", GOLDEN / "lm_base", "--codec", tiny_folder, "--data", data, "--device", "cpu", "--shots", "0"]
    outcome = run("evaluate-lm", "custom", *options, "-o", tmp_path / "out")
    assert outcome.code == 1 and "1 of 2" in outcome.out and "1 items or questions were left out" in outcome.err
    for changed, message in (
        (["--shots", ","], "--shots: names nothing"),
        (["-o", ""], "--output"),
        (["--modes", "x"], "has one way to ask"),
        (["--batch-size", "5000"], "batch-size"),
    ):
        assert_one_line_error(run("evaluate-lm", "custom", *options, "-o", tmp_path / "new", *changed), message)
    assert not (tmp_path / "new").exists()
