"""Residual finite scalar quantization: fixed grids of a few numbers, each finer than the one before.

Mentzer et al. 2023 (FSQ, arXiv 2309.15505), with the symmetric levels of Parker et al. 2024 (arXiv 2411.19842) and the
scales of ResidualFSQ in vector-quantize-pytorch, which the tests compare with. The arithmetic is written out here, so
that codes keep their meaning whatever release of that library is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimo_codec.codec.choices import ResidualFSQConfig
from mimo_codec.codec.quantizer import Quantizer


class ResidualFSQ(Quantizer):
    """Features are projected to d numbers between -1 and 1, and each of them is rounded to one of a few levels.

    Codebook i has the same grid as the first, made smaller by levels ** i. The grids are fixed; the two projections are
    trained by gradients, which pass straight through the rounding.
    """

    trains_codebooks = False
    levels: Tensor
    """[d]: how many levels each number has."""
    places: Tensor
    """[d]: what a step of each number adds to a code."""
    grid: Tensor
    """[size, d]: the entries of the first codebook."""

    def __init__(self, config: ResidualFSQConfig, dim: int):
        """Projections of features of width `dim`, with random weights."""
        super().__init__(config, dim)
        levels = torch.tensor(config.fsq_levels)
        places = torch.cat((torch.ones(1, dtype=torch.int64), levels[:-1].cumprod(0)))
        steps = torch.arange(config.codebook_sizes[0])[:, None] // places % levels
        self.register_buffer("levels", levels.float(), persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("grid", 2 * steps.float() / (levels - 1) - 1, persistent=False)
        self.in_proj = nn.Linear(dim, len(levels))
        self.out_proj = nn.Linear(len(levels), dim)

    def project_in(self, features: Tensor) -> Tensor:
        """Features [..., D] float32 -> latents [..., d], bounded by half a step beyond -1 and 1."""
        bound = 1 + 1 / (self.levels - 1)
        latents: Tensor = bound * (self.in_proj(features) / bound).tanh()
        return latents

    def project_out(self, latents: Tensor) -> Tensor:
        """Latents [..., d] -> [..., D] float32."""
        features: Tensor = self.out_proj(latents)
        return features

    def codebook(self, index: int) -> Tensor:
        """Entries of one codebook: [size, d] float32."""
        return self.grid * self.levels**-index

    def choose(self, residual: Tensor, index: int) -> Tensor:
        """Residual [..., d] float32 -> number [...] int64 of the nearest entry of a codebook."""
        scaled = (residual * self.levels**index).clamp(-1, 1)
        steps = ((scaled + 1) * (self.levels - 1) / 2 + 0.5).floor()
        return (steps.long() * self.places).sum(-1)
