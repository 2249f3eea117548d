"""How much memory a recipe needs on each device, told before anything is loaded.

Weights, gradients and optimizer follow from the numbers of parameters. Activations are what the layers keep for the
backward pass, by their formulas; what libraries and fragmentation take comes on top, about a tenth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from mimo_codec.common.checks import require
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.train.lm.flops import describe_flops, flops_per_position
from mimo_codec.train.lm.options import LanguageOptions
from mimo_codec.train.lm.parts import BACKBONE, PARTS, PATCH_DECODER, PATCH_ENCODER, part_of
from mimo_codec.train.lm.start import planned_shape

GIB = 2**30
OVERHEAD = 1.1
DEVICES = {"24 GB": 24e9, "48 GB": 48e9, "80 GB": 80e9, "141 GB": 141e9}
AUDIO_SHARE = 0.7
"""Share of the positions that are patches, of which the patch encoder and decoder keep activations."""


@dataclass(frozen=True)
class Setup:
    """What decides over memory, beside the model."""

    options: LanguageOptions
    max_positions: int
    """Positions of one forward pass."""
    num_devices: int = 1
    sharded: bool = False
    """Whether weights, gradients and optimizer are shared out among the devices (FSDP)."""
    narrow: bool = True
    """Whether activations are bfloat16 (trainer.precision bf16-mixed, or bf16-true)."""
    narrow_weights: bool = False
    """Whether weights, gradients and optimizer are bfloat16 too (trainer.precision bf16-true)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it, and what comes on top."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits)
        return OVERHEAD * sum(parts)


