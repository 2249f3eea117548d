"""What is asked for, and what has come of it: the part of generation that is the same whatever computes the networks.

Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import check_integer, check_number
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.layout import Grid, Layout
from mimo_codec.lm.tokenizer import NAMES

FRAME_RATE, SAMPLE_RATE = 25.0, 24000
"""Of the codecs whose codes the language model reads."""
WINDOW = 24
"""Frames (about a second) that the repetition penalty looks back."""
Patches = NDArray[np.int64]


# ---- what is asked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The default is greedy: the likeliest token, always."""

    temperature: float = 0.0
    """0 for the likeliest token; 1 leaves the probabilities as they are."""
    top_k: int = 0
    """Draw among so many likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Audio only: above 1, codes that the channel had in the last `WINDOW` frames become less likely."""
    forbidden: tuple[int, ...] = ()
    """Text only: ids that are never drawn."""

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, 100)
        check_integer("top_k", self.top_k, 0, 2**24)
        check_number("top_p", self.top_p, 1e-6, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.1, 10)
        if not isinstance(self.forbidden, tuple):
            raise MimoError(f"forbidden: a tuple of ids is needed, not {self.forbidden!r}")
        for token in self.forbidden:
            check_integer("forbidden", token, 0, 2**24)


GREEDY = Sampling()


def forbidden_tokens(samplings: Sequence[Sampling], vocab_size: int) -> NDArray[np.bool_] | None:
    """True at [B, V] where an item may not draw a token; None where all may draw all."""
    if not any(sampling.forbidden for sampling in samplings):
        return None
    forbidden = np.zeros((len(samplings), vocab_size), bool)
    for i, sampling in enumerate(samplings):
        for token in sampling.forbidden:
            if token >= vocab_size:
                raise MimoError(f"forbidden: {token} is no text token; there are {vocab_size}")
            forbidden[i, token] = True
    return forbidden


@dataclass(frozen=True)
class Stop:
    """What ends an item, besides the number of positions that was asked for."""

    tokens: tuple[str, ...] = (NAMES["end_of_text"], NAMES["turn_end"], NAMES["speech_end"])
    """Text tokens by name; the one that is drawn is the last position."""
    max_seconds: float | None = None
    """Of new audio."""
    text: tuple[str, ...] = ()
    """Strings: an answer ends before the first of them, once it has begun."""

    def __post_init__(self) -> None:
        for name, value in (("token names", self.tokens), ("strings", self.text)):
            if not isinstance(value, tuple) or not all(isinstance(item, str) and item for item in value):
                raise MimoError(f"stop: a tuple of {name} is needed, not {value!r}")
        if self.max_seconds is not None:
            check_number("stop: max_seconds", self.max_seconds, 1 / FRAME_RATE, 1e6)


@dataclass(frozen=True, eq=False)
class Request:
    """One item of a batch."""

    grid: Grid
    """The prompt [1 + C, G P]."""
    max_new: int
    """Most new positions."""
    text: Sampling = GREEDY
    audio: Sampling = GREEDY
    stop_ids: tuple[int, ...] = ()
    stop_text: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None
    """Text tokens -> text, where there is stop_text."""
    max_patches: int | None = None
    seed: int = 0


def find_stop(text: str, strings: Sequence[str]) -> tuple[int, str] | None:
    """Where in a text that has begun the first of the strings stands, and which it is; None without any."""
    begin = len(text) - len(text.lstrip())
    return min(((text.find(string, begin), string) for string in strings if string in text[begin:]), default=None)


# ---- what has come of it ---------------------------------------------------------------------------------------------


class Position(NamedTuple):
    """What was generated for one item at one step."""

    token: int
    patch: Patches | None
    """[C, G] at audio positions."""
    end: int | str | None
    """Id of the stop token, the stop string, or "max_new_patches" or "max_seconds", at the item's last position."""


class Progress:
    """A batch on its way: its prompts, padded on the left, and which items have come to their end."""

    def __init__(self, requests: Sequence[Request], layout: Layout):
        self.requests, self.layout = requests, layout
        lengths = [request.grid.shape[1] // layout.group_size for request in requests]
        self.longest = max(lengths)
        self.pads = np.array([self.longest - length for length in lengths])
        """[B], positions of padding in front of each prompt."""
        self.num_new, self.num_patches = 0, [0] * len(requests)
        self.texts: list[list[int]] = [[] for _ in requests]
        self.is_over = [False] * len(requests)

    @property
    def ended(self) -> bool:
        return all(self.is_over)

    def empty_patches(self, *shape: int) -> Patches:
        """[*shape, C, G] of empty codes."""
        empty = np.array(self.layout.empty_codes)[:, None]
        return np.broadcast_to(empty, (*shape, len(empty), self.layout.group_size)).copy()

    def prompts(self) -> tuple[NDArray[np.int64], Patches]:
        """Text tokens [B, P] and patches [B, P, C, G]."""
        tokens = np.zeros((len(self.requests), self.longest), np.int64)
        patches = self.empty_patches(len(self.requests), self.longest)
        for i, (request, pad) in enumerate(zip(self.requests, self.pads, strict=True)):
            tokens[i, pad:] = self.layout.token_ids(request.grid)
            patches[i, pad:] = self.layout.patches(request.grid)
        return tokens, patches

    def speaking(self, tokens: Sequence[int]) -> list[int]:
        """The items of which the next position is audio."""
        return [i for i, token in enumerate(tokens) if token == self.layout.empty_id and not self.is_over[i]]

    def add(self, tokens: Sequence[int], patches: Patches) -> list[Position | None]:
        """The next tokens [B] and patches [B, C, G] -> the new position of every item; None for those that ended."""
        self.num_new += 1
        speaking = set(self.speaking(tokens))
        new: list[Position | None] = []
        for i, token in enumerate(tokens):
            if self.is_over[i]:
                new.append(None)
                continue
            self.num_patches[i] += i in speaking
            self.texts[i] += [] if i in speaking else [token]
            end = self._end(i, token)
            self.is_over[i] = end is not None
            new.append(Position(token, patches[i].copy() if i in speaking else None, end))
        return new

    def _end(self, item: int, token: int) -> int | str | None:
        request = self.requests[item]
        if token in request.stop_ids:
            return token
        if request.decode is not None and token != self.layout.empty_id:
            found = find_stop(request.decode(self.texts[item]), request.stop_text)
            if found is not None:
                return found[1]
        if request.max_patches is not None and self.num_patches[item] >= request.max_patches:
            return "max_seconds"
        return "max_new_patches" if self.num_new >= request.max_new else None
