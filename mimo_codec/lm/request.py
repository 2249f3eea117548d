"""What a caller asks of generation: how to draw tokens, where to stop, and one item of a batch. Needs numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import check_choice, check_integer, check_number, check_type, require
from mimo_codec.common.fields import check_fields, flag, integer, integers, number
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.layout import Grid
from mimo_codec.lm.tokenizer import NAMES

WINDOW = 24
"""Frames (about a second) that the repetition penalty looks back."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The default is greedy: always the likeliest token."""

    temperature: float = number(0.0, low=0, high=100)
    """0 for the likeliest token; 1 leaves the probabilities as they are."""
    top_k: int = integer(0)
    """Draw among so many likeliest tokens; 0 for all."""
    top_p: float = number(1.0, low=1e-6, high=1)
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: float = number(1.0, low=0.1, high=10)
    """Audio only: above 1, codes that the channel had in the last `WINDOW` frames become less likely."""
    forbidden: tuple[int, ...] = integers(())
    """Text only: ids that are never drawn."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)

    @property
    def greedy(self) -> Sampling:
        """A copy that draws the likeliest of the tokens that are allowed."""
        return replace(self, temperature=0.0, repetition_penalty=1.0)


GREEDY = Sampling()


class Preset(NamedTuple):
    """How text and codes are drawn."""

    text: Sampling
    audio: Sampling


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "evaluation": Preset(Sampling(0.3, top_p=0.95), Sampling(0.7, top_p=0.95)),
        "greedy": Preset(GREEDY, GREEDY),
    }
)
"""Named samplings: "evaluation" is that of the released evaluation of dialogue."""


def forbidden_tokens(samplings: Sequence[Sampling], vocab_size: int) -> NDArray[np.bool_] | None:
    """Return True at [B, V] where an item may not draw a token; None where all may draw all."""
    if not any(sampling.forbidden for sampling in samplings):
        return None
    forbidden = np.zeros((len(samplings), vocab_size), bool)
    for i, sampling in enumerate(samplings):
        forbidden[i, list(sampling.forbidden)] = True
    return forbidden


@dataclass(frozen=True)
class Stop:
    """What ends an item, besides the number of positions that was asked for."""

    tokens: tuple[str, ...] = (NAMES["end_of_text"], NAMES["turn_end"], NAMES["speech_end"])
    """Text tokens by name; the one that is drawn is the last position."""
    max_seconds: float | None = None
    """Longest new audio."""
    text: tuple[str, ...] = ()
    """Strings: an answer ends before the first of them, once it has begun."""
    min_new: int = integer(0)
    """Least new positions: what is drawn before does not end the item."""
    runaway: bool = flag(True)
    """End items that only repeat themselves or are silent; see `mimo_codec.lm.runaway`."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, "stop: ")
        for name, value in (("token names", self.tokens), ("strings", self.text)):
            valid = isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)
            require(valid, f"stop: a tuple of {name} is needed, not {value!r}")
        if self.max_seconds is not None:
            check_number("stop: max_seconds", self.max_seconds, 1 / FRAME_RATE, 1e6)


@dataclass(frozen=True, eq=False)
class Request:
    """One item of a batch; its values are valid."""

    grid: Grid
    """The prompt [1 + C, G P]."""
    max_new: int
    """Most new positions."""
    text: Sampling = GREEDY
    audio: Sampling = GREEDY
    stop_ids: tuple[int, ...] = ()
    stop_text: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None
    """Turns text tokens into text, where there is `stop_text`."""
    max_patches: int | None = None
    seed: int = 0
    min_new: int = 0
    """Least new positions."""
    runaway: bool = False
    """End when nothing but repetition or silence comes."""
    keep_cache: bool = False
    """Keep what was computed for the next request, and use what the one before has kept."""


# ---- what callers pass -----------------------------------------------------------------------------------------------

Samplings = Sampling | Sequence[Sampling] | None
"""One for all items, or one each."""


class Options(TypedDict, total=False):
    """Options of `generate` and `stream`, explained there."""

    greedy: bool
    sampling: str | None
    text_sampling: Samplings
    audio_sampling: Samplings
    repetition_penalty: float | None
    stop: Stop | None
    seed: int | Sequence[int] | None
    keep_cache: bool
    progress: Callable[[], None] | None


HINTS = {
    **{
        name: f"text_sampling=Sampling({name}=...) and audio_sampling=Sampling({name}=...) set it"
        for name in ("temperature", "top_k", "top_p")
    },
    "do_sample": "greedy=True takes the likeliest tokens",
    "max_seconds": "stop=Stop(max_seconds=...) sets it",
    "stop_strings": "stop=Stop(text=...) sets them",
    **dict.fromkeys(
        ("max_new_tokens", "max_tokens", "max_length"), "max_new_patches counts text tokens and patches alike"
    ),
    **dict.fromkeys(("min_new_tokens", "min_length"), "stop=Stop(min_new=...) sets it"),
}
"""Options of other libraries -> what is meant here."""


class TaskOptions(Options, total=False):
    """Options of every task: those of `generate`, and how long an answer may be."""

    max_new_patches: int


def check_options(names: Iterable[str]) -> None:
    """Raise MimoError for options that there are not, with a hint where the meaning is clear."""
    known = TaskOptions.__annotations__
    for name in names:
        hint = HINTS.get(name, f"there is {', '.join(known)}")
        require(name in known, f"{name} is not an option of generation; {hint}")


def find_preset(name: str | None) -> Preset | None:
    """Return a preset by name, None for None; MimoError lists those there are."""
    return None if name is None else PRESETS[check_choice("sampling", name, PRESETS)]


def as_stop(stop: object) -> Stop:
    """Return `stop`, or the default for None; MimoError for anything else."""
    return Stop() if stop is None else check_type("stop", stop, Stop, "a Stop")


def sampling_for_each(name: str, value: Samplings, default: Sampling, count: int) -> list[Sampling]:
    """Return one Sampling for each of `count` items; MimoError, which calls the value `name`, for anything else."""
    given: Sequence[object] = value if isinstance(value, Sequence) else [default if value is None else value] * count
    samplings = [item for item in given if isinstance(item, Sampling)]
    valid = len(samplings) == len(given) == count
    require(valid, f"{name}: a Sampling is needed for all items, or one for each of {count}, not {value!r}")
    return samplings


def seed_for_each(seed: int | Sequence[int], count: int) -> list[int]:
    """Return one seed for each of `count` items: those given, or the numbers from a single one on."""
    if not isinstance(seed, Sequence):
        first = check_integer("seed", seed, 0, 2**62)
        return [first + i for i in range(count)]
    require(len(seed) == count, f"seed: {len(seed)} were given for {count} items")
    return [check_integer("seed", item, 0, 2**63 - 1) for item in seed]


def find_stop(text: str, strings: Sequence[str]) -> tuple[int, str] | None:
    """Find the first of the strings in a text that has begun: where it stands and which it is; None without any."""
    begin = len(text) - len(text.lstrip())
    return min(((text.find(string, begin), string) for string in strings if string in text[begin:]), default=None)
