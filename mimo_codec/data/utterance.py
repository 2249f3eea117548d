"""Utterances to train on or to evaluate with, and the faults of those that are not used."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mimo_codec.common.checks import check_integer, check_number, require

Identity = tuple[str, float, float | None, int | None]
"""Absolute path, start, end, and the place in a shard: tells utterances apart."""

FIGURES = ("seconds", "sample_rate", "peak", "clipped", "silence")
"""The fields of an utterance that are measured."""

_MAX_SECONDS = 1e9
CHARACTERS_PER_SECOND = 50
"""No speech has more: twice what the fastest speakers say in any alphabet."""
_WORDS = ("text", "speaker", "language", "split", "source", "licence", "member", "column")
_COUNTS = {"sample_rate": 1, "offset": 0, "num_bytes": 1, "row": 0}
_BOUNDS = {
    "start": _MAX_SECONDS,
    "end": _MAX_SECONDS,
    "seconds": _MAX_SECONDS,
    "peak": 1e38,
    "clipped": 1,
    "silence": 1,
}


@dataclass(frozen=True, slots=True)  # there may be millions
class Utterance:
    """An audio file, or what lies from `start` to `end` in it. None: not known, or none.

    In shards, which are files that hold many audio files, `offset` and `num_bytes` say where the bytes of one are (tar,
    Arrow), or `row` and `column` (Parquet).

    Args:
        path: of the audio file, or of the shard.
        start, end: in seconds from the audio's beginning; no end: to its end.
        text: transcript.
        speaker: any name of the speaker.
        language: that is spoken, such as "en".
        split: which part of a corpus this belongs to, such as "train".
        source, licence: name of the corpus, and the terms of its recordings.
        seconds: duration, from `start` to `end`.
        sample_rate: of the file, in Hz.
        peak: largest magnitude, 1.0 for full scale.
        clipped: share of the samples at full scale or beyond.
        silence: share of silent blocks of 20 ms.
        member: what the audio file is called in its shard.
        offset, num_bytes: of the audio file in its shard.
        row, column: of the audio file in its Parquet file.

    Raises MimoError, which names the field, for other types and values.
    """

    path: Path
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    source: str | None = None
    licence: str | None = None
    seconds: float | None = None
    sample_rate: int | None = None
    peak: float | None = None
    clipped: float | None = None
    silence: float | None = None
    member: str | None = None
    offset: int | None = None
    num_bytes: int | None = None
    row: int | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        for name in _WORDS:
            value = getattr(self, name)
            require(value is None or isinstance(value, str), f"{name} must be text, not {value!r}")
        for name, high in _BOUNDS.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, high)
        for name, low in _COUNTS.items():
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low, 2**62)
        for one, other in (("offset", "num_bytes"), ("row", "column")):
            together = (getattr(self, one) is None) == (getattr(self, other) is None)
            require(together, f"{one} and {other} belong together: give both or none")
        if self.end is not None:
            require(self.end > self.start, f"end must be later than start ({self.start:g}), not {self.end:g}")

    @property
    def name(self) -> str:
        """The path, what it is called in a shard, and the start if it is a part; for messages."""
        return place(self.path, self.start, self.member)

    @property
    def identity(self) -> Identity:
        """What tells this utterance apart from all others."""
        inside = self.offset if self.offset is not None else self.row
        return os.path.abspath(self.path), self.start, self.end, inside

    def fault(self, kind: str, reason: str) -> Fault:
        """Say that this utterance, or its text, is not used."""
        return Fault(self.path, kind, reason, self.start, self.member)

    def without_name(self, error: Exception) -> str:
        """Return the message of an error without the name or path of this utterance before it."""
        return str(error).removeprefix(f"{self.name}: ").removeprefix(f"{self.path}: ")


@dataclass(frozen=True)
class Fault:
    """Why an utterance is not used.

    kind: missing, unreadable (no audio by its first bytes), damaged (further on), bad range, low rate, too short,
    silent, clipped; or bad text, where the audio is used without its text.
    """

    path: Path
    kind: str
    reason: str
    start: float = 0.0
    member: str | None = None

    @property
    def name(self) -> str:
        """The name of the utterance."""
        return place(self.path, self.start, self.member)

    def __str__(self) -> str:
        """Say everything on one line."""
        return f"{self.name}: {self.kind}: {self.reason}"


def place(path: Path, start: float, member: str | None = None) -> str:
    """Return how messages name what starts at `start` seconds in a file, or in a member of a shard."""
    name = str(path) if member is None else f"{path}: {member}"
    return f"{name} @ {start:g}" if start else name


def drop_long_texts(utterances: Iterable[Utterance]) -> tuple[list[Utterance], list[Fault]]:
    """Take away texts that nobody can say in the time: they are no transcripts, and long ones would stall training.

    Returns all utterances, and one fault for each text that is not used.
    """
    kept, faults = [], []
    for utterance in utterances:
        most = round(CHARACTERS_PER_SECOND * (1 + (utterance.seconds or 0.0)))
        if utterance.text and len(utterance.text) > most:
            reason = f"{len(utterance.text)} characters of text are too many for {utterance.seconds or 0.0:g} s"
            faults.append(utterance.fault("bad text", reason))
            utterance = replace(utterance, text=None)
        kept.append(utterance)
    return kept, faults
