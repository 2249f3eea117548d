"""What every quantizer is: features [B, T, D] <-> codes [B, Q, T], for any prefix of its Q codebooks.

`Quantizer` is the contract. The kinds of quantizers, such as residual vector quantization (`residual_vq`), are its
subclasses; `mimo_codec.codec.choices` lists them, and `make_quantizer` makes the one that a configuration asks for.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.codec.choices import QUANTIZERS, QuantizerConfig, find_class
from mimo_codec.codec.precision import Float32Module
from mimo_codec.codec.remembered import remembered
from mimo_codec.common.errors import MimoError


class QuantizerOutput(NamedTuple):
    """What training needs of one pass with q codebooks."""

    quantized: Tensor
    """[B, T, D]: what the codes decode to; gradients pass straight through the choice of the entries."""
    codes: Tensor
    """[B, q, T] int64."""
    latents: Tensor
    """[B, T, d]: what the codebooks approximate. The commitment loss pulls it to `partial`; without gradients where the
    codebooks are fixed, for then there is nothing to commit to."""
    partial: Tensor
    """[q, B, T, d]: sums of the entries of the first 1 .. q codebooks, without gradients."""


class Quantizer(Float32Module, ABC):
    """Codebooks that approximate a frame one after another: each codes what the ones before it leave over.

    Features are first projected to latents, which the entries of the codebooks add up to; the sum is projected back. A
    subclass says what the entries are and which one is taken; encoding and decoding are written here, once, in float32
    whatever the dtype of the features. Both work on meta tensors and can be exported.
    """

    trains_codebooks = True
    """Whether the entries follow the features in training; False where they are fixed."""

    def __init__(self, config: QuantizerConfig, dim: int):
        """dim: width D of the features."""
        super().__init__()
        self.config, self.dim = config, dim

    # ---- what a subclass says ------------------------------------------------------------------------------------

    @abstractmethod
    def codebook(self, index: int) -> Tensor:
        """Entries of one codebook: [size, d] float32."""

    @abstractmethod
    def choose(self, residual: Tensor, index: int) -> Tensor:
        """Residual [..., d] float32 -> number [...] int64 of the entry of a codebook that approximates it."""

    def project_in(self, features: Tensor) -> Tensor:
        """Features [..., D] float32 -> latents [..., d]. They are the same unless a subclass projects."""
        return features

    def project_out(self, latents: Tensor) -> Tensor:
        """Latents [..., d] -> [..., D] float32. They are the same unless a subclass projects."""
        return latents

    # ---- training of the codebooks; for fixed ones there is nothing to do ----------------------------------------

    @property
    def is_initialized(self) -> bool:
        """False for codebooks that still have to be initialized before anything can be quantized."""
        return True

    def reset(self) -> None:
        """Mark the codebooks as not initialized, before training them from scratch."""

    def initialize(self, features: Tensor, num_per_step: int) -> None:
        """Initialize the codebooks from features [N, D] of this process.

        num_per_step: vectors that a training step will bring, all processes together.
        """

    def collect(self, features: Tensor, output: QuantizerOutput, mask: Tensor | None = None) -> None:
        """Add a batch to what the next `update` counts: features [B, T, D] and what `forward` gave for them.

        mask: bool [B, T], False on padding. Neither padding nor values that are not finite count.
        """

    def update(self) -> None:
        """Move the codebooks by one step, to all that was collected since the last one in all processes."""

    def discard(self) -> None:
        """Drop what was collected since the last `update`."""

    # ---- written once --------------------------------------------------------------------------------------------

    @property
    def num_weights(self) -> int:
        """Numbers in the codebooks, or in the projections where the codebooks are fixed."""
        entries = sum(self.config.codebook_sizes) * self.dim if self.trains_codebooks else 0
        return entries + sum(parameter.numel() for parameter in self.parameters())

    def fingerprint(self) -> str:
        """Eight hex digits that name the codebooks and projections: codes mean the same wherever they are equal.

        It is computed again only after a weight has changed, see `remembered`.
        """
        weights = [
            weight
            for module in self.modules()
            for weight in (*module._buffers.values(), *module._parameters.values())
            if weight is not None
        ]
        return remembered(self, weights, self._compute_fingerprint)

    def _compute_fingerprint(self) -> str:
        digest = hashlib.sha256()
        codebooks = (self.codebook(index) for index in range(self.config.num_quantizers))
        for tensor in (*codebooks, *self.parameters()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    @torch.no_grad()
    def encode(self, features: Tensor, num_quantizers: int) -> Tensor:
        """Features [..., T, D] -> codes [..., q, T] int64 of the first `num_quantizers` codebooks.

        Raises MimoError for features that are not finite.
        """
        if not bool(features.isfinite().all()):
            raise MimoError("features: NaN or infinite values; the samples are too large or the weights damaged")
        with torch.autocast(features.device.type, enabled=False):
            codes, _ = self.approximate(self.project_in(features.float()), num_quantizers)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [..., q, T] of the first q codebooks -> quantized [..., T, D] float32."""
        rows = [self.codebook(index)[chosen] for index, chosen in enumerate(codes.unbind(-2))]
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(torch.stack(rows).sum(0))

    def approximate(self, latents: Tensor, num_quantizers: int) -> tuple[Tensor, Tensor]:
        """Latents [..., T, d] -> codes [..., q, T] and partial sums of their entries [q, ..., T, d]."""
        codes: list[Tensor] = []
        sums: list[Tensor] = []
        residual = latents
        for index in range(num_quantizers):
            chosen = self.choose(residual, index)
            entries = F.embedding(chosen, self.codebook(index))
            residual = residual - entries
            codes.append(chosen)
            sums.append(sums[-1] + entries if sums else entries)
        return torch.stack(codes, dim=-2), torch.stack(sums)

    def forward(self, features: Tensor, num_quantizers: int | None = None) -> QuantizerOutput:
        """Training pass over features [B, T, D] with the first `num_quantizers` codebooks (None: all).

        Nothing changes: the codebooks count a batch by `collect`, and move when `update` is called.
        """
        with torch.autocast(features.device.type, enabled=False):
            latents = self.project_in(features.float())
            with torch.no_grad():
                codes, partial = self.approximate(latents, num_quantizers or self.config.num_quantizers)
            quantized = self.project_out(latents + (partial[-1] - latents).detach())
        return QuantizerOutput(quantized, codes, latents if self.trains_codebooks else latents.detach(), partial)


def make_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """The quantizer of features of width `dim` that a configuration asks for, with weights as before training."""
    kind = cast("type[Quantizer]", find_class(QUANTIZERS, config))
    return kind(config, dim)
