"""Continuation: the model goes on with the first seconds of a recording, in the same voice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mimo_codec.common.checks import require
from mimo_codec.data.find import find_utterances
from mimo_codec.evaluation.lm.items import Example, Item, Side, seconds_of
from mimo_codec.evaluation.lm.prompts import Beginning, Piece
from mimo_codec.evaluation.lm.suite import END_OF_TEXT, SPEECH_END, TURN_END, Answer, Judged, Metric, Options, Suite
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.request import Sampling

PROMPT_SECONDS = 3.2
"""Whole patches of 0.16 s."""
NEW_SECONDS = 10.0


class Continuation(Suite):
    """Speech goes on. There are no examples: the beginning shows what to do."""

    name = "continuation"
    metrics: ClassVar = {
        "similarity": Metric("voice similarity to the beginning", True),
        "opinion": Metric("DNSMOS", True),
        "perplexity": Metric("perplexity of what truly follows", False),
        "seconds": Metric("seconds", True),
        "words_per_second": Metric("words per second", True),
        "spoke": Metric("spoke", True, percent=True),
    }
    layout = f"a folder or manifest of recordings longer than {PROMPT_SECONDS} s"

    def load(self, data: Path) -> list[Item]:
        """Read whole files that are long enough."""
        found, _ = find_utterances(data)
        whole = [u for u in found if u.member is None and u.row is None and not u.start and u.end is None]
        items = [Item(f"{number} {u.path.stem}", Side(audio=u.path), Side()) for number, u in enumerate(whole)]
        require(items, f"{data}: has no whole audio files")
        return items

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Give the beginning, and no end."""
        require(not examples, "continuation: has no examples; --shots 0")
        assert item.question.audio is not None
        seconds = seconds_of(item.question.audio)
        require(seconds >= PROMPT_SECONDS, f"{item.question.audio}: {seconds:.1f} s; {PROMPT_SECONDS} s are needed")
        return [Beginning(item.question.audio, PROMPT_SECONDS)]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Speak for at most ten seconds."""
        stop = (END_OF_TEXT, TURN_END, SPEECH_END)
        positions = round(2 * NEW_SECONDS * FRAME_RATE)
        assert item.question.audio is not None
        truth = Beginning(item.question.audio, PROMPT_SECONDS + NEW_SECONDS)
        text = Sampling(0.6, top_p=0.95)
        return Options(True, positions, stop=stop, max_seconds=NEW_SECONDS, text=text, truth=(truth,))

    def needs(self, mode: str) -> Sequence[str]:
        """Return all judges."""
        return ("recogniser", "encoder", "opinion")

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Compare the voice with the recording's, and count what is said."""
        spoken = answer.spoken
        if spoken is None:
            return Judged({"perplexity": answer.perplexity, "spoke": 0.0})
        seconds, heard = len(spoken[0]) / spoken[1], self.judges.transcribe(spoken)
        assert item.question.audio is not None
        scores = {
            "similarity": self.judges.similarity(item.question.audio, spoken),
            "opinion": self.judges.opinion(spoken),
            "perplexity": answer.perplexity,
            "seconds": seconds,
            "words_per_second": len(heard.split()) / seconds,
            "spoke": 1.0,
        }
        return Judged(scores, {"heard": heard})
