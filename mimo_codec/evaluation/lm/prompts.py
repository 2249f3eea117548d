"""Prompts whose sounds are files: what a suite asks, before a codec has encoded anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimo_codec.evaluation.lm.items import seconds_of
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.layout import Codes, Layout
from mimo_codec.lm.prompts import Heard, Markup, Open, Segment, Spoken
from mimo_codec.lm.tokenizer import TextTokenizer

INT, SPE = "[Int]:", "<Spe>:"
"""What prompts of base models begin with: where text and speech are mixed, and where all is speech."""


@dataclass(frozen=True)
class Sound:
    """A sound that the model hears."""

    path: Path


@dataclass(frozen=True)
class Speech:
    """A spoken answer: its text and its sound in turn."""

    text: str
    path: Path


@dataclass(frozen=True)
class Beginning:
    """The first seconds of a sound, which the model is to go on with."""

    path: Path
    seconds: float


Piece = str | Markup | Sound | Speech | Beginning
"""A part of a prompt; a str is text in which names of special tokens mean nothing."""


def spoken_examples(pieces: Sequence[tuple[Piece, Piece]]) -> list[Piece]:
    """Lay out pairs of a question and a spoken answer: each is followed by an empty line."""
    return [piece for question, answer in pieces for piece in (question, "\n", answer, " \n\n")]


def as_segments(pieces: Sequence[Piece], hear: Callable[[Path], Codes]) -> list[Segment]:
    """Return the segments of a prompt; hear: file -> codes [C, T]."""
    return [_segment(piece, hear) for piece in pieces]


def _segment(piece: Piece, hear: Callable[[Path], Codes]) -> Segment:
    if isinstance(piece, Sound):
        return Heard(hear(piece.path))
    if isinstance(piece, Speech):
        return Spoken(piece.text, hear(piece.path))
    if isinstance(piece, Beginning):
        return Open(hear(piece.path)[:, : round(piece.seconds * FRAME_RATE)])
    return piece


def paths_of(pieces: Sequence[Piece]) -> list[Path]:
    """Return the files of all sounds."""
    return [piece.path for piece in pieces if isinstance(piece, (Sound, Speech, Beginning))]


def as_json(pieces: Sequence[Piece], folder: Path) -> list[Any]:
    """Return a prompt as plain values that a person can read; paths below `folder` are relative to it."""
    return [_readable(piece, folder) for piece in pieces]


def _readable(piece: Piece, folder: Path) -> Any:
    if isinstance(piece, str):
        return piece
    if isinstance(piece, Markup):
        return {"tokens": piece.text}
    path = piece.path.relative_to(folder) if piece.path.is_relative_to(folder) else piece.path
    said: dict[str, Any] = {"audio": path.as_posix()}
    if isinstance(piece, Speech):
        return {"text": piece.text, **said}
    return said | ({"seconds": piece.seconds} if isinstance(piece, Beginning) else {})


def count_positions(pieces: Sequence[Piece], tokenizer: TextTokenizer | None, layout: Layout | None) -> int:
    """Count the positions of a prompt by the headers of its sounds.

    Without a tokenizer a position holds four characters, and without a layout four frames.
    """
    return sum(_positions(piece, tokenizer, 4 if layout is None else layout.group_size) for piece in pieces)


CHARACTERS_PER_TOKEN = 4


def _positions(piece: Piece, tokenizer: TextTokenizer | None, group: int) -> int:
    if isinstance(piece, Markup):
        parts = tokenizer.split(piece.text) if tokenizer else [0]
        return sum(1 if isinstance(part, int) else _tokens(part, tokenizer) for part in parts)
    if isinstance(piece, str):
        return _tokens(piece, tokenizer)
    seconds = piece.seconds if isinstance(piece, Beginning) else seconds_of(piece.path)
    patches = math.ceil(math.ceil(seconds * FRAME_RATE) / group)
    if isinstance(piece, Speech):
        return patches + _tokens(piece.text, tokenizer) + 3
    return patches + (1 if isinstance(piece, Beginning) else 2)


def _tokens(text: str, tokenizer: TextTokenizer | None) -> int:
    return len(tokenizer.encode(text)) if tokenizer else math.ceil(len(text) / CHARACTERS_PER_TOKEN)
