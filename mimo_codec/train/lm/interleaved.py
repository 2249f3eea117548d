"""Speech and text of one utterance in turn (arXiv 2512.23808, section 3.2), cut where words begin.

When every word's time is known, spans of speech are cut there. Otherwise a word is taken to last in proportion to its
letters, which is right on the average only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from mimo_codec.common.checks import is_number, require
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.layout import Codes
from mimo_codec.lm.prompts import Heard
from mimo_codec.train.lm.item import Part

SPAN_WORDS = (4, 12)
"""Fewest and most words of a span."""
_SPACELESS = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
"""Kana and Chinese characters, between which no spaces stand."""
_WORD = re.compile(rf"{_SPACELESS}[^\w\s]*|(?:(?!{_SPACELESS})\S)+")


def split_words(text: str) -> list[str]:
    """Split a text at its spaces, and kana and Chinese characters from each other; punctuation stays with its word."""
    return _WORD.findall(text)


def interleaved_parts(text: str, codes: Codes, words: object = None) -> list[Part]:
    """Return spans of speech and of text in turn, all trained.

    Which comes first and where spans end is a function of the text, so that it is the same whenever it is asked for.

    Args:
        text: what is said.
        codes: how it is said [C, T].
        words: [[start, end, word], ...] with times in seconds; None: in proportion to the letters.

    Raises:
        MimoError: for words that are no such list, out of order, or later than the speech.
    """
    spoken, starts = _timed(words, codes.shape[1]) if words is not None else _proportional(text, codes.shape[1])
    draw = np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass")))
    lengths = draw.integers(SPAN_WORDS[0], SPAN_WORDS[1] + 1, len(spoken))
    cuts = [0, *(cut for cut in accumulate(lengths.tolist()) if cut < len(spoken)), len(spoken)]
    as_speech = bool(draw.integers(2))
    gaps = _gaps(text, spoken)
    parts: list[Part] = []
    for start, stop in pairwise(cuts):
        first, last = starts[start], starts[stop] if stop < len(spoken) else codes.shape[1]
        is_speech, as_speech = as_speech and last > first, not as_speech
        said = "".join(gap + word for gap, word in zip(gaps[start:stop], spoken[start:stop], strict=True)).lstrip()
        parts.append((Heard(codes[:, first:last]) if is_speech else said, True))
    return parts


def _gaps(text: str, words: Sequence[str]) -> list[str]:
    """Return what stands before each word: a space, or nothing where the text has none there."""
    gaps, end = [], 0
    for word in words:
        place = text.find(word, end)
        spaced = place < 0 or any(character.isspace() for character in text[end:place])
        gaps.append(" " if spaced else "")
        end = place + len(word) if place >= 0 else end
    return gaps


def _proportional(text: str, num_frames: int) -> tuple[list[str], list[int]]:
    """Return words, and the frame at which each begins."""
    spoken = split_words(text)
    ends = list(accumulate(len(word) + 1 for word in spoken))
    return spoken, [round(num_frames * end / ends[-1]) for end in [0, *ends[:-1]]]


def _timed(words: object, num_frames: int) -> tuple[list[str], list[int]]:
    need = "words must be [[start, end, word], ...], times in seconds, in order and within the speech"
    if isinstance(words, list):  # as shards have them
        words = [list(row.values()) if isinstance(row, dict) else row for row in words]
    rows: Sequence[Any] = words if isinstance(words, list) and words else []
    require(rows, need)
    spoken, starts, last = [], [], 0.0
    for row in rows:
        fits = isinstance(row, list) and len(row) == 3 and isinstance(row[2], str)
        require(fits and all(is_number(time) for time in row[:2]), need)
        require(last <= row[0] <= row[1] <= num_frames / FRAME_RATE + 1, need)
        last = row[0]
        spoken.append(row[2])
        starts.append(round(row[0] * FRAME_RATE))
    require(starts[-1] < num_frames, f"words: the last begins at {last:g} s, after the end of the speech")
    starts[0] = 0  # silence before the first word belongs to its span
    return spoken, starts
