"""Features [B, T, D] <-> codes [B, Q, T]: residual vector quantization on vector-quantize-pytorch.

The library holds the codebooks and starts them by k-means. Looking up nearest entries is done here, always in float32
and for any prefix of the codebooks. So is the training of the codebooks, which must leave padding out, and be the same
in one process as in several that share a batch, and in one batch as in several whose gradients are summed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from vector_quantize_pytorch import ResidualVQ

from mimo_codec.codec.config import QuantizerConfig
from mimo_codec.codec.precision import Float32Module
from mimo_codec.common.checks import check_count
from mimo_codec.common.errors import MimoError
from mimo_codec.common.processes import gather_from_processes, num_processes, sum_over_processes


class QuantizerOutput(NamedTuple):
    """What training needs of one pass.

    quantized [B, T, D]: all codebooks, gradients pass straight through to the features; codes [B, Q, T]; partial
    [Q, B, T, D]: what the first 1..Q codebooks give, without gradients.
    """

    quantized: Tensor
    codes: Tensor
    partial: Tensor


@dataclass
class _Statistics:
    """What one codebook learns from the batches of a step."""

    counts: Tensor
    """[size]: vectors that chose each entry."""
    sums: Tensor
    """[size, D]: their sums."""
    sample: Tensor
    """[N, D]: vectors drawn from all batches, in random order, at most `size` of them."""

    @classmethod
    def empty_like(cls, codebook: Tensor) -> _Statistics:
        """codebook [size, D]."""
        return cls(codebook.new_zeros(len(codebook)), torch.zeros_like(codebook), codebook[:0])

    def add(self, vectors: Tensor, chosen: Tensor) -> None:
        """vectors [N, D] and the number of the entry that each chose, [N]."""
        self.counts.index_add_(0, chosen, torch.ones_like(vectors[:, 0]))
        self.sums.index_add_(0, chosen, vectors)
        vectors = torch.cat((self.sample, vectors))
        self.sample = vectors[torch.randperm(len(vectors))[: len(self.counts)].to(vectors.device)]


class ResidualQuantizer(Float32Module):
    """Residual nearest neighbours (Euclidean), no projections; codes decode to the sum of the chosen rows."""

    def __init__(self, config: QuantizerConfig, dim: int, decay: float = 0.99):
        super().__init__()
        self.config, self.dim = config, dim
        self.vq = ResidualVQ(
            dim=dim,
            num_quantizers=config.num_quantizers,
            codebook_size=config.codebook_sizes,
            threshold_ema_dead_code=config.threshold_ema_dead_code,
            decay=decay,
            rotation_trick=False,
        )
        self._collected: dict[int, _Statistics] = {}

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
        check_count(num_quantizers, self.config.num_quantizers)

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
                chosen = self._nearest(residual, index)
                residual = residual - self.codebook(index)[chosen]
                codes.append(chosen)
        return torch.stack(codes, dim=-2)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [..., Q, T] -> quantized [..., T, D] float32, for any prefix of the codebooks."""
        rows = [self.codebook(index)[chosen] for index, chosen in enumerate(codes.unbind(-2))]
        return torch.stack(rows).sum(0)

    def _nearest(self, residual: Tensor, index: int) -> Tensor:
        """residual [..., D] float32 -> number [...] of the nearest entry of a codebook."""
        entries = self.codebook(index)
        # |x|^2 is the same for every entry, so it is left out of the distance
        return (entries.square().sum(-1) - 2 * residual @ entries.T).argmin(-1)

    def forward(self, features: Tensor, num_quantizers: int | None = None) -> QuantizerOutput:
        """Training pass over features [B, T, D] with the first `num_quantizers` codebooks; changes nothing.

        The codebooks learn from a batch by `collect`, and move when `update` is called.
        """
        partial, codes = [], []
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            quantized = torch.zeros_like(features, dtype=torch.float32)
            for index in range(num_quantizers or self.config.num_quantizers):
                chosen = self._nearest(features.float() - quantized, index)
                quantized = quantized + self.codebook(index)[chosen]
                codes.append(chosen)
                partial.append(quantized)
        features = features.float()
        straight = features + (quantized - features).detach()
        return QuantizerOutput(straight, torch.stack(codes, dim=-2), torch.stack(partial))

    @torch.no_grad()
    def collect(self, features: Tensor, output: QuantizerOutput, mask: Tensor | None = None) -> None:
        """Add a batch to what the next `update` learns from: features [B, T, D] and what `forward` gave for them.

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
        """One step of the codebooks' moving averages (van den Oord et al. 2017, appendix A.1).

        All that was collected since the last step, in all processes, counts as one batch. Codebooks that no batch
        used stay as they are.
        """
        for index, statistics in self._collected.items():
            codebook: Any = self.vq.layers[index]._codebook
            sum_over_processes(statistics.counts)
            sum_over_processes(statistics.sums)
            share = (1 - codebook.decay) * (statistics.counts.sum() > 0)  # nothing but padding leaves no trace
            codebook.cluster_size[0].lerp_(statistics.counts, share)
            codebook.embed_avg[0].lerp_(statistics.sums, share)
            codebook.update_ema()
            self._revive(codebook, statistics.sample)
        self.discard()

    def discard(self) -> None:
        """Leave out what was collected since the last `update`."""
        self._collected.clear()

    @staticmethod
    def _revive(codebook: Any, sample: Tensor) -> None:
        """Replace entries that are hardly used any more by vectors of the batch: sample [N, D], in random order.

        Every process gives equally many vectors, all make the same choice, and where there are fewer vectors than dead
        entries, chance decides which entries are replaced.
        """
        dead = (codebook.cluster_size[0] < codebook.threshold_ema_dead_code).nonzero()[:, 0]
        if len(dead) == 0:
            return
        vectors = gather_from_processes(sample).transpose(0, 1).flatten(0, 1)[: len(dead)]
        order = torch.randperm(len(dead)).to(dead.device)
        if num_processes() > 1:
            distributed.broadcast(order, 0)
        replaced = dead[order[: len(vectors)]]
        codebook.embed[0][replaced] = vectors
        codebook.cluster_size[0][replaced] = codebook.reset_cluster_size
        codebook.embed_avg[0][replaced] = vectors * codebook.reset_cluster_size

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
        so that the codebooks follow the encoder at once. With several processes the first one fits to the features of
        all.
        """
        self.forget()
        residual = gather_from_processes(features.float()).flatten(0, 1)
        for index, layer in enumerate(self.vq.layers):
            codebook = layer._codebook
            codebook.init_embed_(residual[None])
            for statistic in (codebook.embed, codebook.embed_avg, codebook.cluster_size):
                if num_processes() > 1:
                    distributed.broadcast(statistic, 0)
            codebook.cluster_size.mul_(num_per_step / len(residual))
            codebook.embed_avg.mul_(num_per_step / len(residual))
            residual = residual - self.codebook(index)[self._nearest(residual, index)]
