"""Items of a suite: what is asked, what is right, and the examples that are shown before."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mimo_codec.audio.files import audio_info
from mimo_codec.common.checks import require

COMPRESSED_BYTES_PER_SECOND = 8000.0
"""Of compressed files whose header does not say how long they are: 64 kbit/s."""


NO_GROUP = "other"
"""Group of items that have none."""


@dataclass(frozen=True)
class Side:
    """What is said on one side, a question or an answer: text, a sound, or both."""

    text: str | None = None
    audio: Path | None = None


@dataclass(frozen=True)
class Example:
    """A question with its answer, as it is shown before the question that is asked."""

    question: Side
    answer: Side


@dataclass(frozen=True)
class Item:
    """What a model is asked once for every number of examples."""

    id: str
    """Its name, once in a suite."""
    question: Side
    answer: Side
    """What is right; the answer's sound is what a spoken answer is compared with."""
    group: str = NO_GROUP
    """Row of the table that it counts in, besides the one of all items."""
    pool: str = ""
    """Items of one pool can be examples of each other."""
    examples: tuple[Example, ...] | None = None
    """Its own examples, in their order; None: others of its pool are drawn."""
    choices: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else a suite knows of it."""

    def sounds(self) -> Iterator[Path]:
        """Yield the files of all its sounds, its own examples included."""
        sides = [self.question, self.answer]
        sides += [side for shown in self.examples or () for side in (shown.question, shown.answer)]
        yield from (side.audio for side in sides if side.audio is not None)


def check_sounds(items: Sequence[Item]) -> dict[str, str]:
    """Look at the headers of all sounds -> name of an item with a missing or damaged one -> what is wrong with it."""
    bad = {}
    for item in items:
        reasons = [reason for path in item.sounds() if (reason := fault_of(path))]
        if reasons:
            bad[item.id] = reasons[0]
    return bad


Stamp = tuple[int, int] | None


def stamp_of(path: Path) -> Stamp:
    """Return what changes when a file does, by which results are remembered; None when there is none."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):  # a name that no file can have
        return None
    return about.st_mtime_ns, about.st_size


def fault_of(path: Path) -> str:
    """Return what is wrong with a sound by its header, or nothing."""
    return _fault_of(path, stamp_of(path))


@cache
def _fault_of(path: Path, stamp: Stamp) -> str:
    try:
        info = audio_info(path)
        require(info.num_samples != 0, "holds no samples")
    except (OSError, ValueError) as error:
        text = str(error)
        return text if str(path) in text else f"{path}: {text}"
    return ""


def seconds_of(path: Path) -> float:
    """Return the duration that the header of a file says; of files without, an estimate by their size."""
    return _seconds_of(path, stamp_of(path))


@cache
def _seconds_of(path: Path, stamp: Stamp) -> float:
    info = audio_info(path)
    if info.num_samples is None:
        return os.stat(path).st_size / COMPRESSED_BYTES_PER_SECOND
    return info.num_samples / info.sample_rate


class Examples:
    """Draws examples of items, the same ones however many processes there are.

    A larger number of examples begins with those of a smaller one.
    """

    def __init__(self, items: Sequence[Item], seed: int = 0):
        """items: all of a suite; seed: of the draw."""
        self.seed = seed
        self.pools: dict[str, list[Item]] = {}
        for item in items:
            if item.examples is None:
                self.pools.setdefault(item.pool, []).append(item)

    def most(self, item: Item) -> int:
        """Return how many examples there are for an item."""
        return len(self.pools[item.pool]) - 1 if item.examples is None else len(item.examples)

    def of(self, item: Item, count: int) -> list[tuple[str, Example]]:
        """Return `count` examples of an item, each with its name."""
        if item.examples is not None:
            return [(f"{item.id} example {i}", shown) for i, shown in enumerate(item.examples[:count])]
        others = [other for other in self.pools[item.pool] if other is not item]
        order = np.random.default_rng([self.seed, zlib.crc32(item.id.encode())]).permutation(len(others))
        return [(others[i].id, Example(others[i].question, others[i].answer)) for i in order[:count]]


Find = Callable[[Path], str]
"""Returns the words in a sound."""


def with_texts(shown: Sequence[Example], find: Find) -> list[Example]:
    """Return examples whose spoken answers have a text: the given one, or what a recognizer hears."""
    made = []
    for one in shown:
        answer = one.answer
        if answer.text is None and answer.audio is not None:
            answer = Side(find(answer.audio), answer.audio)
        made.append(Example(one.question, answer))
    return made
