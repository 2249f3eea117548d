"""Items of training: a grid, and which of its positions are to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import require
from mimo_codec.common.rounding import ceil_div
from mimo_codec.lm.layout import Grid, Layout, Run, Text
from mimo_codec.lm.prompts import Segment, render
from mimo_codec.lm.tokenizer import TextTokenizer

MAX_CHARACTERS = 64
"""Of a text for each position of the context: no token has more, so longer ones are not tokenized."""

Part = tuple[Segment, bool]
"""A segment of text or audio, and whether it is to be predicted."""


class Item(NamedTuple):
    """A sequence to train on."""

    grid: Grid
    """[1 + C, G P]."""
    trained: NDArray[np.bool_]
    """Which positions are to be predicted [P]."""
    name: str = ""
    """Where it comes from, for messages."""

    @property
    def num_positions(self) -> int:
        """P."""
        return len(self.trained)


def make_item(
    parts: Sequence[Part], tokenizer: TextTokenizer, layout: Layout, max_positions: int, name: str = ""
) -> Item:
    """Put parts one after the other.

    Raises MimoError when nothing of it is trained, or when it is longer than `max_positions`.
    """
    runs: list[Run] = []
    trained: list[NDArray[np.bool_]] = []
    for segment, is_trained in parts:
        size = len(getattr(segment, "text", segment if isinstance(segment, str) else ""))
        short = size <= MAX_CHARACTERS * max_positions
        require(short, f"a text of {size} characters; the context has {max_positions} positions")
        rendered = render([segment], tokenizer, layout)
        runs += rendered
        trained += [np.full(_num_positions(run, layout), is_trained) for run in rendered]
    flags = np.concatenate(trained)
    require(flags[1:].any(), "nothing of it is to be learnt")
    fits = len(flags) <= max_positions
    require(fits, f"{len(flags)} positions; the context has {max_positions}")
    return Item(layout.build(runs), flags, name)


def _num_positions(run: Run, layout: Layout) -> int:
    return len(run.ids) if isinstance(run, Text) else ceil_div(run.codes.shape[1], layout.group_size)
