"""Muon for the matrices of Transformers and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def make_optimizer(named: Iterable[tuple[str, nn.Parameter]], matrix_learning_rate: float, learning_rate: float,
                   weight_decay: float, betas: tuple[float, float] = (0.9, 0.98)) -> torch.optim.Optimizer:  # fmt: skip
    """An optimizer for named parameters: Muon on the matrices inside `layers`, unless its rate is 0, AdamW on the rest.

    weight_decay: of tensors with more than one dimension.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named:
        is_matrix = matrix_learning_rate > 0 and parameter.ndim == 2 and "layers." in name
        (matrices if is_matrix else others).append(parameter)
    groups = [{"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
              {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}]  # fmt: skip
    adamw = torch.optim.AdamW(groups, learning_rate, betas=betas)
    if not matrices:
        return adamw
    return MuonAdamW(torch.optim.Muon(matrices, matrix_learning_rate, weight_decay=weight_decay), adamw)


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that step together; schedulers see the groups of both."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()
