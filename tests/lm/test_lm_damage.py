"""Damaged files of language models: refused when they are loaded, and nothing waits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="needs the lm extra")

from safetensors.torch import load_file, save_file

from mimo_codec import MimoError
from mimo_codec.lm import LMConfig, MimoAudioLM
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.lm.tokenizer import TextTokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "lm_base", tmp_path / "lm"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("options", [{}, {"device_map": {"": "cpu"}}])
def test_weights_that_are_no_numbers(folder: Path, value: float, options: dict[str, object]) -> None:
    if options:
        pytest.importorskip("accelerate")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(MimoError, match=f"damaged, or too large for torch.float32: {name} has NaN or infinite values"):
        MimoAudioLM.from_pretrained(folder, device="cpu", **options)  # type: ignore[arg-type]


def test_weights_too_large_for_a_dtype(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors")
    MimoAudioLM.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    with pytest.raises(MimoError, match="too large for torch.float16: lm_head.weight"):
        MimoAudioLM.from_pretrained(folder, device="cpu", dtype=torch.float16)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_a_pipe_in_the_place_of_a_json_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """Of an older checkpoint, whose tokenizer transformers reads."""
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    os.mkfifo(tmp_path / name)
    with pytest.raises(MimoError, match=f"{name}: cannot be read: it is not a regular file"):
        TextTokenizer.load(tmp_path)


def test_numbers_that_are_written_as_integers(folder: Path) -> None:
    """Which JSON does not tell from others."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"rope_theta": 640000, "rms_norm_eps": 1, "attention_dropout": 0}))
    MimoAudioLM.from_pretrained(folder, device="cpu")


@settings(max_examples=60, deadline=None)
@given(
    hidden_size=st.integers(1, 70),
    num_attention_heads=st.integers(1, 8),
    num_key_value_heads=st.sampled_from([1, 2, 3]),
    head_dim=st.integers(1, 40),
    rope_theta=st.sampled_from([1, 1.0, 1e12]),
    rms_norm_eps=st.sampled_from([0, 1, 1e-6]),
    local_dim=st.sampled_from([8, 16, 24]),
    local_attn_heads=st.integers(1, 3),
)
def test_a_configuration_is_refused_or_can_be_built(**values: Any) -> None:
    """What transformers refuses is refused before."""
    small = dict(num_hidden_layers=1, local_layers=1, input_local_layers=1, vocab_size=9, intermediate_size=9)
    try:
        config = LMConfig(**small, local_ffn_dim=9, input_local_dim=values["local_dim"], **values)
    except MimoError as error:
        assert str(error).startswith("config: ")
        return
    with torch.device("meta"):
        SpeechLanguageModel(config, empty_id=0)
