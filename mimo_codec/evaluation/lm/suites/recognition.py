"""Transcription: the task of instruct models, or by examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mimo_codec.common.checks import require
from mimo_codec.data.find import find_utterances
from mimo_codec.evaluation.lm.items import Example, Item, Side
from mimo_codec.evaluation.lm.judges import word_errors
from mimo_codec.evaluation.lm.prompts import INT, Piece, Sound
from mimo_codec.evaluation.lm.suite import END_OF_TEXT, TURN_END, Answer, Judged, Metric, Options, Suite, find_file
from mimo_codec.evaluation.lm.tables import read_fields
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.prompts import NO_THINK, Markup

MAX_NEW = 400
LINE_END = "\n"


class Recognition(Suite):
    """Speech to text. Without examples the prompt is that of `transcribe`; with examples that of `few_shot`."""

    name = "asr"
    metrics: ClassVar = {
        "wer": Metric("word errors", False, percent=True, weight="words"),
        "wer_mean": Metric("word errors, mean of utterances", False, percent=True),
    }
    layout = (
        "manifest.txt, a line of id, tab and text for each wav/ID.wav, or a folder or manifest of speech with texts"
    )

    def load(self, data: Path) -> list[Item]:
        """Read the manifest of the published sets, or whatever training reads, as far as it has texts."""
        if data.is_dir() and not (data / "manifest.txt").is_file():
            return self._utterances(data)
        path = find_file(data, "manifest.txt")
        if path.suffix != ".txt":
            return self._utterances(path)
        rows = read_fields(path, "\t", (2,), "an id, a tab and a text")
        return [Item(name, Side(audio=path.parent / "wav" / f"{name}.wav"), Side(text)) for name, text in rows]

    def _utterances(self, data: Path) -> list[Item]:
        found, _ = find_utterances(data)
        items = []
        for number, u in enumerate(found):
            whole = u.member is None and u.row is None and not u.start and u.end is None
            if u.text and whole:
                items.append(Item(f"{number} {u.path.stem}", Side(audio=u.path), Side(u.text, u.path)))
        require(items, f"{data}: has no whole audio files with texts")
        return items

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Ask for a transcript, as the task does, or show sounds with their texts."""
        assert item.question.audio is not None
        asked = Sound(item.question.audio)
        if not examples:
            start, end = Markup("<|im_start|>user\n"), Markup("<|im_end|>\n")
            return [start, asked, words.transcribe, end, Markup(f"<|im_start|>assistant\n{NO_THINK}")]
        shown: list[Piece] = []
        for one in examples:
            assert one.question.audio is not None
            shown += [Sound(one.question.audio), LINE_END, one.answer.text or "", " \n\n"]
        return [INT, *shown, asked, LINE_END]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Answer in text up to its end."""
        return Options(False, MAX_NEW, stop=(END_OF_TEXT, TURN_END))

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Count word errors of the first line after examples; what is in brackets is not counted, as published."""
        said = answer.text.split("\n\n")[0] if examples else answer.text
        scores = word_errors(item.answer.text or "", said.split("(")[0])
        return Judged(scores | {"wer_mean": scores["wer"]})

    def needs(self, mode: str) -> Sequence[str]:
        """Return that words are counted."""
        return ("words",)
