"""Prompts: segments of text and audio, turns of a conversation, examples; and how they become the runs of a grid.

The layouts are those that the released models were trained on. What each task says is in `tasks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mimo_codec.common.checks import check_choice, check_type, require
from mimo_codec.lm.audio import Audio as AnyAudio
from mimo_codec.lm.layout import Audio, Codes, Layout, Run, Text
from mimo_codec.lm.tokenizer import TextTokenizer

# ---- segments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Markup:
    """Text in which names of special tokens mean these tokens."""

    text: str


@dataclass(frozen=True, eq=False)
class Heard:
    """Audio between `<|sosp|>` and `<|eosp|>`."""

    codes: Codes


@dataclass(frozen=True, eq=False)
class Spoken:
    """A spoken answer: text and audio in turn between `<|sostm|>` and `<|eostm|>`."""

    text: str
    codes: Codes


@dataclass(frozen=True, eq=False)
class Open:
    """Audio that the model is to go on with: `<|sosp|>` and no end."""

    codes: Codes


Segment = str | Markup | Heard | Spoken | Open
"""A str is what a user said: no special token comes of it."""


def render(segments: Sequence[Segment], tokenizer: TextTokenizer, layout: Layout) -> list[Run]:
    """Turn segments into runs of text and audio.

    Each segment is tokenized alone, as the released models saw them: joined first, a `.` and the empty line of the
    next segment would become one token.
    """
    runs = [run for segment in segments for run in _runs(segment, tokenizer, layout)]
    return [run for run in runs if not isinstance(run, Text) or run.ids]


def _runs(segment: Segment, tokenizer: TextTokenizer, layout: Layout) -> list[Run]:
    """Return the runs of one segment; those of text may be empty."""
    special = tokenizer.special
    if isinstance(segment, str):
        return [Text(tuple(tokenizer.encode(segment)))]
    if isinstance(segment, Markup):
        pieces = tokenizer.split(segment.text)
        return [Text((piece,) if isinstance(piece, int) else tuple(tokenizer.encode(piece))) for piece in pieces]
    if isinstance(segment, Spoken):
        turns = layout.interleave(tokenizer.encode(segment.text), segment.codes, special.text_end)
        return [Text((special.speech_start,)), *turns, Text((special.speech_end,))]
    end = [Text((special.audio_end,))] if isinstance(segment, Heard) else []
    return [Text((special.audio_start,)), Audio(segment.codes), *end]


def check_text(name: str, value: object) -> str:
    """Return `value`; raise MimoError unless it is a string with more than white space in it."""
    text = check_type(name, value, str, "text")
    require(text.strip(), f"{name}: is empty")
    return text


# ---- turns and examples ----------------------------------------------------------------------------------------------

USER, ASSISTANT = ROLES = ("user", "assistant")


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side of a conversation said: text, audio, or both (a spoken answer)."""

    role: str
    """ "user" or "assistant"."""
    text: str | None = None
    audio: AnyAudio | None = None

    def __post_init__(self) -> None:
        """Check the role and that something was said."""
        check_choice("role", self.role, ROLES)
        require(self.text is not None or self.audio is not None, "has neither text nor audio")
        if self.text is not None:
            check_text("text", self.text)


@dataclass(frozen=True, eq=False)
class Example:
    """One example of a task: text or audio that went in, and what came out."""

    output_text: str
    output_audio: AnyAudio | None = None
    input_text: str | None = None
    input_audio: AnyAudio | None = None

    def __post_init__(self) -> None:
        """Check that there is one input, and the text of the output."""
        require(
            (self.input_text is None) != (self.input_audio is None), "needs input_audio or input_text, and not both"
        )
        check_text("output_text", self.output_text)
        if self.input_text is not None:
            check_text("input_text", self.input_text)


# ---- parts of prompts ------------------------------------------------------------------------------------------------

SPEECH, THINK, NO_THINK = "<|sostm|>", "<think>\n", "<think>\n\n</think>\n"
"""With what the turn of the assistant begins: speech, thoughts, or text without thoughts."""


def message(role: str, *segments: Segment) -> list[Segment]:
    """Return a whole message of the chat format."""
    return [Markup(f"<|im_start|>{role}\n"), *segments, Markup("<|im_end|>\n")]


def assistant(beginning: str = "") -> list[Segment]:
    """Return the head of the message that the model is to write, and how it begins."""
    return [Markup(f"<|im_start|>{ASSISTANT}\n{beginning}")]


def thoughts(thinking: bool) -> str:
    """Return how an answer in text begins, with thoughts or without."""
    return THINK if thinking else NO_THINK


def sentence(text: str) -> str:
    """Capitalise text in one case alone, lower or upper, as the released models were given it."""
    return text.capitalize() if text.islower() or text.isupper() else text


def dialogue(turns: Sequence[Turn], system: str | None, spoken: bool) -> list[Segment]:
    """Return all turns as messages; what the system says stands before the user's first words.

    Raises MimoError unless user and assistant take turns, the user first and last, and the turns of the assistant have
    text, and audio too where its answer is to be `spoken`.
    """
    require(turns, "turns: there are none")
    segments: list[Segment] = []
    for i, turn in enumerate(turns):
        rule = "user and assistant take turns, the user first"
        require(turn.role == ROLES[i % 2], f"turns: turn {i} is of {turn.role!r}; {rule}")
        said: list[Segment] = [system, "\n\n"] if system and i == 0 else []
        said += _answer(turn, i, spoken) if turn.role == ASSISTANT else _question(turn)
        segments += message(turn.role, *said)
    answers = turns[-1].role == USER
    require(answers, "turns: the last is the assistant's; the model answers a turn of the user")
    return segments


def _question(turn: Turn) -> list[Segment]:
    heard = [] if turn.audio is None else [Heard(np.asarray(turn.audio))]
    return [*heard, *([] if turn.text is None else [turn.text])]


def _answer(turn: Turn, number: int, spoken: bool) -> list[Segment]:
    require(turn.text is not None, f"turns: turn {number} of the assistant needs its text")
    text = turn.text or ""
    if not spoken:
        return [text]
    heard = turn.audio is not None
    require(heard, f"turns: turn {number} of the assistant needs its audio, for the answer is to be spoken")
    return [Spoken(text, np.asarray(turn.audio))]


def example(shown: Example, number: int, spoken: bool) -> list[Segment]:
    """Return an example's input and output; MimoError when there is no audio where the output is to be `spoken`."""
    source: Segment = Heard(np.asarray(shown.input_audio)) if shown.input_text is None else shown.input_text
    if not spoken:
        return [source, "\n", shown.output_text, " \n\n"]
    heard = shown.output_audio is not None
    require(heard, f"examples: example {number} needs output_audio, for the answer is to be spoken")
    return [source, "\n", Spoken(shown.output_text, np.asarray(shown.output_audio)), " \n\n"]
