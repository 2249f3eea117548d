"""The three parts of a language model, which stages train or leave alone, each with a learning rate of its own."""

from __future__ import annotations

from collections.abc import Collection

from mimo_codec.lm.model import SpeechLanguageModel

PATCH_ENCODER, BACKBONE, PATCH_DECODER = PARTS = ("patch_encoder", "backbone", "patch_decoder")
"""Codes -> patch embeddings; Qwen2 with its embeddings and head; seeds -> codes."""
_PREFIXES = {
    "speech_embeddings.": PATCH_ENCODER,
    "input_local_transformer.": PATCH_ENCODER,
    "speech_group_downcast.": PATCH_ENCODER,
    "model.": BACKBONE,
    "lm_head.": BACKBONE,
}


def part_of(name: str) -> str:
    """Return the part that a parameter of SpeechLanguageModel belongs to, by its name."""
    return next((part for prefix, part in _PREFIXES.items() if name.startswith(prefix)), PATCH_DECODER)


def train_only(model: SpeechLanguageModel, trained: Collection[str]) -> None:
    """Let gradients reach these parts and no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in trained)
