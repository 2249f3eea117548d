"""How many floating-point operations training takes, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from mimo_codec.lm.config import LMConfig
from mimo_codec.train.lm.options import LanguageOptions
from mimo_codec.train.lm.parts import BACKBONE, PATCH_DECODER, PATCH_ENCODER

DEVICE_FLOPS = 300e12
"""Operations per second of the device that times are told for: a third of what an H100 can do in bfloat16."""


def flops_per_position(
    config: LMConfig, options: LanguageOptions, counts: Mapping[str, int], num_positions: int, audio_share: float
) -> float:
    """Floating-point operations that a step takes for each position, forward and backward.

    A weight takes two of them in the forward pass, and four in the backward pass, two of which are for the gradients of
    weights (Kaplan et al. 2020, section 2.1); attention comes on top, half of it masked.

    Args:
        config: of the model.
        options: which weights are trained, and whether layers are computed twice.
        counts: parameters of each part, from `count_parameters`.
        num_positions: of one forward pass.
        audio_share: share of the positions that are patches.
    """
    speaks = sum(options.channel_weights) > 0
    group, steps = config.group_size, config.group_size + max(config.delay_pattern)
    head = config.vocab_size * config.hidden_size
    tables = 0 if config.tie_word_embeddings else head  # only looked up
    code_tables, code_heads = (sum(config.speech_vocab_size) * d for d in (config.input_local_dim, config.local_dim))
    layers = {
        BACKBONE: counts[BACKBONE] - tables - head,
        PATCH_ENCODER: audio_share * group * (counts[PATCH_ENCODER] - code_tables),
        PATCH_DECODER: audio_share * speaks * steps * (counts[PATCH_DECODER] - code_heads),
    }
    heads = {BACKBONE: head, PATCH_DECODER: audio_share * speaks * group * code_heads}
    width = config.num_attention_heads * config.head_dim
    attention = {BACKBONE: config.num_hidden_layers * width * num_positions}
    total = 0.0
    for part, weights in layers.items():
        passes = 2 + (part in options.trained and not options.lora_rank)
        total += 2 * passes * heads.get(part, 0)
        total += 2 * (passes + options.checkpoint_layers) * (weights + attention.get(part, 0))
    return total


def describe_flops(per_position: float) -> str:
    """Say what a million positions take."""
    seconds = 1e6 * per_position / DEVICE_FLOPS
    return (
        f"a million positions: {1e6 * per_position / 1e15:,.1f} PFLOP, which take {_duration(seconds)} at"
        f" {DEVICE_FLOPS / 1e12:.0f} TFLOP/s (a third of an H100's)"
    )


def _duration(seconds: float) -> str:
    for unit, size, most in (("s", 1, 100), ("min", 60, 6000)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"
