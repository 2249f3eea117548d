"""What --plan says of memory and work is near what a step takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the lm extra")

import yaml
from conftest import GOLDEN, ROOT
from torch.utils.flop_counter import FlopCounterMode

from mimo_codec.benchmarks.lm_training import random_pack
from mimo_codec.train.lm import memory as planned
from mimo_codec.train.lm.flops import describe_flops, flops_per_position
from mimo_codec.train.lm.losses import total_loss
from mimo_codec.train.lm.memory import Setup, adapter_parameters, count_parameters, estimate
from mimo_codec.train.lm.parts import BACKBONE, PARTS, PATCH_ENCODER
from mimo_codec.train.lm.stages import LanguageModelStage
from mimo_codec.train.optimizer import MuonAdamW, make_optimizer

BASE = str(GOLDEN / "lm_base")
POSITIONS = 512
SHARE = 5 / 8
"""Of the positions of a random pack that are patches."""


def make(**options: Any) -> LanguageModelStage:
    torch.manual_seed(0)
    return LanguageModelStage(BASE, codec=None, **options)


def make_small(**options: Any) -> LanguageModelStage:
    """The recipe's model, in which layers outweigh logits as they do in large ones."""
    content = yaml.safe_load((ROOT / "recipes" / "lm_small.yaml").read_text())
    return LanguageModelStage(**{**content["model"]["init_args"], "codec": None, **options})


def step(stage: LanguageModelStage) -> tuple[int, int]:
    """One step in float32 -> bytes that were kept for the backward pass, and operations."""
    h, pack = stage.options, random_pack(stage.layout, POSITIONS, POSITIONS)
    weights = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            terms = stage.network(pack)
            loss = total_loss(terms.sums, terms.counts, (h.text_weight, *h.channel_weights))
        loss.backward()
    return sum(kept.values()), counter.get_total_flops()


def trained(stage: LanguageModelStage) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in stage.language_model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize(
    "options",
    [{}, {"trained": [PATCH_ENCODER, BACKBONE]}, {"matrix_learning_rate": 1e-3}, {"checkpoint_layers": True}],
    ids=["all", "two parts", "Muon", "checkpointed"],
)
def test_weights_gradients_and_averages_are_counted_exactly(options: dict[str, Any]) -> None:
    stage = make(**options)
    h, parameters = stage.options, trained(stage)
    memory = estimate(stage.language_model.config, Setup(h, POSITIONS, narrow=False))
    optimizer = make_optimizer(parameters, h.matrix_learning_rate, h.learning_rate, h.weight_decay, h.betas)
    step(stage)
    optimizer.step()
    assert memory.weights == sum(p.nbytes for p in stage.language_model.parameters())
    assert memory.gradients == sum(p.grad.nbytes for _, p in parameters if p.grad is not None)
    inner = optimizer.parts if isinstance(optimizer, MuonAdamW) else [optimizer]
    averages = [v for part in inner for s in part.state.values() for v in s.values() if torch.is_tensor(v) and v.ndim]
    assert memory.optimizer == pytest.approx(sum(v.nbytes for v in averages), rel=0.02)


@pytest.mark.parametrize("parts", [PARTS, [BACKBONE], [PATCH_ENCODER, BACKBONE]])
def test_adapters_are_counted_exactly(parts: list[str]) -> None:
    pytest.importorskip("peft", reason="needs the lora extra")
    stage = make(trained=list(parts), lora_rank=4)
    config, counted = stage.language_model.config, sum(p.numel() for _, p in trained(stage))
    assert adapter_parameters(config, 4, parts) == counted
    memory = estimate(config, Setup(stage.options, POSITIONS, narrow=False))
    assert memory.weights == sum(p.nbytes for p in stage.language_model.parameters())
    assert memory.gradients == 4 * counted and memory.optimizer == 8 * counted
    muon = estimate(config, Setup(replace(stage.options, matrix_learning_rate=1e-3), POSITIONS, narrow=False))
    assert muon.optimizer == 4 * counted


@pytest.mark.parametrize("options", [{}, {"channel_weights": [0] * 8, "trained": [PATCH_ENCODER, BACKBONE]}])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_activations_and_work_are_near_what_a_step_takes(
    options: dict[str, Any], checkpoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned, "AUDIO_SHARE", SHARE)
    stage = make_small(checkpoint_layers=checkpoint, **options)
    config, counts = stage.language_model.config, count_parameters(stage.language_model.config)
    memory = estimate(config, Setup(stage.options, POSITIONS, narrow=False), counts)
    kept, operations = step(stage)
    work = (
        flops_per_position(config, stage.options, counts, 0, SHARE) * POSITIONS
    )  # the counter knows no attention on CPUs
    print(f"bytes {memory.activations:.3g} of {kept:.3g}, operations {work:.3g} of {operations:.3g}")
    if checkpoint:  # the largest layer is kept only while it is computed again
        whole = replace(stage.options, checkpoint_layers=False)
        assert kept < memory.activations < 0.5 * estimate(config, Setup(whole, POSITIONS, narrow=False)).activations
    else:
        assert memory.activations == pytest.approx(kept, rel=0.1)
    assert work == pytest.approx(operations, rel=0.15)


def test_work_is_told_in_units_that_people_read() -> None:
    assert "3 s at" in describe_flops(1e9) and "6 min at" in describe_flops(1e11) and "2.8 h at" in describe_flops(3e12)
