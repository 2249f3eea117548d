"""Lists of conversations, of audio to continue and of inputs after examples: each answers as it does alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import GOLDEN, make_speech

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec import MimoError
from mimo_codec.lm import Generation, MimoAudioLM

SHORT: dict[str, Any] = {"max_new_patches": 6}
SEEDS = (5, 9)
CODES = [torch.randint(100, (8, 20 + 12 * i), generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.fixture(scope="module")
def lm() -> MimoAudioLM:
    """With a liking for audio, so that short answers have some."""
    lm = MimoAudioLM.from_pretrained(GOLDEN / "lm_base", device="cpu", codec="nano")
    with torch.no_grad():
        lm.model.lm_head.weight[lm.tokenizer.special.empty] *= 3
    return lm


def assert_same(found: Sequence[Generation[Any]], alone: Sequence[Generation[Any]]) -> None:
    assert isinstance(found, list) and len(found) == len(alone)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(found, alone, strict=True))


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "text": text}]


def heard(codes: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "audio": codes}]


@pytest.mark.parametrize("speak", [True, False])
@pytest.mark.parametrize("turns", [[said("Hello."), said("Who are you, then?")], [heard(CODES[0]), heard(CODES[1])]])
def test_conversations(lm: MimoAudioLM, turns: list[Any], speak: bool) -> None:
    options = {**SHORT, "system": "Be short.", "speak": speak}
    alone = [lm.chat(item, **options, seed=seed) for item, seed in zip(turns, SEEDS, strict=True)]
    assert_same(lm.chat(turns, **options, seed=SEEDS), alone)
    assert_same(lm.chat(turns[:1], **options, seed=SEEDS[:1]), alone[:1])


def test_continuations(lm: MimoAudioLM) -> None:
    alone = [lm.continue_speech(codes, 0.5, seed=seed) for codes, seed in zip(CODES, SEEDS, strict=False)]
    assert_same(lm.continue_speech(CODES[:2], 0.5, seed=SEEDS), alone)


@pytest.mark.parametrize("name", ["audio", "text"])
def test_inputs_after_the_same_examples(lm: MimoAudioLM, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    items = CODES[:2] if name == "audio" else ["One.", "Two, three."]
    examples = [{"input_audio": (make_speech(0.4), 24000), "output_text": "yes"}]
    options = {**SHORT, "speak": False}
    alone = [lm.few_shot("Say.", examples, **{name: x}, **options, seed=s) for x, s in zip(items, SEEDS, strict=True)]
    calls: list[int] = []
    encode = lm.codec.encode
    monkeypatch.setattr(lm.codec, "encode", lambda *args, **given: calls.append(1) or encode(*args, **given))
    assert_same(lm.few_shot("Say.", examples, **{name: items}, **options, seed=SEEDS), alone)
    assert len(calls) == 1  # of the example that they share


def test_batches_that_are_refused(lm: MimoAudioLM) -> None:
    with pytest.raises(MimoError, match="all conversations of a batch contain audio, or none does"):
        lm.chat([said("a"), heard(CODES[0])], speak=False)
    with pytest.raises(MimoError, match=r"item 1: turns: the last is the assistant's"):
        lm.chat([said("a"), [*said("b"), {"role": "assistant", "text": "c"}]], speak=False)
    with pytest.raises(MimoError, match="either a list of audio or a list of texts"):
        lm.few_shot("Say.", [{"input_text": "a", "output_text": "b"}], audio=CODES, text=["a"])  # type: ignore[call-overload]
