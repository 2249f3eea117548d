"""Generation: prompts of a batch -> new positions, each item as if it were alone, whatever computes the networks.

Prompts are padded on the left; every item has its own sampling settings, random numbers and end. A position is a text
token, or `<|empty|>` and a patch. There is one loop, `generate_positions`; a `Backend` computes for it, with PyTorch
(`backend.py`) or ONNX Runtime (`mimo_codec.onnx.lm.runtime`). Needs numpy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimo_codec.lm.layout import Layout
from mimo_codec.lm.request import WINDOW, Request, find_stop
from mimo_codec.lm.runaway import FRAMES, sound_runs_away, text_repeats

Tokens = NDArray[np.int64]
"""One text token for each item [B]."""
Patches = NDArray[np.int64]
"""Codes of one patch for each item [B, C, G]."""
Numbers = NDArray[np.float32]
"""Random numbers in [0, 1)."""


# ---- what a backend computes -----------------------------------------------------------------------------------------


class Batch(ABC):
    """The networks at work on one batch. Random numbers come in as arguments, so that what runs can be compiled."""

    @abstractmethod
    def read_prompts(self, tokens: Tokens, patches: Patches, pads: NDArray[np.int64], uniform: Numbers) -> Tokens:
        """Read all prompts and draw the first token of every item.

        Args:
            tokens: text tokens [B, P].
            patches: codes [B, P, C, G].
            pads: positions of padding [B] in front of each prompt.
            uniform: random numbers [B].
        """

    @abstractmethod
    def read_position(self, tokens: Tokens, patches: Patches, uniform: Numbers) -> Tokens:
        """Read one more position of every item, tokens [B] and patches [B, C, G], and draw the next tokens [B]."""

    @abstractmethod
    def decode_patches(self, items: list[int], uniform: Numbers, recent: Patches) -> Patches:
        """Draw the patches [N, C, G] that belong to the last tokens of N items.

        Args:
            items: which of the batch.
            uniform: random numbers [B, C, G].
            recent: the last `WINDOW` frames of every item [B, C, WINDOW], -1 where there are none.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the batch has used; nothing is asked of it afterwards."""


class Backend(ABC):
    """What computes the networks of a language model."""

    @abstractmethod
    def batch(self, requests: Sequence[Request], num_positions: int) -> Batch:
        """Begin a batch whose items have at most `num_positions` positions, prompt and answer."""

    @abstractmethod
    def random_numbers(self, seed: int) -> Callable[[int], Numbers]:
        """Return a function that gives so many random numbers more at every call, the same ones for the same seed."""

    @abstractmethod
    def new_seeds(self, count: int) -> list[int]:
        """Return seeds for items for which the caller gave none."""


class Kept(NamedTuple):
    """What one prompt and its answer have left to a backend, for the next prompt that begins alike."""

    tokens: NDArray[np.int64]
    """Text tokens [P]."""
    patches: Patches
    """Codes [P, C, G]."""
    cache: Any
    """Keys and values of these positions, in the form of the backend."""

    @classmethod
    def join(cls, read: Sequence[tuple[NDArray[np.int64], Patches]], cache: Any) -> Kept:
        """Join what was read, tokens [n] and patches [n, C, G] at a time."""
        tokens, patches = (np.concatenate(parts) for parts in zip(*read, strict=True))
        return cls(tokens, patches, cache)

    def common(self, tokens: NDArray[np.int64], patches: Patches) -> int:
        """Return at how many positions a prompt begins alike; its last one is left to compute."""
        most = min(len(tokens) - 1, len(self.tokens))
        same = (tokens[:most] == self.tokens[:most]) & (patches[:most] == self.patches[:most]).all((1, 2))
        return most if same.all() else int(same.argmin())


def generate_positions(
    backend: Backend, requests: Sequence[Request], layout: Layout
) -> Iterator[list[Position | None]]:
    """Yield, step by step, the new position of every item; None for those that have ended."""
    progress = Progress(requests, layout)
    num_channels, group = layout.num_channels, layout.group_size
    streams = [backend.random_numbers(request.seed) for request in requests]
    recent = np.full((len(requests), num_channels, WINDOW), -1)

    def draw() -> Numbers:
        """Numbers of one position [B, 1 + C G], of which text uses the first; the same whatever they are used for."""
        return np.stack([stream(1 + num_channels * group) for stream in streams])

    batch = backend.batch(requests, progress.num_positions)
    uniform = draw()
    tokens = batch.read_prompts(*progress.prompts(), progress.pads, uniform[:, 0])
    try:
        while True:
            patches = progress.empty_patches(len(requests))
            if items := progress.speaking(tokens):
                patches[items] = batch.decode_patches(items, uniform[:, 1:].reshape(patches.shape), recent)
                recent[items] = np.concatenate((recent[items], patches[items]), axis=2)[:, :, group:]
            yield progress.add(tokens, patches)
            if progress.ended:
                return
            uniform = draw()
            tokens = batch.read_position(tokens, patches, uniform[:, 0])
    finally:
        batch.close()


# ---- what has come of it ---------------------------------------------------------------------------------------------


class Position(NamedTuple):
    """What was generated for one item at one step."""

    token: int
    patch: Patches | None
    """[C, G] at audio positions."""
    end: int | str | None
    """Id of the stop token, the stop string, or "max_new_patches", "max_seconds", "repetition" or "silence".

    Only the item's last position has it.
    """


class Progress:
    """How far a batch has come: its prompts, padded on the left, and which items have come to their end."""

    def __init__(self, requests: Sequence[Request], layout: Layout):
        """Begin with nothing generated."""
        self.requests, self.layout = requests, layout
        lengths = [layout.num_positions(request.grid) for request in requests]
        self.longest = max(lengths)
        self.pads = np.array([self.longest - length for length in lengths])
        """[B], positions of padding in front of each prompt."""
        self.num_new, self.num_patches = 0, [0] * len(requests)
        self.sounds = [np.zeros(0, np.int64) for _ in requests]
        """Codes of the first codebook, the last of every item."""
        self.texts: list[list[int]] = [[] for _ in requests]
        self.is_over = [False] * len(requests)

    @property
    def ended(self) -> bool:
        """Whether every item has come to its end."""
        return all(self.is_over)

    @property
    def num_positions(self) -> int:
        """Most positions of an item, prompt and answer."""
        return self.longest + max(request.max_new for request in self.requests)

    def empty_patches(self, *shape: int) -> Patches:
        """Return patches [*shape, C, G] of empty codes."""
        empty = np.array(self.layout.empty_codes)[:, None]
        return np.tile(empty, (*shape, 1, self.layout.group_size))

    def prompts(self) -> tuple[NDArray[np.int64], Patches]:
        """Return the text tokens [B, P] and patches [B, P, C, G] of all prompts, padded on the left."""
        tokens = np.zeros((len(self.requests), self.longest), np.int64)
        patches = self.empty_patches(len(self.requests), self.longest)
        for i, (request, pad) in enumerate(zip(self.requests, self.pads, strict=True)):
            tokens[i, pad:] = self.layout.token_ids(request.grid)
            patches[i, pad:] = self.layout.patches(request.grid)
        return tokens, patches

    def speaking(self, tokens: Tokens) -> list[int]:
        """Return the items of which the next position is audio."""
        return [i for i, token in enumerate(tokens.tolist()) if token == self.layout.empty_id and not self.is_over[i]]

    def add(self, tokens: Tokens, patches: Patches) -> list[Position | None]:
        """Take the next tokens [B] and patches [B, C, G], and return the new position of every item.

        It is None for items that have ended before.
        """
        self.num_new += 1
        speaking = set(self.speaking(tokens))
        spoken = [i in speaking for i in range(len(tokens))]
        new: list[Position | None] = []
        for i, token in enumerate(tokens.tolist()):
            if self.is_over[i]:
                new.append(None)
                continue
            self.num_patches[i] += spoken[i]
            self.texts[i] += [] if spoken[i] else [token]
            if spoken[i]:
                self.sounds[i] = np.append(self.sounds[i], patches[i, 0])[-FRAMES:]
            end = self._end(i, token)
            self.is_over[i] = end is not None
            new.append(Position(token, patches[i].copy() if spoken[i] else None, end))
        return new

    def _end(self, item: int, token: int) -> int | str | None:
        request = self.requests[item]
        may_end = self.num_new >= request.min_new
        if token in request.stop_ids and may_end:
            return token
        if request.decode is not None and may_end and token != self.layout.empty_id:
            found = find_stop(request.decode(self.texts[item]), request.stop_text)
            if found is not None:
                return found[1]
        if request.max_patches is not None and self.num_patches[item] >= request.max_patches:
            return "max_seconds"
        if self.num_new >= request.max_new:
            return "max_new_patches"
        return self._runaway(item, token) if request.runaway and may_end else None

    def _runaway(self, item: int, token: int) -> str | None:
        if token == self.layout.empty_id:
            return sound_runs_away(self.sounds[item])
        return "repetition" if text_repeats(self.texts[item]) else None
