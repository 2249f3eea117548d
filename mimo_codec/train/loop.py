"""The loop that all stages of training share: steps that survive bad batches, and exact resuming.

Stages use Lightning's manual optimization, because some have two optimizers, which take turns, and because a step whose
loss or gradients are not finite must leave no trace.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DistributedSampler

from mimo_codec.common.bfloat16 import bfloat16_is_slow
from mimo_codec.common.checks import check_integer, check_type, require
from mimo_codec.common.errors import MimoError, MimoWarning
from mimo_codec.train.checkpoints import WholeCheckpoints
from mimo_codec.train.resuming import (
    check_same_networks,
    check_same_optimizers,
    chosen_seed,
    report_changes,
    saved_layouts,
)

COUNTERS = ("batches_seen", "run_seed", "num_non_finite", "num_non_finite_in_a_row")
"""Attributes that a checkpoint holds beside tensors."""


class Stage(lightning.LightningModule):
    """One stage of training; subclasses define a step in `learn` and what is trained in `configure_optimizers`.

    Args:
        accumulate: batches per step of the optimizer.
        clip_norm: largest norm of the gradients of each optimizer; 0: no limit.
        max_non_finite: after so many batches in a row whose loss or gradients are not finite, training stops and the
            last of them is saved; those before are left out.
        compile: let torch.compile make the networks faster; the first step then takes minutes.
    """

    layer_types: tuple[type[nn.Module], ...] = ()
    """Modules that FSDP shards one by one."""
    optimizer_names: tuple[str, ...] = ()
    """What the optimizers train, in their order, for messages."""

    def __init__(self, accumulate: int, clip_norm: float, max_non_finite: int, compile: bool):
        """See the class for the arguments."""
        super().__init__()
        self.automatic_optimization = False
        self.accumulate, self.clip_norm, self.max_non_finite = accumulate, clip_norm, max_non_finite
        self.compile_networks = compile
        self._sharded = False
        self.batches_seen = 0
        self.run_seed = 0
        self.num_non_finite = self.num_non_finite_in_a_row = 0
        self._skipped: str | None = None
        self._saved_layouts: list[Any] | None = None
        self._with_gradients: set[str] = set()

    def networks(self) -> Sequence[nn.Module]:
        """Return the networks that run in a step; with `compile` each is compiled."""
        raise NotImplementedError

    def sharded(self) -> Sequence[nn.Module]:
        """Return the networks that FSDP shards, each as a whole."""
        return self.networks()

    def learn(self, batch: Any) -> dict[str, Tensor]:
        """Train on one batch: losses, backward pass and steps of the optimizers. Return what to log, by name."""
        raise NotImplementedError

    def describe_batch(self, batch: Any) -> tuple[dict[str, Tensor], Any]:
        """Return the tensors of a batch by name, and the names of what is in it: what is saved of a bad one."""
        raise NotImplementedError

    def seconds_of(self, batch: Any) -> float:
        """Return the duration of the audio in a batch in seconds, for messages; 0: not known."""
        return 0.0

    # ---- a run ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Let checkpoints be written so that they are whole or not there."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_fit_start(self) -> None:
        """Check the precision, choose the seed of the run, and compile the networks if asked to."""
        precision = self.trainer.precision
        require(
            not str(precision).startswith("16-"),
            f"trainer.precision = {precision}: losses overflow in float16; use bf16-mixed or 32",
        )
        if "bf16" in str(precision) and bfloat16_is_slow(self.device):
            told = "this CPU has no instructions for bfloat16 and computes up to 40 times slower in it"
            rank_zero_warn(
                f"trainer.precision = {precision}: {told}; --trainer.precision 32-true", category=MimoWarning
            )
        if self._saved_layouts is not None:
            check_same_optimizers(self.trainer.optimizers, self._saved_layouts)
        if self.batches_seen == 0:
            self.run_seed = torch.initial_seed() % 2**62
        if self.compile_networks:
            for network in self.networks():
                network.compile()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counters."""
        checkpoint["mimo_codec"] = {name: getattr(self, name) for name in COUNTERS}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters; MimoError when the checkpoint is not one of such a stage."""
        check_same_networks(self, checkpoint)
        counters = check_type("checkpoint: mimo_codec", checkpoint["mimo_codec"], dict, "a dictionary")
        for name in COUNTERS:
            setattr(self, name, check_integer(f"checkpoint: {name}", counters.get(name), 0))
        self.run_seed = chosen_seed(self.run_seed)
        self._saved_layouts = saved_layouts(checkpoint)
        report_changes(self, checkpoint)

    def training_step(self, batch: Any, batch_index: int) -> dict[str, Tensor]:
        """Train on one batch and log its losses."""
        # A resumed run must draw what it would have drawn, and all processes must draw the same.
        torch.manual_seed(self.run_seed + self.batches_seen)
        self._skipped = None
        logged = self.learn(batch)
        self.batches_seen += 1
        self._count_non_finite(batch)
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, prog_bar=True)
        self.log("train/skipped", float(self.num_non_finite))
        return {"loss": logged["loss"]}

    @property
    def completes_step(self) -> bool:
        """Whether this batch is the last of those whose gradients are summed."""
        return (self.batches_seen + 1) % self.accumulate == 0

    def add_gradients(self, name: str, loss: Tensor) -> bool:
        """Add a batch to the gradients of one optimizer, unless its loss is not finite. Return whether it was added.

        name: of what the optimizer trains, for messages; loss: [].
        """
        with torch.autocast(self.device.type, enabled=False):
            if not self.all_finite(loss):
                self._skipped = f"{name}: the loss is {float(loss.detach())}"
                return False
            self.manual_backward(loss / self.accumulate)
        self._with_gradients.add(name)
        return True

    def take_step(self, name: str, optimizer: Any, scheduler: Any) -> bool:
        """Step with the clipped gradients of `accumulate` batches, unless they are not finite.

        Returns whether the optimizer stepped; it never does before the last of these batches.
        """
        if not self.completes_step or name not in self._with_gradients:
            return False
        self._with_gradients.remove(name)
        # The list of the optimizer, because FSDP has other parameters in the modules between forward and backward.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        with torch.autocast(self.device.type, enabled=False):
            norm = clip_grad_norm_(parameters, self.clip_norm or math.inf)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            self.log(f"train/gradient_{name}", norm)
            for of, rate in self.rates(name, optimizer).items():
                self.log(f"learning_rate/{of}", rate)
            is_finite = self.all_finite(norm)
            if is_finite:
                optimizer.step()
                scheduler.step()
            else:
                self._skipped = self._skipped or f"{name}: the norm of the gradients is {float(norm)}"
        optimizer.zero_grad()
        return is_finite

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates by what they train."""
        optimizers = self.trainer.optimizers
        names = (
            self.optimizer_names if len(self.optimizer_names) == len(optimizers) else map(str, range(len(optimizers)))
        )
        return {of: rate for name, o in zip(names, optimizers, strict=True) for of, rate in self.rates(name, o).items()}

    def rates(self, name: str, optimizer: Any) -> dict[str, float]:
        """Return the learning rates of the optimizer of this name; that of Muon is the one of `NAME_matrices`."""
        return {f"{name}_matrices" if "momentum" in group else name: group["lr"] for group in optimizer.param_groups}

    def all_finite(self, value: Tensor) -> bool:
        """Whether a value is finite in every process."""
        finite = bool(value.detach().isfinite().all())
        return bool(self.trainer.strategy.reduce_boolean_decision(finite, all=True))

    def leave_out(self, reason: str) -> dict[str, Tensor]:
        """Skip a batch for this reason: what `learn` returns for it."""
        self._skipped = reason
        return {"loss": torch.tensor(math.nan)}

    def _count_non_finite(self, batch: Any) -> None:
        if self._skipped is None:
            self.num_non_finite_in_a_row = 0
            return
        self.num_non_finite += 1
        self.num_non_finite_in_a_row += 1
        rank_zero_warn(
            f"batch {self.batches_seen} is left out: {self._skipped} ({self.num_non_finite} so far)",
            category=MimoWarning,
        )
        if self.num_non_finite_in_a_row >= self.max_non_finite:
            where = self._save_batch(batch, self._skipped)
            raise MimoError(
                f"{self.num_non_finite_in_a_row} batches in a row were not finite (the last one, {self._skipped}, is"
                f" saved as {where}): lower the learning rates or look at these files, and continue with --ckpt_path"
                " last"
            )

    def _save_batch(self, batch: Any, reason: str) -> Path:
        folder = Path(self.trainer.default_root_dir) / "non_finite"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"batch_{self.batches_seen}_rank_{self.global_rank}.safetensors"
        tensors, names = self.describe_batch(batch)
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        about = {"reason": reason, "names": names}
        path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return path

    def is_repeated(self, index: int) -> bool:
        """Whether this process validates batch `index` again only so that all processes have the same number."""
        loader: Any = self.trainer.val_dataloaders
        if not isinstance(getattr(loader, "sampler", None), DistributedSampler):
            return False
        return index * self.trainer.world_size + self.global_rank >= len(loader.dataset)

    # ---- several devices -----------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Shard the networks where the strategy asks for it (FSDP)."""
        mesh = self.device_mesh
        if mesh is None or self._sharded:
            return
        from torch.distributed.fsdp import fully_shard

        for network in self.sharded():
            for module in network.modules():
                if isinstance(module, self.layer_types):
                    fully_shard(module, mesh=mesh["data_parallel"])
            fully_shard(network, mesh=mesh["data_parallel"])
        self._sharded = True
        rank_zero_info("the networks are sharded over the processes")

    def check_shardable(self, matrix_learning_rate: float) -> None:
        """Raise MimoError when Muon, which needs whole matrices, is to train what is sharded."""
        require(
            self.device_mesh is None or matrix_learning_rate <= 0,
            "strategy fsdp: Muon needs whole matrices; set model.init_args.matrix_learning_rate to 0",
        )


def warm_up_and_decay(step: int, num_steps: int, warmup_steps: int, decay_share: float) -> float:
    """Compute the factor on the learning rate: linear warm-up, plateau, linear decay over the last share of a run."""
    warm, cool = (step + 1) / max(warmup_steps, 1), (num_steps - step) / max(num_steps * decay_share, 1)
    return max(min(warm, cool, 1.0), 0.0)
