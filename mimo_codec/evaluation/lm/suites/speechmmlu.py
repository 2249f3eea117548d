"""SpeechMMLU: knowledge asked by text or speech, answered in text or speech; examples come with the set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mimo_codec.common.checks import check_integer, require, wrap_errors
from mimo_codec.data.parquet import read_parquet
from mimo_codec.evaluation.lm.items import Example, Item, Side
from mimo_codec.evaluation.lm.parsing import option_letter
from mimo_codec.evaluation.lm.prompts import INT, SPE, Piece, Sound, Speech
from mimo_codec.evaluation.lm.suite import END_OF_TEXT, SPEECH_END, Answer, Derived, Judged, Metric, Options, Suite
from mimo_codec.evaluation.lm.tables import read_content, read_rows
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.prompts import SPEECH, Markup

PROMPTS = "few_shot_prompts.json"
COLUMNS = ("id", "subject", "question_text", "question_audio", "voice_id", "answer")


class SpeechMMLU(Suite):
    """Four ways to ask each question: text to text, speech to text, text to speech, speech to speech."""

    name = "speechmmlu"
    modes = ("t2t", "s2t", "t2s", "s2s")
    shots = (5,)
    metrics: ClassVar = {"accuracy": Metric("accuracy", True, percent=True)}
    layout = f"{PROMPTS}, rows in *.parquet or *.jsonl with {', '.join(COLUMNS)}, and sounds below audio/"

    def load(self, data: Path) -> list[Item]:
        """Read the rows of all subjects, and the examples of each subject in the voice of the question."""
        content = read_content(data / PROMPTS)
        return self.collect(_rows(data), lambda row: _item(row, content, data))

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Lay out the beginning, the examples and the question without anything between them."""
        asked, answered = mode[0], mode[-1]
        beginning: Side = item.about["beginning"]
        sides = [(beginning, asked)]
        for shown in examples:
            sides += [(shown.question, asked), (shown.answer, answered + "!")]
        sides += [(item.question, asked)]
        kinds = {kind[0] for _, kind in sides}
        prefix = {frozenset("st"): [INT], frozenset("s"): [SPE]}.get(frozenset(kinds), [])
        end: list[Piece] = [Markup(SPEECH)] if answered == "s" else []
        return [*prefix, *(_piece(side, kind) for side, kind in sides), *end]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Return 5 to 10 positions for text, 10 to 25 for speech."""
        if mode[-1] == "t":
            return Options(speaks=False, max_new=10, min_new=5)
        return Options(speaks=True, max_new=25, min_new=10, stop=(END_OF_TEXT, SPEECH_END))

    def needs(self, mode: str) -> Sequence[str]:
        """Return that a recognizer hears spoken answers."""
        return ("recogniser",) if mode[-1] == "s" else ()

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Compare the option that is named with the right one."""
        said, details = answer.text, dict[str, Any]()
        if mode[-1] == "s":
            said = "" if answer.spoken is None else self.judges.transcribe(answer.spoken)
            details["heard"] = said
        chosen = option_letter(said)
        right = chosen == item.about["option"]
        return Judged({"accuracy": float(right)}, details | {"option": None if chosen is None else "ABCD"[chosen]})

    def derive(self, means: Mapping[tuple[str, int], Mapping[str, float]]) -> list[Derived]:
        """Compute the modality gap: how much worse the model is when it hears and speaks than when it reads and writes.

        Source: report, section 3.3.
        """
        gaps = []
        for shots in sorted({shots for _, shots in means}):
            ends = [means.get((mode, shots), {}).get("accuracy") for mode in ("t2t", "s2s")]
            if ends[0] is not None and ends[1] is not None:
                gaps.append(Derived(f"modality gap (t2t - s2s), {shots} examples", 100 * (ends[0] - ends[1])))
        return gaps


def _piece(side: Side, kind: str) -> Piece:
    if kind == "s":
        assert side.audio is not None
        return Sound(side.audio)
    if kind == "s!":
        assert side.audio is not None
        return Speech(side.text or "", side.audio)
    return side.text or ""


def _rows(data: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of all tables of a folder, in the order of their names, each with where it stands."""
    tables = sorted([*data.rglob("*.parquet"), *data.rglob("*.jsonl")])
    require(tables, f"{data}: has no *.parquet and no *.jsonl with the rows of questions")
    rows: list[tuple[str, dict[str, Any]]] = []
    for path in tables:
        found = read_parquet(path, list(COLUMNS)) if path.suffix == ".parquet" else read_rows(path)
        rows += [(f"{path}: row {number}", row) for number, row in enumerate(found)]
    return rows


def _item(row: Mapping[str, Any], prompts: Any, data: Path) -> Item:
    missing = [name for name in COLUMNS if row.get(name) is None]
    require(not missing, f"has no {', '.join(missing)}")
    subject, voice = str(row["subject"]), str(row["voice_id"])
    with wrap_errors(f"{PROMPTS}: has no beginning and examples of {subject}", KeyError, TypeError):
        beginning, shown = str(prompts[subject]["beginning"]), list(prompts[subject]["examples"])
        texts = [(str(one["question"]), str(one["answer"])) for one in shown]
    folder = data / "audio" / subject / "prompts" / f"{subject}_{voice}"
    examples = tuple(
        Example(
            Side(question, folder / f"{subject}_{i}_question_and_choices.mp3"),
            Side(answer, folder / f"{subject}_{i}_answer.mp3"),
        )
        for i, (question, answer) in enumerate(texts)
    )
    option = check_integer("answer", row["answer"], 0, 3)
    return Item(
        str(row["id"]),
        Side(str(row["question_text"]), data / str(row["question_audio"])),
        Side(f"Option {'ABCD'[option]}"),
        group=subject,
        examples=examples,
        about={"beginning": Side(beginning, folder / f"{subject}_beginning.mp3"), "option": option},
    )
