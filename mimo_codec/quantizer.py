"""Features [B, T, D] <-> codes [B, Q, T]: residual vector quantization on vector-quantize-pytorch.

The library holds the codebooks and their training (k-means start, moving averages, revival of dead entries); looking up
nearest entries is done here, always in float32 and for any prefix of the codebooks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from mimo_codec.config import QuantizerConfig
from mimo_codec.errors import MimoError


class QuantizerOutput(NamedTuple):
    """What training needs of one pass: quantized [B, T, D] (straight-through), codes [B, Q, T], commitment []."""

    quantized: Tensor
    codes: Tensor
    commitment: Tensor


class ResidualQuantizer(nn.Module):
    """Residual nearest neighbours (Euclidean), no projections; codes decode to the sum of the chosen rows."""

    def __init__(self, config: QuantizerConfig, dim: int, decay: float = 0.99, kmeans_init: bool = False):
        super().__init__()
        self.config, self.dim = config, dim
        self.vq = ResidualVQ(
            dim=dim, num_quantizers=config.num_quantizers, codebook_size=config.codebook_sizes,
            threshold_ema_dead_code=config.threshold_ema_dead_code, decay=decay, kmeans_init=kmeans_init,
            rotation_trick=False,
        )  # fmt: skip

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves between devices, but keeps float32 when the rest of a model becomes bfloat16 or float16."""
        return super()._apply(lambda t: t.to(fn(t).device) if t.is_floating_point() else fn(t), recurse)

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
        if not isinstance(num_quantizers, int) or not 1 <= num_quantizers <= self.config.num_quantizers:
            most = self.config.num_quantizers
            raise MimoError(f"num_quantizers = {num_quantizers!r}: this model has {most} codebooks, ask for 1..{most}")

    @torch.no_grad()
    def encode(self, features: Tensor, num_quantizers: int) -> Tensor:
        """features [..., T, D] -> codes [..., Q, T] int64 of the first `num_quantizers` codebooks, in float32."""
        self.check_count(num_quantizers)
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

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """K-means start: features [N, D] -> all codebooks, each fitted to what the ones before it leave over."""
        residual = features.float()
        for index, layer in enumerate(self.vq.layers):
            codebook = layer._codebook
            codebook.initted.fill_(False)
            codebook.init_embed_(residual[None])
            share = len(residual) / codebook.cluster_size.sum().clamp(min=1)
            codebook.cluster_size.mul_(share)
            entries = self.codebook(index)
            residual = residual - entries[(entries.square().sum(-1) - 2 * residual @ entries.T).argmin(-1)]
