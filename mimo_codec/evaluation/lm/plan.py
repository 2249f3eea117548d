"""What a suite would cost: questions, lengths of prompts, hours and memory, before anything large is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mimo_codec.evaluation.lm.model import Measure
from mimo_codec.evaluation.lm.setup import Prepared, check_units
from mimo_codec.evaluation.text_tables import aligned
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.instructions import Instructions

TYPICAL_SHARE = 0.5
"""Of the most positions that an answer may have, how many one has."""


@dataclass(frozen=True)
class Speed:
    """How fast a model is.

    Args:
        prefill: positions of prompts a second, all items of a batch together.
        decode: new positions a second, all items of a batch together.
    """

    prefill: float
    decode: float


@dataclass(frozen=True)
class Cost:
    """The questions of one mode and number of examples."""

    label: str
    questions: int
    mean: float
    """Positions of a prompt."""
    longest: int
    new: float
    """Positions of an answer, about."""

    def hours(self, speed: Speed) -> float:
        """Return how long they take."""
        return self.questions * (self.mean / speed.prefill + self.new / speed.decode) / 3600


def plan(prepared: Prepared, measure: Measure, words: Instructions) -> tuple[list[Cost], dict[str, str]]:
    """Return the cost of all modes and numbers of examples, and what cannot be asked; raise what a run raises."""
    lengths, bad = check_units(prepared, measure, words)
    costs = []
    for mode in prepared.modes:
        for shots in prepared.shots:
            chosen = [each for each in lengths if each.unit.mode == mode and each.unit.shots == shots]
            positions = [each.positions for each in chosen]
            new = [prepared.suite.options(each.unit.item, mode, shots).max_new for each in chosen]
            label = " ".join(part for part in (mode, f"{shots}-shot") if part)
            costs.append(
                Cost(label, len(chosen), float(np.mean(positions)), max(positions), TYPICAL_SHARE * float(np.mean(new)))
            )
    return costs, bad


def cache_bytes(config: LMConfig, positions: int, bytes_per_value: int = 2) -> int:
    """Return the memory of the backbone's keys and values for so many positions of one item."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim * bytes_per_value
    return config.num_hidden_layers * per_layer * positions


def describe(costs: Sequence[Cost], speed: Speed, config: LMConfig | None, batch_size: int) -> str:
    """Return the costs as a table."""
    rows = [["", "questions", "positions", "longest", "new, about", "hours"]]
    for cost in costs:
        numbers = [f"{cost.mean:.0f}", str(cost.longest), f"{cost.new:.0f}", f"{cost.hours(speed):.2f}"]
        rows.append([cost.label, str(cost.questions), *numbers])
    hours = sum(cost.hours(speed) for cost in costs)
    lines = [
        *aligned(rows),
        f"{hours:.1f} hours at {speed.prefill:g} positions of prompts and {speed.decode:g} new ones a second",
    ]
    if config is not None:
        longest = max(cost.longest + 2 * cost.new for cost in costs)
        size = batch_size * cache_bytes(config, round(longest)) / 2**30
        lines.append(f"{size:.2f} GiB for the keys and values of {batch_size} questions at once, beside the weights")
    return "\n".join(lines)
