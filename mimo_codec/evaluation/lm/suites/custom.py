"""A test of one's own: a JSONL file of examples and queries, in text or speech."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mimo_codec.common.checks import check_choice, check_type, require
from mimo_codec.evaluation.lm.items import NO_GROUP, Example, Item, Side, seconds_of
from mimo_codec.evaluation.lm.judges import word_errors
from mimo_codec.evaluation.lm.parsing import final_answer, is_choice
from mimo_codec.evaluation.lm.prompts import INT, SPE, Piece, Sound, Speech
from mimo_codec.evaluation.lm.suite import (
    END_OF_TEXT,
    SPEECH_END,
    Answer,
    Judged,
    Metric,
    Options,
    Suite,
    find_file,
    resolve,
    spoken_options,
)
from mimo_codec.evaluation.lm.tables import read_rows
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.prompts import SPEECH, Markup

KEYS = ("input_text", "input_audio", "output_text", "output_audio")
KNOWN = (*KEYS, "id", "kind", "group", "choices", "instruction")
KINDS = ("example", "query")
MAX_NEW = 400
LONGEST, LEAST_SECONDS = 3.0, 10.0
"""A spoken answer ends after three times the seconds of the right one, or ten."""


class Custom(Suite):
    """Rows with input_text or input_audio, and output_text, output_audio or both.

    Rows of the kind "example" are shown; without any, other queries are. A query whose answer has a sound is answered
    in speech. `choices` makes it a question of which one; `instruction` stands before the examples; `group` is a row of
    the table.
    """

    name = "custom"
    metrics: ClassVar = {
        "accuracy": Metric("accuracy", True, percent=True),
        "exact": Metric("same words", True, percent=True),
        "wer": Metric("word errors", False, percent=True, weight="words"),
        "similarity": Metric("voice similarity", True),
        "spoke": Metric("spoke", True, percent=True),
    }
    layout = (
        "a .jsonl file, or items.jsonl in a folder, with input_text or input_audio, and output_text or output_audio"
    )

    def load(self, data: Path) -> list[Item]:
        """Read the rows; paths count from the file's folder."""
        path = find_file(data, "items.jsonl")
        placed = ((f"{path}: row {number}", (number, row)) for number, row in enumerate(read_rows(path), 1))
        rows = self.collect(placed, lambda row: _item(row[1], row[0], path.parent))
        items = [item for item in rows if item.about["kind"] == "query"]
        examples = [Example(item.question, item.answer) for item in rows if item.about["kind"] == "example"]
        require(items, f"{path}: has no row of the kind query")
        speech = {item.answer.audio is not None for item in items}
        require(len(speech) == 1, f"{path}: the answers of all queries have sounds, or of none")
        self.speaks = speech.pop()
        if not examples:
            return items
        shown = tuple(examples)
        return [Item(**{**vars(item), "examples": shown}) for item in items]

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Lay out instruction, examples and query as `few_shot` does."""
        questions = [*(shown.question for shown in examples), item.question]
        heard = [side.audio is not None for side in questions]
        instruction = item.about.get("instruction")
        prefix = ""
        if any(heard) or self.speaks:
            prefix = SPE if all(heard) and self.speaks and instruction is None else INT
        begin = prefix + ("" if instruction is None else f"{instruction}\n")
        shown: list[Piece] = []
        for one in examples:
            require(self.speaks or one.answer.text is not None, "custom: an example has no output_text")
            answer: Piece = one.answer.text or ""
            if self.speaks:
                require(one.answer.audio is not None, "custom: an example has no output_audio, and queries have")
                assert one.answer.audio is not None
                answer = Speech(one.answer.text or "", one.answer.audio)
            shown += [_asked(one.question), "\n", answer, " \n\n"]
        end: list[Piece] = [Markup(SPEECH)] if self.speaks else []
        return [*([begin] if begin else []), *shown, _asked(item.question), "\n", *end]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Answer in text or speech up to its end."""
        if item.answer.audio is None:
            return Options(False, MAX_NEW)
        seconds = max(LONGEST * seconds_of(item.answer.audio), LEAST_SECONDS)
        return spoken_options(seconds, stop=(END_OF_TEXT, SPEECH_END))

    def needs(self, mode: str) -> Sequence[str]:
        """Return which judges answers of this kind need."""
        return ("recogniser", "encoder") if self.speaks else ("words",)

    def hears_examples(self, mode: str) -> bool:
        """Return whether answers are spoken."""
        return self.speaks

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Score by choices where there are any, and by words."""
        details: dict[str, Any] = {}
        scores = {name: math.nan for name in self.metrics}
        said: str = answer.text.split("\n\n")[0]
        if self.speaks:
            assert item.answer.audio is not None
            spoken = answer.spoken
            scores["spoke"] = float(spoken is not None)
            if spoken is None:
                return Judged(scores | {"exact": 0.0} | ({"accuracy": 0.0} if item.choices else {}))
            said = self.judges.transcribe(spoken)
            details["heard"] = said
            scores["similarity"] = self.judges.similarity(item.answer.audio, spoken)
        right = self.right_text(item)
        scores |= word_errors(right, said)
        same = said.strip() == right.strip()  # texts without any letter have no words
        scores["exact"] = float(scores["wer"] == 0 or same)
        if item.choices:
            details["choice"] = final_answer(said)
            scores["accuracy"] = float(is_choice(details["choice"], right, item.choices) or same)
        return Judged(scores, details)


def _asked(side: Side) -> Piece:
    return side.text or "" if side.audio is None else Sound(side.audio)


def _item(row: Mapping[str, Any], number: int, folder: Path) -> Item:
    unknown = [name for name in row if name not in KNOWN]
    require(not unknown, f"{', '.join(unknown)} is not known; there is {', '.join(KNOWN)}")
    kind = check_choice("kind", row.get("kind", "query"), KINDS)
    for name in (*KEYS, "instruction", "group"):
        require(row.get(name) is None or isinstance(row[name], str), f"{name} must be text")
    one_input = (row.get("input_text") is None) != (row.get("input_audio") is None)
    require(one_input, "needs input_text or input_audio, and not both")
    question, answer = (
        Side(row.get(f"{side}_text"), None if (file := row.get(f"{side}_audio")) is None else resolve(file, folder))
        for side in ("input", "output")
    )
    require(answer.text is not None or answer.audio is not None, "needs output_text or output_audio")
    choices = check_type("choices", row.get("choices") or [], list, "a list")
    require(all(isinstance(choice, str) for choice in choices), "choices must be texts")
    about = {"instruction": row.get("instruction"), "kind": kind}
    name = str(number if row.get("id") is None else row["id"])
    return Item(name, question, answer, row.get("group") or NO_GROUP, "", None, tuple(choices), about)
