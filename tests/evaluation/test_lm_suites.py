"""Every suite from its layout to its report: perfect answers, guesses, and a language model with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lm_sets as sets
import pytest
from conftest import GOLDEN
from lm_sets import Guessing, Perfect, tones

from mimo_codec.evaluation.lm.judges import Judges
from mimo_codec.evaluation.lm.model import ModelChoice
from mimo_codec.evaluation.lm.report import as_markdown, as_text, write_report
from mimo_codec.evaluation.lm.results import Results
from mimo_codec.evaluation.lm.run import evaluate
from mimo_codec.evaluation.lm.setup import Setup
from mimo_codec.evaluation.lm.suites import SUITES

pytest.importorskip("jiwer", reason="needs the eval extra")
pytest.importorskip("tokenizers", reason="needs the lm extra")

__all__ = ["tones"]
MAKERS: dict[str, tuple[Callable[[Path], Path], tuple[int, ...]]] = {
    "speechmmlu": (sets.speechmmlu, (0, 1, 5)),
    "mmau": (sets.mmau, (0, 2)),
    "voice-conversion": (sets.voice_conversion, (0, 1, 3)),
    "rate-conversion": (partial(sets.pairs, names=["slow", "slower"]), (0, 2)),
    "style-conversion": (partial(sets.pairs, names=["sad"], voice=3), (0, 2)),
    "denoising": (sets.denoising, (0, 2)),
    "translation": (partial(sets.pairs, names=["de"], text=True), (0, 2)),
    "asr": (sets.asr, (0, 2)),
    "tts": (sets.tts, (0, 2)),
    "continuation": (sets.continuation, (0,)),
    "custom": (partial(sets.custom, spoken=True), (0, 2)),
}
PERFECT = {
    "accuracy": 1.0,
    "exact": 1.0,
    "wer": 0.0,
    "wer_mean": 0.0,
    "similarity": 1.0,
    "rate_error": 0.0,
    "spoke": 1.0,
    "opinion": 4.0,
    "bleu": 100.0,
    "chrf": 100.0,
}
"""What perfect answers score, where a suite has the metric."""


def run(name: str, data: Path, output: Path, judges: Judges, model: Callable[[], Any], **changes: Any) -> Results:
    setup = Setup(name, data, MAKERS[name][1], judges=judges, **changes)
    results = evaluate(setup, model, output)
    write_report(results, output)
    return results


def test_every_suite_is_tried() -> None:
    assert set(MAKERS) == set(SUITES)


@pytest.mark.parametrize("name", MAKERS)
def test_perfect_answers(name: str, tmp_path: Path, tones: Judges) -> None:
    if name == "translation":
        pytest.importorskip("sacrebleu", reason="needs the eval extra")
    make, shots = MAKERS[name]
    results = run(name, make(tmp_path / "data"), tmp_path / "out", tones, Perfect)
    overall = list(results.overall())
    assert len(overall) == len(SUITES[name].modes) * len(shots) and not results.failed
    for cell in overall:
        assert cell.scored == cell.asked > 0
        known = {metric: value for metric, value in PERFECT.items() if metric in cell.summaries}
        assert known, cell
        for metric, value in known.items():
            assert cell.summaries[metric].mean == pytest.approx(value, abs=0.02), (cell.label, metric)
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == sum(cell.asked for cell in overall)
    for row in rows:
        assert row["prompt"] and len(row["examples"]) == row["shots"] and row["id"] not in row["examples"]
        assert row["spoken"] is None or (tmp_path / "out" / row["spoken"]).is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["suite"] == name and len(report["scores"]) >= len(overall)
    assert (tmp_path / "out" / "shots.png").stat().st_size > 1000
    text = as_markdown(results)
    assert "of" in text and all(f"{cell.scored} of {cell.asked}" in text for cell in overall)
    assert as_text(results).count("\n") >= len(overall)


def test_modality_gap_and_published_scores(tmp_path: Path, tones: Judges) -> None:
    results = run("speechmmlu", sets.speechmmlu(tmp_path / "data"), tmp_path / "out", tones, Perfect)
    assert [each.value for each in results.derived] == [0.0] * 3
    text = (tmp_path / "out" / "report.md").read_text()
    assert "MiMo-Audio-7B-Base s2s 5-shot (published) | - | 69.1" in text and "modality gap" in text
    assert "| t2t 5-shot | anatomy |" in text


class HalfDeaf(Perfect):
    """Reads and writes perfectly; of what it hears and says, every second answer is wrong."""

    def answer(self, asks: Any) -> Any:
        answers = super().answer(asks)
        for number, ask in enumerate(asks):
            if ask.mode == "s2s" and int(ask.item.id[-1]) % 2:
                wrong = sets.SENTENCES[(ask.item.about["option"] + 1) % 4]
                answers[number] = sets.Answer(wrong, sets.spoken(wrong, 0))
        return answers


def test_a_modality_gap(tmp_path: Path, tones: Judges) -> None:
    results = run("speechmmlu", sets.speechmmlu(tmp_path / "data"), tmp_path / "out", tones, HalfDeaf)
    assert [each.value for each in results.derived] == [50.0] * 3


def test_guesses_score_what_chance_does(tmp_path: Path, tones: Judges) -> None:
    data = sets.mmau(tmp_path / "mmau", of_each=60)
    results = run("mmau", data, tmp_path / "out", tones, Guessing)
    for cell in results.overall():
        summary = cell.summaries["accuracy"]
        assert abs(summary.mean - 1 / len(sets.CHOICES)) < 0.11 and summary.low < 0.25 < summary.high
    data = sets.speechmmlu(tmp_path / "mmlu", questions=60)
    setup = Setup("speechmmlu", data, (1,), ("t2t", "s2t"), tones)
    for cell in evaluate(setup, Guessing, tmp_path / "mmlu-out").overall():
        assert abs(cell.summaries["accuracy"].mean - 0.25) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_a_language_model(name: str, tmp_path: Path, tones: Judges, tiny_folder: Path) -> None:
    """With random weights its answers mean nothing, but all of them are there."""
    make, _ = MAKERS[name]
    setup = Setup(name, make(tmp_path / "data"), (0, 1) if name != "continuation" else (0,), judges=tones, limit=2)
    choice = ModelChoice(str(GOLDEN / "lm_base"), str(tiny_folder), "cpu")
    results = evaluate(setup, choice.load, tmp_path / "out", measure=choice.measure(), words=choice.instructions())
    assert all(cell.scored == cell.asked == 2 for cell in results.overall()), results.failed
    if name == "continuation":  # weights are random: every code is as likely as others
        (cell,) = results.overall()
        assert 100 < cell.summaries["perplexity"].mean < 1024
