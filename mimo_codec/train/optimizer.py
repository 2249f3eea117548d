"""Muon for matrices and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon on the 2-D parameters `matrices`, AdamW on the others; schedulers see the groups of both."""

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], matrix_learning_rate: float,
                 learning_rate: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.98)):  # fmt: skip
        others, matrices = list(others), list(matrices)
        groups = [{"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
                  {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}]  # fmt: skip
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, learning_rate, betas=betas)]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, matrix_learning_rate, weight_decay=weight_decay))
        super().__init__([{"params": [*others, *matrices]}], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

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
        self.param_groups = [group for part in self.parts for group in part.param_groups]
