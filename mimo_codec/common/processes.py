"""Tensors of several training processes: how many there are, sums over them, and what all of them have."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """Processes that train together; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """Number of this process among them, from 0."""
    return distributed.get_rank() if num_processes() > 1 else 0


def sum_over_processes(x: Tensor) -> None:
    """Sum of every process's x, in place."""
    if num_processes() > 1:
        distributed.all_reduce(x)


def gather_from_processes(x: Tensor) -> Tensor:
    """The last rows of x [N, D] of every process, as many of each as the shortest has -> [processes, N, D]."""
    if num_processes() == 1:
        return x[None]
    count = torch.tensor(len(x), device=x.device)
    distributed.all_reduce(count, distributed.ReduceOp.MIN)
    x = x[len(x) - int(count) :].contiguous()
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    distributed.all_gather(parts, x)
    return torch.stack(parts)
