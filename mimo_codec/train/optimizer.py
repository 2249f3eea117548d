"""Muon for the matrices of Transformers and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from mimo_codec.common.checks import needs_extra
from mimo_codec.train.loop import warm_up_and_decay
from mimo_codec.train.muon import SharedMuon
from mimo_codec.train.resuming import RunSchedule


def make_optimizer(
    named: Iterable[tuple[str, nn.Parameter]],
    matrix_learning_rate: float,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    factor: Callable[[str], float] = lambda name: 1.0,
    bits: int = 32,
) -> torch.optim.Optimizer:
    """Make an optimizer for named parameters: Muon for the matrices inside `layers`, AdamW for the rest.

    Args:
        named: names and parameters.
        matrix_learning_rate: of Muon; 0: AdamW for everything.
        learning_rate: of AdamW.
        weight_decay: of tensors with more than one dimension.
        betas: of AdamW.
        factor: name of a parameter -> what its learning rate is multiplied by.
        bits: of AdamW's averages of gradients; 8: by torchao, for little memory.
    """
    matrices: dict[float, list[nn.Parameter]] = {}
    others: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if matrix_learning_rate > 0 and parameter.ndim == 2 and "layers." in name:
            matrices.setdefault(factor(name), []).append(parameter)
        else:
            others.setdefault((factor(name), parameter.ndim > 1), []).append(parameter)
    factors = sorted({by for by, _ in others}, reverse=True) or [1.0]
    groups = [
        {
            "params": others.get((by, decays), []),
            "weight_decay": weight_decay if decays else 0.0,
            "lr": by * learning_rate,
        }
        for by in factors
        for decays in (True, False)
    ]
    adamw = _adamw(bits)(groups, learning_rate, betas=betas)
    if not matrices:
        return adamw
    shares = [{"params": each, "lr": by * matrix_learning_rate} for by, each in sorted(matrices.items(), reverse=True)]
    return MuonAdamW(SharedMuon(shares, matrix_learning_rate, weight_decay=weight_decay), adamw)


def with_schedule(
    optimizer: torch.optim.Optimizer, num_steps: int, warmup_steps: int, decay_share: float
) -> OptimizerLRSchedulerConfig:
    """Return an optimizer and its schedule, `warm_up_and_decay` over `num_steps`, as Lightning takes them."""

    def factor(step: int) -> float:
        return warm_up_and_decay(step, num_steps, warmup_steps, decay_share)

    return {"optimizer": optimizer, "lr_scheduler": RunSchedule(optimizer, factor)}


def _adamw(bits: int) -> Any:
    """Return the class of optimizers whose states have so many bits."""
    if bits == 32:
        return torch.optim.AdamW
    with needs_extra("torchao", "quantize"):
        from torchao.optim import AdamW8bit
    return partial(AdamW8bit, bf16_stochastic_round=True)


class MuonAdamW(torch.optim.Optimizer):
    """Several optimizers that step together; schedulers see the groups of all."""

    def __init__(self, *parts: torch.optim.Optimizer):
        """parts: optimizers with different parameters."""
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step with every part; `closure` is called once, before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of all parts."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()
