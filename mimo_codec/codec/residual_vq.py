"""Residual vector quantization: learned codebooks of vectors, of which the nearest is taken.

The codebooks are not trained by gradients but follow the features by moving averages (van den Oord et al. 2017,
appendix A.1), from a k-means start; entries that are hardly used are replaced. Padding counts nowhere, and the result
is the same in one process as in several that share a batch, and in one batch as in several whose gradients are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed, nn

from mimo_codec.codec.choices import ResidualVQConfig
from mimo_codec.codec.quantizer import Quantizer, QuantizerOutput
from mimo_codec.codec.remembered import remembered
from mimo_codec.common.processes import gather_from_processes, num_processes, sum_over_processes

K_MEANS_STEPS = 10
MIN_SQUARE = 1e-8
"""Squared distances below it count as equal in k-means: they are rounding."""
SMOOTHING = 1e-5
"""Added to every count of uses before sums are divided by it (Laplace smoothing)."""


@dataclass
class _Statistics:
    """What one codebook counts in the batches of a step."""

    counts: Tensor
    """[size]: vectors that chose each entry."""
    sums: Tensor
    """[size, D]: their sums."""
    sample: Tensor
    """[N, D]: vectors drawn from all batches, in random order, at most `size` of them."""

    @classmethod
    def empty_like(cls, entries: Tensor) -> _Statistics:
        """Entries [size, D]."""
        return cls(entries.new_zeros(len(entries)), torch.zeros_like(entries), entries[:0])

    def add(self, vectors: Tensor, chosen: Tensor) -> None:
        """Vectors [N, D] and the number of the entry that each chose, [N]."""
        self.counts.index_add_(0, chosen, torch.ones_like(vectors[:, 0]))
        self.sums.index_add_(0, chosen, vectors)
        vectors = torch.cat((self.sample, vectors))
        self.sample = vectors[torch.randperm(len(vectors))[: len(self.counts)].to(vectors.device)]


class Codebook(nn.Module):
    """Entries and their moving averages, under the names that vector-quantize-pytorch and the released files use."""

    initted: Tensor
    """[] bool: whether the entries have been initialized (or loaded)."""
    cluster_size: Tensor
    """[1, size]: moving average of how often each entry is chosen in a step."""
    embed_avg: Tensor
    """[1, size, D]: moving average of the sum of the vectors that choose each entry."""
    embed: Tensor
    """[1, size, D]: the entries."""

    def __init__(self, size: int, dim: int, decay: float, dead_below: float):
        """decay: of the moving averages, per step. dead_below: entries chosen less often are replaced."""
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        embed = nn.init.kaiming_uniform_(torch.empty(1, size, dim, dtype=torch.float32))
        self.register_buffer("initted", torch.tensor(True))
        self.register_buffer("cluster_size", torch.ones(1, size, dtype=torch.float32))
        self.register_buffer("embed_avg", embed.clone())
        self.register_buffer("embed", embed)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors [..., D] float32 -> number [...] of the nearest entry (Euclidean)."""
        entries = self.embed[0]
        squares = remembered(self, [self.embed], lambda: entries.square().sum(-1))
        # |x|^2 is the same for every entry, so it is left out of the distance
        return (squares - 2 * vectors @ entries.T).argmin(-1)

    def initialize(self, vectors: Tensor, num_per_step: int) -> None:
        """K-means of vectors [N, D]; averages start as if after many steps with `num_per_step` of them.

        With several processes, all take the result of the first one.
        """
        means, counts = k_means(vectors, self.embed.shape[1])
        self.embed_avg[0] = means * counts[:, None]
        self.cluster_size[0] = counts
        self._average()
        self.initted.fill_(True)
        for statistic in (self.embed, self.embed_avg, self.cluster_size):
            if num_processes() > 1:
                distributed.broadcast(statistic, 0)
        self.cluster_size.mul_(num_per_step / len(vectors))
        self.embed_avg.mul_(num_per_step / len(vectors))

    def update(self, statistics: _Statistics) -> None:
        """One step of the moving averages; then entries that are hardly used are replaced."""
        sum_over_processes(statistics.counts)
        sum_over_processes(statistics.sums)
        share = (1 - self.decay) * (statistics.counts.sum() > 0)  # nothing but padding leaves no trace
        self.cluster_size[0].lerp_(statistics.counts, share)
        self.embed_avg[0].lerp_(statistics.sums, share)
        self._average()
        self._replace_dead(statistics.sample)

    def _average(self) -> None:
        """Entries are sums divided by counts."""
        total = self.cluster_size.sum(-1, keepdim=True)
        smoothed = (self.cluster_size + SMOOTHING) / (total + self.cluster_size.shape[1] * SMOOTHING) * total
        self.embed.copy_(self.embed_avg / smoothed[..., None])

    def _replace_dead(self, sample: Tensor) -> None:
        """Replace entries that are hardly used by vectors of the batch: sample [N, D], in random order.

        Every process gives equally many vectors, all make the same choice, and where there are fewer vectors than dead
        entries, chance decides which entries are replaced.
        """
        dead = (self.cluster_size[0] < self.dead_below).nonzero()[:, 0]
        if len(dead) == 0:
            return
        vectors = gather_from_processes(sample).transpose(0, 1).flatten(0, 1)[: len(dead)]
        order = torch.randperm(len(dead)).to(dead.device)
        if num_processes() > 1:
            distributed.broadcast(order, 0)
        replaced = dead[order[: len(vectors)]]
        self.embed[0][replaced] = vectors
        self.cluster_size[0][replaced] = self.dead_below
        self.embed_avg[0][replaced] = vectors * self.dead_below


