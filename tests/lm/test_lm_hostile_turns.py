"""Turns, examples and arguments of every odd kind: prompts come of them, or MimoError, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the lm extra")

from test_lm_prompts import VOICE, grid

from mimo_codec import MimoError

ATOMS: list[Any] = [None, "", " ", "a", 5, 1.5, True, b"x", "\udcff", ("a", 3), float("nan"), VOICE, np.zeros(3)]
ATOMS += ["user", "assistant", "system", "text", "audio", {"type": []}, {"type": "text"}, {"type": VOICE}]
ATOMS += [{"type": "text", "text": "a"}, {"type": "audio", "audio": VOICE}]
KEYS: list[Any] = ["role", "text", "audio", "content", "type", "x", 5, None, "thinking", "input_text", "output_audio"]


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything."""
    kind = rng.random()
    if kind < 0.7 or depth > 2:
        return rng.choice(ATOMS)
    if kind < 0.85:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def turn(rng: random.Random) -> Any:
    """Something near a turn."""
    if rng.random() < 0.1:
        return value(rng)
    found = {"role": rng.choice(["user", "assistant", "system"]) if rng.random() < 0.9 else value(rng)}
    good = {"text": "hi", "audio": VOICE, "content": [{"type": "text", "text": "a"}, {"type": "audio", "audio": VOICE}]}
    for name in good:
        if rng.random() < 0.4:
            found[name] = good[name] if rng.random() < 0.6 else value(rng)
    if rng.random() < 0.1:
        found[rng.choice(KEYS)] = value(rng)
    return found


def arguments(task: str, rng: random.Random) -> dict[str, Any]:
    """Arguments for a task, some of them usable."""
    if task == "asr":
        return {"audio": rng.choice([VOICE, value(rng)]), "instruction": value(rng), "language": value(rng)}
    if task == "tts":
        return {"text": value(rng), "voice": value(rng)}
    items = [turn(rng) for _ in range(rng.randint(0, 4))] if rng.random() < 0.95 else value(rng)
    if task == "few_shot":
        names = ("instruction", "audio", "text", "prefix")
        good = [{"input_text": "a", "output_text": "b"}]
        items = rng.choice([items, good])
        return {
            "examples": items,
            "speak": rng.random() < 0.5,
            **{name: rng.choice([None, "a", value(rng)]) for name in names},
        }
    return {"turns": items, "system": rng.choice([None, "Be brief.", value(rng)])}


@pytest.mark.parametrize(
    "task", ["dialogue_text", "dialogue_speech", "dialogue_speech_to_text", "few_shot", "asr", "tts"]
)
def test_odd_arguments_give_prompts_or_errors(task: str) -> None:
    rng, made = random.Random(task), 0
    for _ in range(4000):
        try:
            made += grid(task, **arguments(task, rng)).shape[0] == 9
        except MimoError as error:
            assert len(str(error)) < 1000
    assert made
