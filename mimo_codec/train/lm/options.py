"""Options of the stages of language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mimo_codec.common.checks import check_choice, check_integer, check_number, require
from mimo_codec.train.lm.losses import CHANNEL_WEIGHTS, EMPTY_WEIGHT, TEXT_WEIGHT
from mimo_codec.train.lm.parts import PARTS, PATCH_DECODER

SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class LossOptions:
    """What counts how much (arXiv 2512.23808, table 3).

    Args:
        text_weight: of the text in the loss.
        channel_weights: of the codes of each channel; all 0: the patch decoder is not run.
        empty_weight: of the text token under which audio stands, as a target.
    """

    text_weight: float = TEXT_WEIGHT
    channel_weights: Sequence[float] = CHANNEL_WEIGHTS
    empty_weight: float = EMPTY_WEIGHT

    def __post_init__(self) -> None:
        """Check that something counts."""
        for weight in (self.text_weight, self.empty_weight, *self.channel_weights):
            check_number("a weight of the loss", weight, 0, 1e9)
        require(self.text_weight + sum(self.channel_weights) > 0, "text_weight and channel_weights: all are 0")


@dataclass(frozen=True)
class RateOptions:
    """Learning rates over a run, and what they are of.

    Args:
        trained: parts that are trained: patch_encoder, backbone, patch_decoder.
        learning_rate: peak of the backbone.
        patch_encoder_learning_rate: peak of the patch encoder; null: that of the backbone.
        patch_decoder_learning_rate: peak of the patch decoder; null: that of the backbone.
        matrix_learning_rate: peak of Muon for the matrices of all Transformers, where the rates above are AdamW's of
            the rest, and the parts keep their proportions; 0: AdamW for everything.
        schedule: "constant", "cosine" to a tenth of the peak, or "linear" to zero over the last share of a run.
        warmup_share: of a run, in which rates rise from zero.
        decay_share: of a run, in which a linear schedule falls.
        weight_decay: of matrices.
        betas: of AdamW.
    """

    trained: Sequence[str] = PARTS
    learning_rate: float = 1e-5
    patch_encoder_learning_rate: float | None = None
    patch_decoder_learning_rate: float | None = None
    matrix_learning_rate: float = 0.0
    schedule: str = "cosine"
    warmup_share: float = 0.01
    decay_share: float = 0.5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        """Check what only some values make sense for."""
        check_choice("schedule", self.schedule, SCHEDULES)
        check_number("learning_rate", self.learning_rate, 1e-12, 10)
        for rate in (self.patch_encoder_learning_rate, self.patch_decoder_learning_rate):
            check_number("a learning rate of a part", self.learning_rate if rate is None else rate, 0, 10)
        check_number("matrix_learning_rate", self.matrix_learning_rate, 0, 10)
        check_number("weight_decay", self.weight_decay, 0, 10)
        for part in self.trained:
            check_choice("trained", part, PARTS)
        require(self.trained, f"trained: at least one of {', '.join(PARTS)} is needed")
        for beta in self.betas:
            check_number("betas", beta, 0, 1 - 1e-12)
        check_number("warmup_share", self.warmup_share, 0, 1)
        check_number("decay_share", self.decay_share, 0, 1)


@dataclass(frozen=True)
class AdapterOptions:
    """Low-rank adapters (LoRA, by peft) on q, k, v and o of all three Transformers, instead of the weights.

    Args:
        lora_rank: of the adapters; 0: none, the weights are trained.
        lora_alpha: an adapter counts lora_alpha / lora_rank.
        lora_dropout: share of its inputs that an adapter leaves out in training.
    """

    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_integer("lora_rank", self.lora_rank, 0, 4096)
        check_number("lora_alpha", self.lora_alpha, 0, 1e6)
        check_number("lora_dropout", self.lora_dropout, 0, 0.99)


@dataclass(frozen=True)
class MemoryOptions:
    """What takes memory or saves it.

    Args:
        checkpoint_layers: compute layers again in the backward pass instead of keeping what they hold.
        attention_dropout: share of the attention weights that is left out in training.
        chunk: text predictions whose logits are in memory at once.
        optimizer_bits: of AdamW's averages of gradients: 32, or 8 by torchao (extra quantize).
        clip_norm: largest norm of the gradients; 0: no limit.
        max_non_finite: after so many steps in a row whose loss or gradients are not finite, training stops.
    """

    checkpoint_layers: bool = False
    attention_dropout: float = 0.0
    chunk: int = 256
    optimizer_bits: int = 32
    clip_norm: float = 1.0
    max_non_finite: int = 10

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_integer("chunk", self.chunk, 1)
        check_choice("optimizer_bits", self.optimizer_bits, (8, 32))
        check_number("clip_norm", self.clip_norm, 0, 1e12)
        check_integer("max_non_finite", self.max_non_finite, 1)
        check_number("attention_dropout", self.attention_dropout, 0, 0.99)


@dataclass(frozen=True)
class LanguageOptions(LossOptions, RateOptions, AdapterOptions, MemoryOptions):
    """Options of a stage of a language model."""

    def __post_init__(self) -> None:
        """Check all groups."""
        for group in (LossOptions, RateOptions, AdapterOptions, MemoryOptions):
            group.__post_init__(self)
        speaks = sum(self.channel_weights) > 0
        require(
            speaks or PATCH_DECODER not in self.trained, "trained: without channel_weights no patch_decoder is trained"
        )
