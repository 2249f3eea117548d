"""Conversations to train on, in the format that the released toolkit reads.

A conversation is a list of turns: {"role": "system", "user" or "assistant", "content": [{"type": "text", "text": ...},
{"type": "audio", "audio": path or codes}, ...]}; `content` may also be one text. A turn of the assistant may have
"thinking": true with its "Chain-of-thought", false, or null for no header at all. Trained is what the assistant says,
from after the header of its thoughts to the end of its turn.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from mimo_codec.common.checks import check_type, error_prefix, require
from mimo_codec.lm.audio import AudioReader
from mimo_codec.lm.prompts import (
    ASSISTANT,
    NO_THINK,
    ROLES,
    SYSTEM,
    THINK,
    Heard,
    Markup,
    Segment,
    Sound,
    Spoken,
    Turn,
    assistant,
    message,
)
from mimo_codec.lm.tasks import THOUGHTS as HIDDEN_KEYS
from mimo_codec.lm.tasks import as_items
from mimo_codec.train.lm.item import Part

THINKING, THOUGHTS = HIDDEN_KEYS
THOUGHTS_END = Markup("</think>\n")
TURN_END = Markup("<|im_end|>\n")


def conversation_parts(turns: object, reader: AudioReader) -> list[Part]:
    """Turn a conversation into segments and whether each is trained.

    Raises MimoError, naming the turn, for roles out of order, missing text or audio, and what the reader refuses.
    """
    parsed = as_items(Turn, "turns", turns)
    assert isinstance(turns, Sequence)
    _check_roles(parsed)
    parts: list[Part] = []
    for i, (turn, given) in enumerate(zip(parsed, turns, strict=True)):
        with error_prefix(f"turns[{i}]"):
            segments = _segments(turn, reader)
            if turn.role == ASSISTANT:
                parts += answer_parts(segments, *_thoughts(given, segments))
            else:
                parts += [(segment, False) for segment in message(turn.role, *segments)]
    return parts


def _check_roles(turns: Sequence[Turn]) -> None:
    """Raise MimoError unless user and assistant take turns, the user first and the assistant last."""
    require(turns, "turns: there are none")
    skipped = int(turns[0].role == SYSTEM)
    for i, turn in enumerate(turns[skipped:]):
        where = f"turns[{i + skipped}]"
        require(
            turn.role == ROLES[i % 2], f"{where}: is of {turn.role!r}; user and assistant take turns, the user first"
        )
    require(turns[-1].role == ASSISTANT, "turns: the last is not the assistant's, so there is no answer to learn")


def _segments(turn: Turn, reader: AudioReader) -> list[Segment]:
    """Return what a turn holds; the text and the sound of the assistant become a spoken answer."""
    segments: list[Segment] = []
    for i, part in enumerate(turn.parts):
        if isinstance(part, Sound):
            place = "audio" if turn.content is None else f"content[{i}]"
            segments.append(Heard(reader.codes(part.audio, place)))
        else:
            segments.append(part)
    return spoken(segments) if turn.role == ASSISTANT else segments


def spoken(segments: Sequence[Segment]) -> list[Segment]:
    """Join the text and the sound of an answer; MimoError for a sound without text, or several."""
    text = "".join(segment for segment in segments if isinstance(segment, str))
    sounds = [segment for segment in segments if isinstance(segment, Heard)]
    require(text.strip(), "an answer needs its text")
    require(len(sounds) <= 1, f"an answer has one sound at most, not {len(sounds)}")
    return [Spoken(text, sounds[0].codes)] if sounds else [text]


def _thoughts(turn: object, answer: Sequence[Segment]) -> tuple[bool | None, str]:
    """Return whether the assistant thinks (None: without a header), and what.

    Where nothing is said about it, answers in text begin with empty thoughts and spoken ones with none, as prompts do.
    """
    given: Mapping[str, Any] = turn if isinstance(turn, Mapping) else {}
    default = None if any(isinstance(segment, Spoken) for segment in answer) else False
    thinks = given.get(THINKING, default)
    is_flag = thinks is None or isinstance(thinks, bool)
    require(is_flag, f"{THINKING} must be true, false or null, not {reprlib.repr(thinks)}")
    text = check_type(THOUGHTS, given.get(THOUGHTS) or "", str, "text")
    said = bool(text.strip())
    require(said == bool(thinks), f"{THOUGHTS} {'is' if said else 'is not'} given, but {THINKING} is {thinks!r}")
    return thinks, text


def thoughts_segments(thoughts: str) -> list[Segment]:
    """Return thoughts and their end, which stands on a line of its own."""
    return [thoughts if thoughts.endswith("\n") else f"{thoughts}\n", THOUGHTS_END]


def answer_parts(answer: Sequence[Segment], thinks: bool | None, thoughts: str = "") -> list[Part]:
    """Return a turn of the assistant: its head untrained, thoughts, answer and end trained."""
    beginning = "" if thinks is None else THINK if thinks else NO_THINK
    said: list[Segment] = [*answer, TURN_END]
    if thinks:
        said = [*thoughts_segments(thoughts), *said]
    return [*((segment, False) for segment in assistant(beginning)), *((segment, True) for segment in said)]
