"""Speech synthesis: the task of instruct models, with a voice sample or without, or by examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mimo_codec.common.checks import require
from mimo_codec.evaluation.lm.items import Example, Item, Side
from mimo_codec.evaluation.lm.judges import word_errors
from mimo_codec.evaluation.lm.prompts import INT, Piece, Sound, Speech, spoken_examples
from mimo_codec.evaluation.lm.suite import (
    END_OF_TEXT,
    SPEECH_END,
    TURN_END,
    Answer,
    Judged,
    Metric,
    Options,
    Suite,
    find_file,
    resolve,
    spoken_options,
)
from mimo_codec.evaluation.lm.tables import read_fields, read_text
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.prompts import SPEECH, Markup, sentence
from mimo_codec.lm.request import GREEDY, Sampling

SECONDS_PER_CHARACTER = 0.25
"""An answer ends after so long."""
PLAIN, VOICE = "plain", "voice"


class Synthesis(Suite):
    """Text to speech, of the lists of Seed-TTS: text.txt, or meta.lst with a voice sample for each text."""

    name = "tts"
    modes = (PLAIN, VOICE)
    metrics: ClassVar = {
        "wer": Metric("word errors", False, percent=True, weight="words"),
        "wer_mean": Metric("word errors, mean of utterances", False, percent=True),
        "similarity": Metric("voice similarity", True),
        "opinion": Metric("DNSMOS", True),
        "spoke": Metric("spoke", True, percent=True),
    }
    layout = "meta.lst with lines id|text of the sample|sample|text, or text.txt with a text on each line"

    def load(self, data: Path) -> list[Item]:
        """Read a list; the voice sample is the question's sound."""
        path = find_file(data, "meta.lst", "text.txt")
        if path.suffix == ".txt":
            texts = [line.strip() for line in read_text(path).split("\n") if line.strip()]
            require(texts, f"{path}: is empty")
            return [
                Item(str(number), Side(text), Side(text), about={"words": text}) for number, text in enumerate(texts)
            ]
        rows = read_fields(path, "|", (4, 5), "id|text of the sample|sample|text")
        items = []
        for name, said, sample, text, *_ in rows:
            voice = resolve(sample, path.parent)
            items.append(Item(name, Side(said, voice), Side(said, voice), about={"words": text}))
        return items

    def modes_for(self, items: Sequence[Item]) -> Sequence[str]:
        """Return that without voice samples there is the plain mode only."""
        return self.modes if all(item.question.audio is not None for item in items) else (PLAIN,)

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Ask as the task does, or show texts with their speech."""
        text = str(item.about["words"])
        if examples:
            pairs = [(one.question.text or "", _speech(one.answer)) for one in examples]
            return [INT, *spoken_examples(pairs), text, "\n", Markup(SPEECH)]
        system: list[Piece] = []
        if mode == VOICE:
            require(item.question.audio is not None, "there is no voice sample; meta.lst has them")
            assert item.question.audio is not None
            start = Markup("<|im_start|>system\n")
            system = [start, words.voice_system, Sound(item.question.audio), Markup("<|im_end|>\n")]
        start, end = Markup("<|im_start|>user\n"), Markup("<|im_end|>\n")
        asked = f"{words.to_speak(text)}: {sentence(text)}"
        return [*system, start, asked, end, Markup(f"<|im_start|>assistant\n{SPEECH}")]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Speak, by the task's sampling, or with the likeliest text after examples."""
        seconds = SECONDS_PER_CHARACTER * len(str(item.about["words"]))
        text = GREEDY if shots else Sampling(0.6)
        return spoken_options(seconds, stop=(END_OF_TEXT, TURN_END, SPEECH_END), text=text)

    def needs(self, mode: str) -> Sequence[str]:
        """Return all judges, and that of voices where there is a sample."""
        return ("recogniser", "opinion", "encoder") if mode == VOICE else ("recogniser", "opinion")

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Count the errors of the words that are heard, and compare with the voice sample or the last example."""
        spoken = answer.spoken
        if spoken is None:
            return Judged({"spoke": 0.0})
        heard = self.judges.transcribe(spoken)
        scores = word_errors(str(item.about["words"]), heard)
        scores |= {"wer_mean": scores["wer"], "opinion": self.judges.opinion(spoken), "spoke": 1.0}
        if mode == VOICE:
            target = examples[-1].answer.audio if examples else item.question.audio
            assert target is not None
            scores["similarity"] = self.judges.similarity(target, spoken)
        return Judged(scores, {"heard": heard})


def _speech(side: Side) -> Speech:
    require(side.audio is not None, "tts: examples need sounds: meta.lst has them, text.txt has not")
    assert side.audio is not None
    return Speech(side.text or "", side.audio)
