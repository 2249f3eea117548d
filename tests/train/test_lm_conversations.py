"""Conversations in the released toolkit's format: the golden ids and masks, and what is refused."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN

pytest.importorskip("tokenizers", reason="needs the lm extra")

from safetensors.numpy import load_file

from mimo_codec import MimoError
from mimo_codec.lm.audio import AudioReader
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.train.lm.conversations import conversation_parts
from mimo_codec.train.lm.item import Item, make_item

FOLDER = GOLDEN / "lm_prompts"
CONVERSATIONS = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
UNTRAINED = -100


@cache
def tools() -> tuple[AudioReader, TextTokenizer, Layout]:
    config, tokenizer = LMConfig.load(FOLDER / "config.json"), TextTokenizer.load(FOLDER)
    layout = Layout(config.group_size, config.speech_zeroemb_idx, config.delay_pattern, tokenizer.special.empty)
    return AudioReader(config, layout, None, "codec=NAME"), tokenizer, layout


def make(turns: Any, max_positions: int = 1000) -> Item:
    reader, tokenizer, layout = tools()
    return make_item(conversation_parts(turns, reader), tokenizer, layout, max_positions)


def with_codes(turns: list[dict], as_lists: bool = False) -> list[dict]:
    """Names of audio -> codes."""
    found, turns = load_file(FOLDER / "expected.safetensors"), copy.deepcopy(turns)
    for turn in turns:
        for part in turn["content"]:
            if part["type"] == "audio":
                codes = found[f"audio.{part['audio']}"].astype(np.int64)
                part["audio"] = codes.tolist() if as_lists else codes
    return turns


@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
@pytest.mark.parametrize("as_lists", [False, True])
def test_ids_and_masks_are_those_of_the_released_toolkit(number: int, as_lists: bool) -> None:
    expected = load_file(FOLDER / "conversations.safetensors")
    item = make(with_codes(CONVERSATIONS[number], as_lists))
    np.testing.assert_array_equal(item.grid, expected[f"input_ids.{number}"])
    labels = np.where(item.trained.repeat(tools()[2].group_size), item.grid, UNTRAINED)
    np.testing.assert_array_equal(labels, expected[f"labels.{number}"])


def said(role: str, content: Any, **more: Any) -> dict:
    return {"role": role, "content": content, **more}


def test_without_a_word_about_thinking_answers_begin_as_in_prompts() -> None:
    question, sound = said("user", "Hm?"), {"type": "audio", "audio": np.zeros((8, 4), np.int64)}
    plain, empty = make([question, said("assistant", "Yes.")]), said("assistant", "Yes.", thinking=False)
    np.testing.assert_array_equal(plain.grid, make([question, empty]).grid)
    spoken = [{"type": "text", "text": "Yes."}, sound]
    aloud, none = make([question, said("assistant", spoken)]), said("assistant", spoken, thinking=None)
    np.testing.assert_array_equal(aloud.grid, make([question, none]).grid)
    assert not np.array_equal(plain.grid, make([question, said("assistant", "Yes.", thinking=None)]).grid)


ANSWER, QUESTION = said("assistant", "Yes."), said("user", "Hm?")
BROKEN: dict[str, tuple[Any, str]] = {
    "no list": ({"role": "user"}, "a list is needed"),
    "nothing": ([], "there are none"),
    "no answer": ([QUESTION], "the last is not the assistant's"),
    "unknown role": ([said("human", "Hm?"), ANSWER], "role"),
    "assistant first": ([ANSWER, QUESTION, ANSWER], r"turns\[0\]: is of 'assistant'"),
    "user twice": ([QUESTION, QUESTION, ANSWER], r"turns\[1\]: is of 'user'"),
    "system later": ([QUESTION, ANSWER, said("system", "Be brief."), ANSWER], r"turns\[2\]: is of 'system'"),
    "no text": ([QUESTION, said("assistant", [])], "empty"),
    "only sound": (
        [QUESTION, said("assistant", [{"type": "audio", "audio": [[0, 1]] * 8}])],
        r"turns\[1\]: an answer needs its text",
    ),
    "no such file": ([said("user", [{"type": "audio", "audio": "/nowhere/a.wav"}]), ANSWER], r"turns\[0\]"),
    "codes out of range": ([said("user", [{"type": "audio", "audio": [[5000]] * 8}]), ANSWER], "out of range"),
    "ragged codes": ([said("user", [{"type": "audio", "audio": [[1], [1, 2]]}]), ANSWER], r"turns\[0\]"),
    "thinks maybe": ([QUESTION, said("assistant", "Yes.", thinking="maybe")], "true, false or null"),
    "thinks as text": ([QUESTION, said("assistant", "Yes.", thinking="false")], "true, false or null"),
    "thinks without thoughts": ([QUESTION, said("assistant", "Yes.", thinking=True)], "is not given"),
    "thoughts unannounced": (
        [QUESTION, said("assistant", "Yes.", **{"Chain-of-thought": "Hm."})],
        "is given, but thinking is False",
    ),
    "thoughts a list": ([QUESTION, said("assistant", "Yes.", thinking=True, **{"Chain-of-thought": [1]})], "text"),
    "too long": ([said("user", "word " * 10_000), ANSWER], "the context has 1000"),
    "unknown key": ([said("user", "Hm?", mood="good"), ANSWER], "mood"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_learnt_is_refused_in_a_sentence(name: str) -> None:
    turns, message = BROKEN[name]
    with pytest.raises(MimoError, match=message) as caught:
        make(turns)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
