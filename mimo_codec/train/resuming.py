"""Going on from a checkpoint: what must be as it was, and what may change and then takes effect.

The checkpoint holds the networks, the state of the optimizers and how far the run is. Everything else is what the
configuration says now: learning rates and their schedule, weights of losses, batches, data, seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from mimo_codec.common.checks import require

NEEDS_SAME = "continue with the settings of before, or start a new run"


class RunSchedule(torch.optim.lr_scheduler.LambdaLR):
    """A schedule that takes from a checkpoint how many steps there were, and settings from this run.

    A resumed optimizer has the learning rates, the weight decay and whatever else its groups held when they were saved;
    this puts back what the optimizer of this run was made with.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]):
        """factor: step -> what the learning rates of `optimizer` are multiplied by."""
        self.settings = [_settings(group) for group in optimizer.param_groups]
        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, without the settings."""
        return {key: value for key, value in super().state_dict().items() if key != "settings"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the number of steps; rates and settings become those of this run."""
        super().load_state_dict({**state_dict, "base_lrs": self.base_lrs})
        rates = [base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, settings, base, rate in zip(
            self.optimizer.param_groups, self.settings, self.base_lrs, rates, strict=True
        ):
            group.update(settings, initial_lr=base, lr=rate)
        self._last_lr = rates


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr", "param_names")}


def check_same_networks(stage: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Raise MimoError unless a checkpoint holds the networks of this stage."""
    require("mimo_codec" in checkpoint, "the checkpoint is not one of such a stage of training")
    saved, own = checkpoint.get("state_dict"), stage.state_dict()
    if saved is None:  # sharded networks have been loaded before
        return
    names = sorted(name for name in {*saved, *own} if _shape(saved.get(name)) != _shape(own.get(name)))
    if names:
        shapes = [str(_shape(state.get(names[0])) or "missing") for state in (saved, own)]
        changed = changed_options(stage, checkpoint)
        require(
            False,
            f"the checkpoint holds other networks than this configuration has ({names[0]}: {' there, '.join(shapes)}"
            f" here{'; changed: ' + ', '.join(changed) if changed else ''}): {NEEDS_SAME}",
        )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def check_same_optimizers(optimizers: Iterable[Any], layouts: list[Any]) -> None:
    """Raise MimoError unless optimizers train the parameters that those of the checkpoint did."""
    own = [optimizer_layout([part.param_groups for part in getattr(o, "parts", [o])]) for o in optimizers]
    require(
        own == layouts,
        "the optimizers of the checkpoint trained other parameters (model.init_args.trained, matrix_learning_rate"
        f" switched on or off, or transcripts): {NEEDS_SAME}",
    )


def check_same_start(stage: Any, checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise MimoError when an option has changed that says where weights come from: a checkpoint has its own."""
    before, now = checkpoint.get("hyper_parameters", {}).get(name), stage.hparams.get(name)
    require(
        before == now,
        f"model.init_args.{name} is {now}, but the run that is to go on began with {before}, and has its weights:"
        f" {NEEDS_SAME}",
    )


def saved_layouts(checkpoint: Mapping[str, Any]) -> list[Any]:
    """Return how the optimizers of a checkpoint grouped their parameters."""
    states = checkpoint.get("optimizer_states", [])
    return [optimizer_layout([part["param_groups"] for part in state.get("parts", [state])]) for state in states]


def optimizer_layout(parts: Iterable[Iterable[Mapping[str, Any]]]) -> list[list[int]]:
    """Return the number of parameters of every group of every part."""
    return [[len(group["params"]) for group in groups] for groups in parts]


def chosen_seed(saved: int) -> int:
    """Return the seed of a resumed run: that of the checkpoint, unless `seed_everything` has set one for this run."""
    own = torch.initial_seed()
    return own if os.environ.get("PL_GLOBAL_SEED") == str(own) else saved


def changed_options(stage: Any, checkpoint: Mapping[str, Any]) -> list[str]:
    """List what is set to another value than in the run of the checkpoint, as "name: before -> now"."""
    data = getattr(stage.trainer, "datamodule", None)
    pairs = [
        ("", checkpoint.get("hyper_parameters", {}), stage.hparams),
        ("data.", checkpoint.get("datamodule_hyper_parameters", {}), getattr(data, "hparams", {})),
    ]
    return [
        f"{prefix}{name}: {before[name]} -> {now[name]}"
        for prefix, before, now in pairs
        for name in before
        if not name.startswith("_") and name in now and _plain(before[name]) != _plain(now[name])
    ]


def _plain(value: Any) -> Any:
    """Tuples and lists are one in recipes."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def report_changes(stage: Any, checkpoint: Mapping[str, Any]) -> None:
    """Print what takes effect from here on."""
    changed = changed_options(stage, checkpoint)
    if changed:
        rank_zero_info(f"from here on with other settings than before: {'; '.join(changed)}")
