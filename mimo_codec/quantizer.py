"""Features [B, T, D] <-> codes [B, Q, T]: residual vector quantization on vector-quantize-pytorch.

The library holds the codebooks and starts them by k-means. Looking up nearest entries is done here, always in float32
and for any prefix of the codebooks, and so is one training step, because it must leave padding out and be the same on
one process as on several that share a batch.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from vector_quantize_pytorch import ResidualVQ

from mimo_codec.checks import check_count
from mimo_codec.config import QuantizerConfig
from mimo_codec.errors import MimoError
from mimo_codec.precision import Float32Module


class QuantizerOutput(NamedTuple):
    """What training needs of one pass.

    quantized [B, T, D]: all codebooks, gradients pass straight through to the features; codes [B, Q, T]; partial
    [Q, B, T, D]: what the first 1..Q codebooks give, without gradients.
    """

    quantized: Tensor
    codes: Tensor
    partial: Tensor


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

    def forward(self, features: Tensor, num_quantizers: int | None = None, mask: Tensor | None = None,
                update: bool = True) -> QuantizerOutput:  # fmt: skip
        """Training pass: features [B, T, D]; in training mode the codebooks follow the features, unless not `update`.

        mask: bool [B, T], False on padding, which no codebook learns from; nor does it from values that are not finite.
        """
        partial, codes = [], []
        valid = features.isfinite().all(-1)
        valid = valid if mask is None else valid & mask
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            quantized = torch.zeros_like(features, dtype=torch.float32)
            for index in range(num_quantizers or self.config.num_quantizers):
                residual = features.float() - quantized
                chosen = self._nearest(residual, index)
                quantized = quantized + self.codebook(index)[chosen]
                if self.training and update:
                    self._learn(index, residual.flatten(0, 1), chosen.flatten(), valid.flatten())
                codes.append(chosen)
                partial.append(quantized)
        features = features.float()
        straight = features + (quantized - features).detach()
        return QuantizerOutput(straight, torch.stack(codes, dim=-2), torch.stack(partial))

    def _learn(self, index: int, vectors: Tensor, chosen: Tensor, valid: Tensor) -> None:
        """Moving averages of one codebook (van den Oord et al. 2017, appendix A.1) over the batch of all processes.

        vectors [N, D], chosen [N], valid [N].
        """
        codebook: Any = self.vq.layers[index]._codebook
        vectors = torch.where(valid[:, None], vectors, 0.0)
        counts = torch.zeros_like(codebook.cluster_size[0]).index_add_(0, chosen, valid.float())
        sums = torch.zeros_like(codebook.embed_avg[0]).index_add_(0, chosen, vectors)
        for statistic in (counts, sums):
            _sum_over_processes(statistic)
        share = (1 - codebook.decay) * (counts.sum() > 0)  # nothing but padding leaves no trace
        codebook.cluster_size[0].lerp_(counts, share)
        codebook.embed_avg[0].lerp_(sums, share)
        codebook.update_ema()
        self._revive(codebook, vectors, valid)

    @staticmethod
    def _revive(codebook: Any, vectors: Tensor, valid: Tensor) -> None:
        """Entries hardly used any more become vectors of the batch: vectors [N, D], valid [N].

        The vectors are drawn from those of all processes, which share the random state.
        """
        size, num_vectors = codebook.codebook_size, len(vectors)
        dead = codebook.cluster_size[0] < codebook.threshold_ema_dead_code
        if not dead.any():
            return
        drawn = torch.randperm(num_vectors * _num_processes())[:size].to(vectors.device) - _process() * num_vectors
        own = (drawn >= 0) & (drawn < num_vectors)
        row = drawn.clamp(0, num_vectors - 1)
        candidates = vectors.new_zeros(size, vectors.shape[1] + 1)  # the last column counts what is not padding
        candidates[: len(row), :-1] = torch.where(own[:, None], vectors[row], 0.0)
        candidates[: len(row), -1] = (own & valid[row]).float()
        _sum_over_processes(candidates)
        replaced = dead & (candidates[:, -1] > 0)
        codebook.embed[0][replaced] = candidates[replaced, :-1]
        codebook.cluster_size[0][replaced] = codebook.reset_cluster_size
        codebook.embed_avg[0][replaced] = candidates[replaced, :-1] * codebook.reset_cluster_size

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
                if _num_processes() > 1:
                    distributed.broadcast(statistic, 0)
            codebook.cluster_size.mul_(num_per_step / len(residual))
            codebook.embed_avg.mul_(num_per_step / len(residual))
            residual = residual - self.codebook(index)[self._nearest(residual, index)]


def _num_processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _process() -> int:
    return distributed.get_rank() if _num_processes() > 1 else 0


def _sum_over_processes(x: Tensor) -> None:
    if _num_processes() > 1:
        distributed.all_reduce(x)


def gather_from_processes(x: Tensor) -> Tensor:
    """The last rows of x [N, D] of every process, as many of each as the shortest has -> [processes, N, D]."""
    if _num_processes() == 1:
        return x[None]
    count = torch.tensor(len(x), device=x.device)
    distributed.all_reduce(count, distributed.ReduceOp.MIN)
    x = x[len(x) - int(count) :].contiguous()
    parts = [torch.empty_like(x) for _ in range(_num_processes())]
    distributed.all_gather(parts, x)
    return torch.stack(parts)
