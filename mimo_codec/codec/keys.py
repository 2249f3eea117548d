"""Keys of a codec's config.json: name, default, what it means, and which values it may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import NamedTuple, TypeVar

from mimo_codec.common.errors import MimoError

MODEL_TYPE, ARCHITECTURE = "mimo_audio_tokenizer", "MiMoAudioTokenizer"
MAX_NUMBER = 1e12
"""Of numbers that are no integers; as with MAX_COUNT, none that makes sense comes near."""
MAX_COUNT = 2**20
"""Beyond any real width or rate; keeps a damaged file from asking for absurd sizes."""
MAX_FFT, MAX_MELS, MAX_WINDOW = 2**14, 1024, 4096
"""Sizes that no weight shows but that cost memory: beyond any real one too."""
MAX_LAYERS, MAX_QUANTIZERS, MAX_CODEBOOK_SIZE = 1024, 256, 65536

Window = tuple[int, int]
"""[left, right] frames that a frame attends to besides itself; -1 means unlimited."""
Value = TypeVar("Value")


class Rule(NamedTuple):
    """Which values a field may have."""

    holds: Callable[[object], bool]
    need: str
    """The same in words, for the error."""


def is_integer(value: object, low: int = 1, high: int = MAX_COUNT) -> bool:
    """Whether `value` is an integer (no bool) in low..high."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether `value` is a finite number (no bool) in low..high."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return max(low, -MAX_NUMBER) <= value <= min(high, MAX_NUMBER)


def integer(high: int = MAX_COUNT, low: int = 1) -> Rule:
    """An integer from `low` to `high`."""
    return Rule(lambda value: is_integer(value, low, high), f"an integer from {low} to {high}")


def one_of(*values: object) -> Rule:
    """One of a few values, with the type of one."""
    names = [str(value) if isinstance(value, int) else repr(value) for value in values]
    need = f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else f"{names[0]} is the only value known"
    return Rule(lambda value: any(type(value) is type(known) and value == known for known in values), need)


ANYTHING = Rule(lambda value: True, "")
SAMPLE_RATE = integer(1_000_000, low=1000)
FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
WINDOW = Rule(
    lambda value: (
        isinstance(value, tuple) and len(value) == 2 and all(is_integer(side, -1, MAX_WINDOW) for side in value)
    ),
    f"two integers [left, right], each >= 0, at most {MAX_WINDOW}, or -1 for unlimited",
)


def key(name: str, default: Value, doc: str, rule: Rule = ANYTHING) -> Value:
    """A dataclass field that is read from and written to the key `name` of config.json."""
    made: Value = field(default=default, metadata={"key": name, "doc": doc, "rule": rule})
    return made


def require_value(condition: bool, name: str, value: object, need: str) -> None:
    """MimoError, which names the key, its value and what is needed, unless `condition` holds."""
    if not condition:
        raise MimoError(f"config: {name} = {plain(value)!r} is not supported: {need}")


def plain(value: object) -> object:
    """`value` as JSON has it: tuples are lists."""
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Section:
    """Fields that are checked, each by its own rule, when an instance is made; subclasses add what concerns several."""

    def __post_init__(self) -> None:
        """Check each field by its rule; MimoError names the key, its value and what is needed."""
        for f in fields(self):
            if "rule" in f.metadata:
                value = getattr(self, f.name)
                require_value(f.metadata["rule"].holds(value), f.metadata["key"], value, f.metadata["rule"].need)
