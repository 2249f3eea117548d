"""A linear layer that is quick for the few frames in a chunk of a stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEW = range(2, 5)
"""Numbers of rows for which the product is quicker on CPUs with the weights on the left. Reading them takes most of the
time: two rows and 1024 x 256 weights that are not in a cache took 65 instead of 160 microseconds on an AMD EPYC."""


class Linear(nn.Linear):
    """nn.Linear; without gradients, a few rows on a CPU take half the time."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows x [..., D] -> [..., out]."""
        if torch.is_grad_enabled() or type(x) is not Tensor:  # graphs are traced with tensors of other types
            return super().forward(x)
        is_plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if is_plain and x.numel() // self.in_features in FEW:
            return multiply_few(x, self.weight, self.bias)
        return super().forward(x)


def multiply_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows x [..., D], weight [out, D], bias [out] or None -> [..., out]: what F.linear gives, as (weight x^T)^T."""
    columns = x.flatten(0, -2).contiguous().t()  # by columns, which is the quicker order here
    product = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return product.t().contiguous().unflatten(0, x.shape[:-1])
