"""Adapters: trained, saved, loaded, merged, and refused for other models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN

pytest.importorskip("peft", reason="needs the lora extra")

from safetensors.torch import load_file, save_file
from torch import Tensor

from mimo_codec import MimoError
from mimo_codec.lm import adapters
from mimo_codec.lm.adapters import ADAPTER, adapters_of, add_adapter, merge_adapter, save_adapter
from mimo_codec.lm.pipeline import MimoAudioLM

BASE = GOLDEN / "lm_base"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter that changes what the golden model says."""
    folder = tmp_path_factory.mktemp("adapter")
    model = MimoAudioLM.from_pretrained(BASE, device="cpu").model
    add_adapter(model, 4, 8.0)
    torch.manual_seed(0)
    for layer in adapters_of(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    save_adapter(folder, model, "lm_base")
    return folder


def logits(lm: MimoAudioLM) -> Tensor:
    expected = load_file(BASE / "expected.safetensors")
    output = lm.forward(expected["prompt.asr"].numpy().astype(np.int64))
    return torch.cat([output.text_logits.flatten(), output.local_hidden.flatten()])


def test_an_adapter_is_on_q_k_v_and_o_of_all_three_stacks() -> None:
    model = MimoAudioLM.from_pretrained(BASE, device="cpu").model
    before = {name: p.shape for name, p in model.named_parameters()}
    add_adapter(model, 2, 4.0)
    c = model.config
    assert len(adapters_of(model)) == 4 * (c.num_hidden_layers + c.input_local_layers + c.local_layers)
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())
    merge_adapter(model)
    assert {name: p.shape for name, p in model.named_parameters()} == before


def test_merged_is_unmerged(adapter: Path, tmp_path: Path) -> None:
    plain = logits(MimoAudioLM.from_pretrained(BASE, device="cpu"))
    lm = MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=adapter)
    unmerged = logits(lm)
    assert not torch.allclose(unmerged, plain, atol=1e-2)
    lm.merge_adapter()
    close = 1e-5 * float(unmerged.abs().max())  # the golden model has logits of tens
    torch.testing.assert_close(logits(lm), unmerged, rtol=0, atol=close)
    lm.save_pretrained(tmp_path / "merged")
    names = load_file(BASE / "model.safetensors").keys()
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == names
    torch.testing.assert_close(
        logits(MimoAudioLM.from_pretrained(tmp_path / "merged", device="cpu")), unmerged, rtol=0, atol=close
    )


def test_an_adapter_that_is_not_merged_is_not_saved_in_silence(adapter: Path, tmp_path: Path) -> None:
    lm = MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=adapter)
    with pytest.raises(MimoError, match="merge the adapter first"):
        lm.save_pretrained(tmp_path / "whole")


def test_an_adapter_for_another_model_is_refused_by_name(adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    weights = load_file(other / "model.safetensors")
    weights["local_transformer.layers.2.self_attn.q_proj.weight"] += 1
    save_file(weights, other / "model.safetensors")
    with pytest.raises(MimoError, match="is for 'lm_base'.*not for .*other"):
        MimoAudioLM.from_pretrained(other, device="cpu", adapter=adapter)


def test_an_adapter_is_not_put_on_twice(adapter: Path, tmp_path: Path) -> None:
    lm = MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=adapter)
    lm.merge_adapter()
    lm.save_pretrained(tmp_path / "merged")
    with pytest.raises(MimoError, match="is for 'lm_base'"):
        MimoAudioLM.from_pretrained(tmp_path / "merged", device="cpu", adapter=adapter)


def test_the_type_of_the_weights_does_not_change_whose_adapter_it_is(adapter: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        lm = MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=adapter, dtype=dtype)
        assert {p.dtype for p in lm.model.parameters()} == {dtype} and logits(lm).isfinite().all()


def test_weights_that_are_too_large_for_float16_are_refused(adapter: Path, tmp_path: Path) -> None:
    weights = load_file(BASE / "model.safetensors")
    shutil.copytree(BASE, tmp_path / "large")
    weights["speech_embeddings.0.weight"][0, 0] = 1e6  # does not tell which model it is
    save_file(weights, tmp_path / "large" / "model.safetensors")
    with pytest.raises(MimoError, match="too large for torch.float16"):
        MimoAudioLM.from_pretrained(tmp_path / "large", device="cpu", adapter=adapter, dtype="float16")


@pytest.mark.parametrize(
    "damage", ["missing", "half", "shape", "nan", "float8", "kind", "targets", "dora", "base", "another's"]
)
def test_damaged_adapters_are_refused_in_a_sentence(adapter: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(adapter, folder)
    weights, config = load_file(folder / ADAPTER), json.loads((folder / "adapter_config.json").read_text())
    first = next(iter(weights))
    if damage == "missing":
        weights.pop(first)
    elif damage == "shape":
        weights[first] = weights[first][:1].contiguous()
    elif damage == "nan":
        weights[first][0] = float("nan")
    elif damage == "float8":
        weights[first] = weights[first].to(torch.float8_e4m3fn)
    elif damage == "kind":
        config["peft_type"] = "IA3"
    elif damage == "targets":
        config["target_modules"] = ".*"
    elif damage == "dora":
        config["use_dora"] = True
    save_file(weights, folder / ADAPTER)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if damage == "half":
        (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:200])
    elif damage == "base":
        (folder / "base.json").unlink()
    elif damage == "another's":
        (folder / "base.json").write_text(json.dumps({"name": ["x" * 80] * 10000}))
    with pytest.raises(MimoError) as caught:
        MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_rank_that_the_weights_do_not_have_is_refused_before_it_takes_memory(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "large"
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 4096}))
    monkeypatch.setattr(adapters, "_inject", lambda *settings: pytest.fail("adapters of rank 4096 were made"))
    with pytest.raises(MimoError, match=r"lora_A.weight is \[4, \d+\], this model needs \[4096, "):
        MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=folder)


def test_the_files_of_an_adapter_are_for_whoever_may_read_others(adapter: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert all(path.stat().st_mode == plain.stat().st_mode for path in adapter.iterdir())