def count_parameters(config: LMConfig) -> dict[str, int]:
    """Count the parameters of each part of a model; NAME_matrices are those of them that Muon would train."""
    with torch.device("meta"):
        model = SpeechLanguageModel(config, 0)
    counts = dict.fromkeys((*PARTS, *(f"{part}_matrices" for part in PARTS)), 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
        if parameter.ndim == 2 and "layers." in name:
            counts[f"{part_of(name)}_matrices"] += parameter.numel()
    return counts


def adapter_parameters(config: LMConfig, rank: int, parts: Collection[str] = PARTS) -> int:
    """Count the parameters of adapters of a rank on q, k, v and o of the Transformers of these parts."""
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    shapes = {
        BACKBONE: (config.num_hidden_layers, config.hidden_size, queries, keys),
        PATCH_ENCODER: (config.input_local_layers, *3 * (config.input_local_dim,)),
        PATCH_DECODER: (config.local_layers, *3 * (config.local_dim,)),
    }
    chosen = (shapes[part] for part in parts)
    return sum(n * rank * (2 * (width + q) + 2 * (width + k)) for n, width, q, k in chosen)


def estimate(config: LMConfig, setup: Setup, counts: dict[str, int] | None = None) -> Memory:
    """Estimate what training takes on each device."""
    h = setup.options
    counts = counts or count_parameters(config)
    whole = sum(counts[part] for part in PARTS)
    adapters = adapter_parameters(config, h.lora_rank, h.trained)
    trained = adapters or sum(counts[part] for part in h.trained)
    weights = whole + adapters
    shares = setup.num_devices if setup.sharded else 1
    each = 2 if setup.narrow_weights else 4
    copy = 2 if setup.narrow and not setup.narrow_weights else 0  # that autocast makes
    matrices = adapters or sum(counts[f"{part}_matrices"] for part in h.trained)
    averages = 2 * trained - (h.matrix_learning_rate > 0) * matrices  # of which Muon keeps one, not two
    ddp = 1 if setup.sharded or setup.num_devices == 1 else 2  # buckets hold the gradients again
    return Memory(
        weights=(each + copy) * weights / shares,
        gradients=each * trained * ddp / shares,
        optimizer=(each if h.optimizer_bits == 32 else 1) * averages / shares,
        activations=_activations(config, setup),
        logits=_logits(config, setup),
    )


def _activations(config: LMConfig, setup: Setup) -> float:
    """Bytes that the layers of the three Transformers keep for the backward pass."""
    size = 2 if setup.narrow else 4
    patches = AUDIO_SHARE * setup.max_positions
    speaks = sum(setup.options.channel_weights) > 0
    steps = (config.group_size + max(config.delay_pattern)) * speaks
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    inside = config.input_local_dim
    stacks = [
        (config.num_hidden_layers, config.hidden_size, queries, keys, config.intermediate_size, setup.max_positions),
        (config.input_local_layers, inside, inside, inside, 4 * inside, patches * config.group_size),
        (
            config.local_layers,
            config.local_dim,
            config.local_dim,
            config.local_dim,
            config.local_ffn_dim,
            patches * steps,
        ),
    ]
    total = largest = 0.0
    for layers, width, q, k, ffn, positions in stacks:
        # both norms keep their input in float32 and give one output; q, k (before and after rotation), v, mixed
        # heads, gate, up, their product and its activation; two sums
        layer = positions * (size * (2 * width + 3 * q + 3 * k + 4 * ffn + 2 * width) + 4 * 2 * width)
        kept = positions * size * width
        total += layers * (kept if setup.options.checkpoint_layers else layer)
        largest = max(largest, layer)
    return total + largest * setup.options.checkpoint_layers


def _logits(config: LMConfig, setup: Setup) -> float:
    """Bytes of the logits that exist at once, in float32, with their softmax and gradient."""
    text = 3 * 4 * min(setup.options.chunk, setup.max_positions) * config.vocab_size
    speaks = sum(setup.options.channel_weights) > 0
    codes = AUDIO_SHARE * setup.max_positions * config.group_size * sum(config.speech_vocab_size) * speaks
    return text + 2 * 4 * codes


def plan(model: Any, data: Any, trainer: Any) -> str:
    """Say what a recipe of a language model needs, by the parsed configuration.

    Raises MimoError for recipes of other models.
    """
    require(model.class_path.endswith("LanguageModelStage"), "--plan is for recipes of language models")
    return describe(*setup_of(model.init_args.as_dict(), data.as_dict(), trainer.as_dict()))


def setup_of(
    arguments: Mapping[str, Any], data: Mapping[str, Any], trainer: Mapping[str, Any]
) -> tuple[LMConfig, Setup]:
    """Read what decides over memory from a recipe: arguments of the stage and the data, settings of the trainer."""
    own = {field.name for field in fields(LanguageOptions)}
    options = LanguageOptions(**{name: value for name, value in arguments.items() if name in own})
    config = planned_shape(arguments["model"], arguments.get("tokenizer"), arguments.get("config"))
    context, precision = config.max_position_embeddings, str(trainer["precision"])
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    return config, Setup(
        options,
        min(data.get("max_positions") or context, context),
        nodes * (devices if isinstance(devices, int) and devices > 0 else 1),
        "fsdp" in str(trainer["strategy"]).lower() or "Sharded" in str(trainer["strategy"]),
        precision.startswith("bf16"),
        precision == "bf16-true",
    )


# ---- what is printed -------------------------------------------------------------------------------------------------


def describe(config: LMConfig, setup: Setup) -> str:
    """Say what a recipe needs, and what less would need."""
    counts = count_parameters(config)
    memory = estimate(config, setup, counts)
    parts = ", ".join(f"{part} {counts[part] / 1e6:,.1f} M" for part in PARTS)
    names = ("weights", "gradients", "optimizer", "activations", "logits")
    lines = [f"parameters: {sum(counts[part] for part in PARTS) / 1e6:,.1f} M ({parts})", "memory per device:"]
    lines += [f"  {name:<12}{_shown(getattr(memory, name))}" for name in names]
    flops = flops_per_position(config, setup.options, counts, setup.max_positions, AUDIO_SHARE)
    lines += [f"  {'in all':<12}{_shown(memory.total)} (a tenth added)", describe_flops(flops), "with other settings:"]
    for setting, other in _others(setup):
        total = estimate(config, other, counts).total
        fitting = next((name for name, size in DEVICES.items() if total <= size), "none of these alone")
        lines.append(f"  {setting:<66}{_shown(total)}  fits: {fitting}")
    return "\n".join(lines)


def _others(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Settings that save memory, one after the other and together."""
    h = setup.options
    yield "as it is", setup
    saving = replace(setup, options=replace(h, checkpoint_layers=True))
    adapted = replace(saving, options=replace(saving.options, lora_rank=h.lora_rank or 16, matrix_learning_rate=0.0))
    yield "model.init_args.checkpoint_layers true", saving
    yield "  and model.init_args.optimizer_bits 8", replace(saving, options=replace(saving.options, optimizer_bits=8))
    small = replace(saving, options=replace(saving.options, optimizer_bits=8), narrow_weights=True)
    yield "  and both optimizer_bits 8 and trainer.precision bf16-true", small
    yield "  and trainer.strategy fsdp, 8 devices", replace(saving, sharded=True, num_devices=8)
    yield "  and model.init_args.lora_rank 16", adapted
    yield "  and both lora_rank 16 and trainer.precision bf16-true", replace(adapted, narrow_weights=True)


def _shown(size: float) -> str:
    return f"{size / GIB:9,.2f} GiB"
