"""Features [B, T, D] <-> codes [B, Q, T]: residual vector quantization on vector-quantize-pytorch.

The library holds the codebooks and their training (k-means start, moving averages, revival of dead entries); looking up
nearest entries is done here, always in float32 and for any prefix of the codebooks.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ

from mimo_codec.config import QuantizerConfig
from mimo_codec.errors import MimoError
from mimo_codec.precision import Float32Module


class QuantizerOutput(NamedTuple):
    """What training needs of one pass: quantized [B, T, D] (straight-through), codes [B, Q, T], commitment []."""

    quantized: Tensor
    codes: Tensor
    commitment: Tensor


class ResidualQuantizer(Float32Module):
    """Residual nearest neighbours (Euclidean), no projections; codes decode to the sum of the chosen rows."""

    def __init__(self, config: QuantizerConfig, dim: int, decay: float = 0.99):
        super().__init__()
        self.config, self.dim = config, dim
        self.vq = ResidualVQ(
            dim=dim, num_quantizers=config.num_quantizers, codebook_size=config.codebook_sizes,
            threshold_ema_dead_code=config.threshold_ema_dead_code, decay=decay, rotation_trick=False,
        )  # fmt: skip

    def codebook(self, index: int) -> Tensor:
        """Entries of one codebook: [size, D] float32."""
        return self.vq.layers[index]._codebook.embed[0]

    def fingerprint(self) -> str:
        """Eight hex digits that name these codebooks: codes mean the same wherever they are equal."""
        digest = hashlib.sha256()
        for index in range(self.config.num_quantizers):
            digest.update(self.codebook(index).detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def check_count(self, num_quantizers: int) -> None:
        """MimoError unless 1 <= num_quantizers <= Q."""
        is_integer = isinstance(num_quantizers, (int, np.integer)) and not isinstance(num_quantizers, bool)
        if not is_integer or not 1 <= num_quantizers <= self.config.num_quantizers:
            most = self.config.num_quantizers
            raise MimoError(f"num_quantizers = {num_quantizers!r}: this model has {most} codebooks, ask for 1..{most}")

    @torch.no_grad()
    def encode(self, features: Tensor, num_quantizers: int) -> Tensor:
        """features [..., T, D] -> codes [..., Q, T] int64 of the first `num_quantizers` codebooks, in float32."""
        self.check_count(num_quantizers)
        if not bool(features.isfinite().all()):
            raise MimoError("features: NaN or infinite values; the samples are too large or the weights damaged")
        codes = []
        with torch.autocast(features.device.type, enabled=False):
            residual = features.float()
            for index in range(num_quantizers):
                entries = self.codebook(index)
                # |x|^2 is the same for every entry, so it is left out of the distance
                distance = entries.square().sum(-1) - 2 * residual @ entries.T
                chosen = distance.argmin(-1)
                residual = residual - entries[chosen]
                codes.append(chosen)
        return torch.stack(codes, dim=-2)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [..., Q, T] -> quantized [..., T, D] float32, for any prefix of the codebooks."""
        rows = [self.codebook(index)[chosen] for index, chosen in enumerate(codes.unbind(-2))]
        return torch.stack(rows).sum(0)

    def forward(self, features: Tensor, num_quantizers: int | None = None) -> QuantizerOutput:
        """Training pass: features [B, T, D]; updates the codebooks in training mode.

        The commitment loss is the mean over codebooks of the squared distance between a residual and its entry
        (van den Oord et al. 2017, equation 3); gradients reach the features straight through.
        """
        quantized = torch.zeros_like(features, dtype=torch.float32)
        codes, losses = [], []
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            for layer in self.vq.layers[:num_quantizers]:
                residual = features - quantized
                with torch.no_grad():
                    entry, chosen, _ = layer(residual.detach())
                losses.append((residual - entry).square().mean())
                quantized = quantized + entry
                codes.append(chosen)
        straight = features + (quantized - features).detach()
        return QuantizerOutput(straight, torch.stack(codes, dim=-2), torch.stack(losses).mean())

    @property
    def fitted(self) -> bool:
        """False until the codebooks have been started (or loaded)."""
        return all(bool(layer._codebook.initted) for layer in self.vq.layers)

    def forget(self) -> None:
        """Mark the codebooks as not started, before training them."""
        for layer in self.vq.layers:
            layer._codebook.initted.fill_(False)

    @torch.no_grad()
    def fit(self, features: Tensor, num_per_step: int) -> None:
        """K-means start: features [N, D] -> all codebooks, each fitted to what the ones before it leave over.

        num_per_step: vectors that a training step will bring; the moving averages start as if after many such steps,
        so that the codebooks follow the encoder at once.
        """
        self.forget()
        residual = features.float()
        for index, layer in enumerate(self.vq.layers):
            codebook = layer._codebook
            codebook.init_embed_(residual[None])
            codebook.cluster_size.mul_(num_per_step / len(residual))
            codebook.embed_avg.mul_(num_per_step / len(residual))
            entries = self.codebook(index)
            residual = residual - entries[(entries.square().sum(-1) - 2 * residual @ entries.T).argmin(-1)]