def k_means(vectors: Tensor, num_means: int) -> tuple[Tensor, Tensor]:
    """Vectors [N, D] -> means [num_means, D] and how many vectors are nearest to each, [num_means].

    The means start at vectors drawn at random, each only once if there are enough. Means that no vector is nearest to
    stay where they are.
    """
    if len(vectors) >= num_means:
        drawn = torch.randperm(len(vectors), device=vectors.device)[:num_means]
    else:
        drawn = torch.randint(0, len(vectors), (num_means,), device=vectors.device)
    means, counts = vectors[drawn], vectors.new_zeros(num_means)
    for _ in range(K_MEANS_STEPS):
        distances = vectors.square().sum(1)[:, None] + means.square().sum(1) - 2 * vectors @ means.T
        nearest = distances.clamp(min=MIN_SQUARE).sqrt().argmin(-1)
        counts = torch.bincount(nearest, minlength=num_means)
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return means, counts


class _Layer(nn.Module):
    def __init__(self, codebook: Codebook):
        super().__init__()
        self._codebook = codebook


class _Layers(nn.Module):
    """Gives the codebooks the names that the released files have: `layers.N._codebook`."""

    def __init__(self, codebooks: list[Codebook]):
        super().__init__()
        self.layers = nn.ModuleList(map(_Layer, codebooks))


class ResidualVQ(Quantizer):
    """Residual nearest neighbours (Euclidean), no projections; codes decode to the sum of the chosen entries."""

    def __init__(self, config: ResidualVQConfig, dim: int, decay: float = 0.99):
        """decay: of the codebooks' moving averages, per step."""
        super().__init__(config, dim)
        threshold = config.threshold_ema_dead_code
        self.vq = _Layers([Codebook(size, dim, decay, threshold) for size in config.codebook_sizes])
        self._collected: dict[int, _Statistics] = {}

    @property
    def codebooks(self) -> list[Codebook]:
        """All codebooks with their training state, the first one first."""
        return [cast(_Layer, layer)._codebook for layer in self.vq.layers]

    def codebook(self, index: int) -> Tensor:
        """Entries of one codebook: [size, D] float32."""
        return self._codebook(index).embed[0]

    def _codebook(self, index: int) -> Codebook:
        return cast(_Layer, self.vq.layers[index])._codebook

    def choose(self, residual: Tensor, index: int) -> Tensor:
        """Residual [..., D] float32 -> number [...] int64 of the nearest entry of a codebook."""
        return self._codebook(index).nearest(residual)

    @property
    def is_initialized(self) -> bool:
        """False until the codebooks have been initialized (or loaded)."""
        return all(bool(codebook.initted) for codebook in self.codebooks)

    def reset(self) -> None:
        """Mark the codebooks as not initialized, before training them from scratch."""
        for codebook in self.codebooks:
            codebook.initted.fill_(False)

    @torch.no_grad()
    def initialize(self, features: Tensor, num_per_step: int) -> None:
        """K-means of features [N, D]: each codebook starts from what the ones before it leave over.

        num_per_step: vectors that a training step will bring; the moving averages start as if after many such steps,
        so that the codebooks follow the encoder at once. With several processes the features of all count.
        """
        residual = gather_from_processes(features.float()).flatten(0, 1)
        for codebook in self.codebooks:
            codebook.initialize(residual, num_per_step)
            residual = residual - codebook.embed[0][codebook.nearest(residual)]

    @torch.no_grad()
    def collect(self, features: Tensor, output: QuantizerOutput, mask: Tensor | None = None) -> None:
        """Add a batch to what the next `update` counts: features [B, T, D] and what `forward` gave for them.

        mask: bool [B, T], False on padding. Neither padding nor values that are not finite count.
        """
        valid = features.isfinite().all(-1)
        valid = valid if mask is None else valid & mask
        vectors = features.detach().float()[valid]
        below = torch.zeros_like(vectors)  # what the codebooks before this one give
        for index, codes in enumerate(output.codes.unbind(-2)):
            if index not in self._collected:
                self._collected[index] = _Statistics.empty_like(self.codebook(index))
            self._collected[index].add(vectors - below, codes[valid])
            below = output.partial[index][valid]

    @torch.no_grad()
    def update(self) -> None:
        """One step of the codebooks' moving averages, with all that was collected as one batch.

        Codebooks that no batch used stay as they are.
        """
        for index, statistics in self._collected.items():
            self.codebooks[index].update(statistics)
        self.discard()

    def discard(self) -> None:
        """Drop what was collected since the last `update`."""
        self._collected.clear()
