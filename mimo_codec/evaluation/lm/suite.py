"""The contract of a suite, and what a model is asked and answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import error_prefix, require
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.lm.items import Example, Item, stamp_of
from mimo_codec.evaluation.lm.judges import Judges
from mimo_codec.evaluation.lm.prompts import Piece
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.request import GREEDY, Sampling

END_OF_TEXT, TURN_END, AUDIO_START, SPEECH_END = "<|endoftext|>", "<|im_end|>", "<|sosp|>", "<|eostm|>"
LIMIT_STEP = 10.0
"""Seconds between the limits of spoken answers."""
AUDIO_SAMPLING = Sampling(0.9, top_p=0.95)
"""How every suite draws codes."""


@dataclass(frozen=True)
class Metric:
    """A column of the tables."""

    label: str
    higher_is_better: bool
    percent: bool = False
    """The values are shares, shown as percentages."""
    weight: str = ""
    """Another value of every item, such as its number of words, by which the mean is weighted."""


@dataclass(frozen=True)
class Options:
    """How an answer is drawn and where it ends."""

    speaks: bool
    max_new: int
    min_new: int = 0
    stop: tuple[str, ...] = (END_OF_TEXT,)
    max_seconds: float | None = None
    text: Sampling = GREEDY
    audio: Sampling = AUDIO_SAMPLING
    truth: tuple[Piece, ...] = ()
    """The prompt with what truly follows, where its perplexity is asked."""


@dataclass(frozen=True)
class Ask:
    """One prompt to a model."""

    item: Item
    mode: str
    shots: int
    prompt: Sequence[Piece]
    options: Options
    seed: int


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said."""

    text: str
    waveform: NDArray[np.float32] | None = None
    """[S]; None when nothing was spoken."""
    sample_rate: int = 24000
    stop_reason: str = ""
    perplexity: float = math.nan
    """Of the codes that truly follow: exp of their mean nats, over all channels; nan where it is not known."""

    @property
    def spoken(self) -> tuple[NDArray[np.float32], int] | None:
        """The waveform with its sample rate; None when nothing was spoken."""
        if self.waveform is None or not len(self.waveform):
            return None
        return self.waveform, self.sample_rate


class Model(Protocol):
    """A language model, or anything else that answers questions."""

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer | MimoError]:
        """Answer each as if it were alone; a MimoError in the place of an answer says why there is none."""
        ...


@dataclass(frozen=True)
class Judged:
    """What an answer is worth."""

    scores: Mapping[str, float]
    """Name of a metric of the suite -> value; nan where it has no meaning."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the judges saw, such as the words that a recognizer heard."""


class Derived(NamedTuple):
    """A score that is computed of others, such as the modality gap."""

    label: str
    value: float


class Suite(ABC):
    """A data set with its prompts, its options of generation and its scores."""

    name: ClassVar[str]
    modes: ClassVar[Sequence[str]] = ("",)
    """Ways to ask every item, such as by text or by speech."""
    shots: ClassVar[Sequence[int]] = (0,)
    """Numbers of examples of the published evaluation."""
    metrics: ClassVar[Mapping[str, Metric]]
    layout: ClassVar[str]
    """In one line, what the folder of the data holds."""

    def __init__(self, judges: Judges):
        """judges: what answers are judged by."""
        self.judges = judges
        self.faults: dict[str, str] = {}
        """Rows of the data that are no items, with the reason."""

    @abstractmethod
    def load(self, data: Path) -> list[Item]:
        """Read the items; MimoError for another layout than that of the suite."""

    @abstractmethod
    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Return the prompt of an item after some examples."""

    @abstractmethod
    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Say how the answer is drawn."""

    @abstractmethod
    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Score an answer."""

    def modes_for(self, items: Sequence[Item]) -> Sequence[str]:
        """Return the modes in which these items can be asked."""
        return self.modes

    def collect(self, rows: Iterable[tuple[str, Any]], make: Callable[[Any], Item]) -> list[Item]:
        """Make items of rows, each with where it stands; rows that are none are noted in `faults`.

        Raises the first MimoError when all rows are.
        """
        items, errors = [], list[MimoError]()
        for where, row in rows:
            try:
                with error_prefix(where):
                    items.append(make(row))
            except MimoError as error:
                errors.append(error)
                self.faults[where] = str(error).removeprefix(f"{where}: ")
        if errors and not items:
            raise errors[0]
        return items

    def right_text(self, item: Item) -> str:
        """Return the words of the right answer: the given ones, or what a recognizer hears in its sound."""
        if item.answer.text is None and item.answer.audio is not None:
            return self.judges.transcribe(item.answer.audio)
        return item.answer.text or ""

    def needs(self, mode: str) -> Sequence[str]:
        """Return which judges are asked: "recogniser", "encoder", "opinion", "words", "translation"."""
        return ()

    def hears_examples(self, mode: str) -> bool:
        """Whether examples need the texts of their spoken answers, which a recognizer hears where none is given."""
        return False

    def derive(self, means: Mapping[tuple[str, int], Mapping[str, float]]) -> list[Derived]:
        """Return scores that are computed of the means of (mode, shots)."""
        return []


def spoken_options(seconds: float, **options: Any) -> Options:
    """Return the options of a spoken answer that ends after about so many seconds.

    They are rounded up to steps, so that answers with the same limit can be computed together.
    """
    limit = math.ceil(seconds / LIMIT_STEP) * LIMIT_STEP
    return Options(True, round(2 * limit * FRAME_RATE), max_seconds=limit, **options)


def find_file(data: Path, *names: str) -> Path:
    """Return the first of these files that a folder has, or `data` itself if it is a file; MimoError without any."""
    if data.is_file():
        return data
    found = [data / name for name in names if (data / name).is_file()]
    require(found, f"{data}: {' or '.join(names)} is not there")
    return found[0]


def resolve(path: str, folder: Path) -> Path:
    """Return where a path of a list lies: lists of public sets count from their folder, or one or two above it."""
    tried = [base / path for base in (folder, folder.parent, folder.parent.parent)]
    return next((place for place in tried if stamp_of(place) is not None), tried[0])
