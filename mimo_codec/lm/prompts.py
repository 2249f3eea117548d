"""Prompts: segments of text and audio, turns of a conversation, examples; and how they become the runs of a grid.

The layouts are those that the released models were trained on. What each task says is in `tasks.py`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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

USER, ASSISTANT, SYSTEM = ROLES = ("user", "assistant", "system")


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound among the parts of a turn."""

    audio: AnyAudio


Part = str | Sound


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side of a conversation said: text, audio, or both (a spoken answer), or several parts in any order."""

    role: str
    """ "user" or "assistant", or "system" for the first turn."""
    text: str | None = None
    audio: AnyAudio | None = None
    content: str | Sequence[Part | Mapping[str, Any]] | None = None
    """Instead of both, parts as {"type": "text", "text": ...} and {"type": "audio", "audio": ...}, or one text."""

    def __post_init__(self) -> None:
        """Check the role and that something was said."""
        check_choice("role", self.role, ROLES)
        said = self.text is not None or self.audio is not None
        require(not said or self.content is None, "has content, and text or audio beside it")
        require(said or self.content is not None, "has neither text nor audio")
        parts = self.parts
        require(parts, "content: is empty")
        texts = [part for part in parts if isinstance(part, str)]
        for text in texts if self.content is None or len(parts) == 1 else []:
            check_text("text", text)
        sounds = len(parts) - len(texts)
        require(self.role != ASSISTANT or sounds <= 1, f"content: an answer has one sound at most, not {sounds}")

    @property
    def parts(self) -> list[Part]:
        """What was said in order; without `content` the audio comes first."""
        if self.content is None:
            sounds: list[Part] = [] if self.audio is None else [Sound(self.audio)]
            return [*sounds, *([] if self.text is None else [check_type("text", self.text, str, "text")])]
        if isinstance(self.content, str):
            return [self.content]
        listed = isinstance(self.content, Sequence)
        require(listed, f"content must be text or a list of parts, not {reprlib.repr(self.content)}")
        return [_part(f"content[{i}]", part) for i, part in enumerate(self.content)]

    @property
    def has_audio(self) -> bool:
        """Whether there is a sound in it."""
        return any(isinstance(part, Sound) for part in self.parts)


def _part(where: str, part: object) -> Part:
    if isinstance(part, (str, Sound)):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    kind = kind if isinstance(kind, str) else None
    value = part.get(kind) if isinstance(part, Mapping) and kind in ("text", "audio") else None
    valid = isinstance(value, str) if kind == "text" else value is not None
    require(valid, f'{where}: {{"type": "text", "text": ...}} or {{"type": "audio", "audio": ...}} is needed')
    return cast(str, value) if kind == "text" else Sound(cast(AnyAudio, value))


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


def dialogue(turns: Sequence[Turn], system: str | None, spoken: bool, head: Sequence[Segment] = ()) -> list[Segment]:
    """Return all turns as messages; what the system says stands before the user's first words.

    Args:
        turns: what was said; see `check_turns`. Sounds are codes.
        system: how to answer.
        spoken: whether the answer is to be spoken.
        head: what comes before the turns, unless they begin with a turn of the system.
    """
    check_turns(turns, spoken)
    begins = turns[0].role == SYSTEM
    require(not begins or not (system or head), "turns: the first is the system's; leave out system and voice")
    segments: list[Segment] = [*head]
    first = True
    for turn in turns:
        said: list[Segment] = [
            Heard(np.asarray(part.audio)) if isinstance(part, Sound) else part for part in turn.parts
        ]
        if turn.role == ASSISTANT:
            said = _answer(turn, spoken)
        elif turn.role == USER:
            said, first = ([system, "\n\n", *said] if system and first else said), False
        segments += message(turn.role, *said)
    return segments


def check_turns(turns: Sequence[Turn], spoken: bool) -> None:
    """Raise MimoError unless a model can answer the last of these turns.

    User and assistant take turns, the user first and last, and one turn of the system may come before. The turns of
    the assistant have text, and audio too where its answer is to be `spoken`.
    """
    require(turns, "turns: there are none")
    skipped = int(turns[0].role == SYSTEM)
    require(turns[skipped:], "turns: there is none of the user")
    for i, turn in enumerate(turns[skipped:]):
        where, rule = f"turns: turn {i + skipped}", "user and assistant take turns, the user first"
        require(turn.role == ROLES[i % 2], f"{where} is of {turn.role!r}; {rule}")
        if turn.role == ASSISTANT:
            has_text = any(isinstance(part, str) for part in turn.parts)
            require(has_text, f"{where} of the assistant needs its text")
            heard = turn.has_audio or not spoken
            require(heard, f"{where} of the assistant needs its audio, for the answer is to be spoken")
    answers = turns[-1].role == USER
    require(answers, "turns: the last is the assistant's; the model answers a turn of the user")


def _answer(turn: Turn, spoken: bool) -> list[Segment]:
    text = "".join(part for part in turn.parts if isinstance(part, str))
    if not spoken:
        return [text]
    return [Spoken(text, np.asarray(part.audio)) for part in turn.parts if isinstance(part, Sound)]


def check_examples(examples: Sequence[Example], spoken: bool) -> None:
    """Raise MimoError when an example has no audio where the output is to be `spoken`."""
    for i, shown in enumerate(examples):
        heard = not spoken or shown.output_audio is not None
        require(heard, f"examples: example {i} needs output_audio, for the answer is to be spoken")


def example(shown: Example, spoken: bool) -> list[Segment]:
    """Return an example's input and output; audio is codes."""
    source: Segment = Heard(np.asarray(shown.input_audio)) if shown.input_text is None else shown.input_text
    if not spoken:
        return [source, "\n", shown.output_text, " \n\n"]
    return [source, "\n", Spoken(shown.output_text, np.asarray(shown.output_audio)), " \n\n"]
