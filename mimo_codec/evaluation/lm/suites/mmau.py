"""MMAU: questions about speech, sounds and music, each with choices; examples are other items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mimo_codec.common.checks import check_type, require
from mimo_codec.evaluation.lm.items import NO_GROUP, Example, Item, Side
from mimo_codec.evaluation.lm.parsing import final_answer, is_choice
from mimo_codec.evaluation.lm.prompts import INT, Piece, Sound
from mimo_codec.evaluation.lm.suite import (
    AUDIO_START,
    END_OF_TEXT,
    Answer,
    Judged,
    Metric,
    Options,
    Suite,
    find_file,
    resolve,
)
from mimo_codec.evaluation.lm.tables import read_content
from mimo_codec.lm.instructions import Instructions

MAX_NEW = 256
"""Positions of an answer; the published evaluation lets models write on to the end of their context."""


class MMAU(Suite):
    """The set test-mini, whose answers are known."""

    name = "mmau"
    shots = (5,)
    metrics: ClassVar = {"accuracy": Metric("accuracy", True, percent=True)}
    layout = "mmau-test-mini.json, a list of audio_id, question, choices, answer and task, and the sounds that it names"

    def load(self, data: Path) -> list[Item]:
        """Read the list; every kind of sound (speech, sound, music) is a group."""
        path = find_file(data, "mmau-test-mini.json", "mmau-test.json")
        rows = check_type(f"{path}: content", read_content(path), list, "a list of questions")
        placed = ((f"{path}: row {number}", (number, row)) for number, row in enumerate(rows))
        return self.collect(placed, lambda row: _item(row[1], row[0], path.parent))

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Lay out sounds, questions and answers of the examples, an empty line after each, and then the question."""
        shown: list[Piece] = []
        for one in examples:
            shown += [*_question(one.question), f"Answer: {one.answer.text}\n\n"]
        return [INT, *shown, *_question(item.question), "\nAnswer:"]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Answer in text, up to its end or to a next sound."""
        return Options(speaks=False, max_new=MAX_NEW, stop=(END_OF_TEXT, AUDIO_START))

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Compare the answer with the choices by their words."""
        said = final_answer(answer.text)
        right = is_choice(said, item.answer.text or "", item.choices)
        return Judged({"accuracy": float(right)}, {"choice": said})


def _question(side: Side) -> list[Piece]:
    assert side.audio is not None
    return [Sound(side.audio), f"Question: {side.text}"]


def ask(question: str, choices: Sequence[str]) -> str:
    """Return a question with its choices, a line each."""
    listed = "".join(f"{choice}\n" for choice in choices)
    return f"{question}\n\nChoice: \n{listed}\nMake a choice from the given {len(choices)} choices."


def _item(row: Mapping[str, Any], number: int, folder: Path) -> Item:
    check_type("it", row, dict, "an object")
    for name in ("audio_id", "question", "answer"):
        check_type(name, row.get(name), str, "text")
    choices = check_type("choices", row.get("choices"), list, "a list")
    require(choices and all(isinstance(choice, str) for choice in choices), "choices must be texts")
    right = any(is_choice(choice, row["answer"], choices) for choice in choices)
    require(right, f"answer {row['answer']!r} is none of the choices")
    return Item(
        str(number if row.get("id") is None else row["id"]),
        Side(ask(row["question"], choices), resolve(row["audio_id"].removeprefix("./"), folder)),
        Side(row["answer"]),
        group=str(row.get("task") or NO_GROUP),
        choices=tuple(choices),
    )
