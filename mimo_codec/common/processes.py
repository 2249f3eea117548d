"""Tensors of several training processes: their number, sums over them, and tensors gathered from all of them."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """Return how many processes train together; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """Return the number of this process among them, from 0."""
    return distributed.get_rank() if num_processes() > 1 else 0


def sum_over_processes(x: Tensor) -> None:
    """Replace x by the sum of every process's x, in place."""
    if num_processes() > 1:
        distributed.all_reduce(x)


def gather_from_processes(x: Tensor) -> Tensor:
    """Gather x [N, D] of every process -> [processes, N', D]: the last N' rows of each, N' rows in the shortest."""
    if num_processes() == 1:
        return x[None]
    count = torch.tensor(len(x), device=x.device)
    distributed.all_reduce(count, distributed.ReduceOp.MIN)
    x = x[len(x) - int(count) :].contiguous()
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    distributed.all_gather(parts, x)
    return torch.stack(parts)
