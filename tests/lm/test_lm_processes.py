"""Language models in other processes, under autocast and under other defaults of PyTorch."""

from __future__ import annotations

import pickle

import pytest
import torch
from conftest import GOLDEN

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec.lm import MimoAudioLM
from mimo_codec.lm.config import LMConfig

CODES = torch.zeros(8, 40, dtype=torch.int64)


@pytest.fixture(scope="module")
def lm() -> MimoAudioLM:
    return MimoAudioLM.from_pretrained(GOLDEN / "lm_base", device="cpu")


def answers(lm: MimoAudioLM) -> list[object]:
    """Texts and codes, drawn and greedy."""
    prompts = [lm.prompt("tts", text="Hello."), lm.prompt("asr", audio=CODES)]
    found = lm.generate(prompts, max_new_patches=8, seed=1) + [lm.generate(prompts[0], max_new_patches=8, greedy=True)]
    return [(each.text, None if each.codes is None else each.codes.codes.tolist()) for each in found]


def test_a_pickled_model_answers_the_same(lm: MimoAudioLM) -> None:
    kept = lm.generate(lm.prompt("asr", audio=CODES), max_new_patches=2, keep_cache=True)
    copy = pickle.loads(pickle.dumps(lm))
    assert answers(copy) == answers(lm) and repr(copy) == repr(lm)
    assert pickle.loads(pickle.dumps(kept)).text == kept.text


def test_configurations_pickle(lm: MimoAudioLM) -> None:
    assert pickle.loads(pickle.dumps(lm.config)) == lm.config
    assert pickle.loads(pickle.dumps(LMConfig())) == LMConfig()


def test_autocast_changes_no_answer(lm: MimoAudioLM) -> None:
    expected = answers(lm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert answers(lm) == expected
        assert lm(lm.prompt("asr", audio=CODES)).text_logits.dtype == torch.bfloat16  # for those who train it


def test_another_default_dtype_changes_no_answer(lm: MimoAudioLM) -> None:
    expected = answers(lm)
    torch.set_default_dtype(torch.float64)
    try:
        assert answers(MimoAudioLM.from_pretrained(GOLDEN / "lm_base", device="cpu")) == expected == answers(lm)
    finally:
        torch.set_default_dtype(torch.float32)
