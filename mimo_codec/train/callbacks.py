"""Lightning callbacks: stopping on a signal, the best checkpoint, export of the codec."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from mimo_codec.codec.checkpoint import save_checkpoint
from mimo_codec.codec.model import MimoCodec, check_dtype
from mimo_codec.common.errors import MimoWarning
from mimo_codec.train.checkpoints import last_checkpoint
from mimo_codec.train.monitoring import VALIDATION, ValidationOptions, better


class Stopped(SystemExit):
    """The end of a run that a signal has stopped after a step, with everything saved."""


class SaveOnSignal(lightning.Callback):
    """Stops training on SIGTERM or Ctrl-C: finishes the step and saves `last.ckpt`; a second signal stops at once.

    The process exits with 128 + the signal's number, as if the signal had ended it. Before the first step a signal
    stops at once; inside `from_start` it does so quietly. Outside of the main thread, where no signals arrive, training
    goes on without this. A run that ends by itself saves `last.ckpt` too, if the run has such a file.
    """

    def __init__(self) -> None:
        """Handlers are installed when training starts, or by `from_start`."""
        self.received = 0
        self._in_steps = self._installed_here = False
        self._previous: dict[int, Any] = {}

    @contextmanager
    def from_start(self) -> Iterator[None]:
        """Handle signals from now to the end of the block."""
        self._install()
        try:
            yield
        finally:
            self._restore()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Install the signal handlers."""
        if not self._previous:
            self.received = 0
            self._install()
            self._installed_here = True
        self._in_steps = True

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received, number
        if again or not self._in_steps:
            raise SystemExit(128 + number)
        rank_zero_info("stopping after this step; once more to stop at once, without saving")

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Stop after a step."""
        self._stop_if_told(trainer, pl_module)

    def on_validation_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Stop in the middle of a validation."""
        if not trainer.sanity_checking:
            self._stop_if_told(trainer, pl_module)

    def _stop_if_told(self, trainer: lightning.Trainer, stage: Any) -> None:
        if stage.batches_seen % stage.accumulate:  # gradients that wait for others would not be saved
            return
        if not trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            return
        path = last_checkpoint(trainer)
        trainer.save_checkpoint(path)
        rank_zero_info(f"saved {path}; continue with --ckpt_path last")
        # other processes end well, or the first one would be told that something broke
        raise Stopped(128 + (self.received or signal.SIGTERM) if trainer.is_global_zero else 0)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the last step, unless it has been saved."""
        keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.save_last]
        if keepers and not keepers[0]._should_skip_saving_checkpoint(trainer):
            keepers[0]._save_last_checkpoint(trainer, keepers[0]._monitor_candidates(trainer))

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Restore the signal handlers of before."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Restore the signal handlers of before."""
        self._in_steps = False
        if self._installed_here:
            self._restore()
            self._installed_here = False


def _is_trial(trainer: Any) -> bool:
    """Whether it is a run by trainer.fast_dev_run, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)


@dataclass(frozen=True)
class Choice:
    """What a callback was told about the best; the stage says the rest."""

    monitor: str | None
    mode: str | None
    count: int | None

    def with_defaults(self, stage: Any) -> tuple[str, str, int]:
        """Return what is monitored, whether max or min is better, and how many are kept."""
        options = getattr(stage, "validation", ValidationOptions())
        monitor = self.monitor or f"{VALIDATION}{options.best_metric}"
        mode = self.mode or (options.best_mode if self.monitor is None else None)
        return monitor, better(monitor, mode), self.count or options.keep_best


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint by a validation metric as `best.ckpt`; does nothing without validation.

    With `save_top_k` of more than 1 the best are kept as `best-STEP.ckpt`.

    Args:
        monitor: "val/" and a metric, such as "val/mel_distance"; null: the stage's `best_metric`.
        mode: "max" or "min", whichever is better; null: what the metric says.
        dirpath: folder of the checkpoint; by default that of the run's checkpoints.
        save_top_k: number of checkpoints; null: the stage's `keep_best`.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: str | None = None,
        dirpath: str | None = None,
        save_top_k: int | None = None,
    ):
        """See the class for the arguments."""
        self.asked = Choice(monitor, mode, save_top_k)
        super().__init__(
            dirpath,
            "best",
            monitor=monitor,
            mode=mode or "max",
            save_top_k=1,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take from the stage what was not given."""
        self.monitor, self.mode, self.save_top_k = self.asked.with_defaults(pl_module)
        self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        self.filename = "best" if self.save_top_k == 1 else "best-{step}"
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save a checkpoint if the metric was computed and is better than before."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore which checkpoints are the best, of those that are in the folder: a run may have moved."""
        assert self.dirpath is not None, "it is set before a run goes on"
        kept = {os.path.join(self.dirpath, os.path.basename(p)): x for p, x in state_dict["best_k_models"].items()}
        kept = {path: score for path, score in kept.items() if os.path.exists(path)}
        if kept:
            order = sorted(kept, key=lambda path: float(kept[path]), reverse=self.mode == "max")
            paths = {"best_model_path": order[0], "kth_best_model_path": order[-1], "kth_value": kept[order[-1]]}
            scores = {"best_k_models": kept, "best_model_score": kept[order[0]]}
            super().load_state_dict({**state_dict, **paths, **scores, "dirpath": self.dirpath})


class ExportCodec(lightning.Callback):
    """Writes the codec to the folders `export` and `best` below trainer.default_root_dir.

    `export` is written after every validation and when training ends, `best` when a validation metric is better than
    before. With `save_top_k` of more than 1 the best are also kept as `best-STEP`.

    Args:
        dtype: of the stored encoder and decoder: float32, float16 or bfloat16. Codebooks stay float32, and so does what
            is not trained and would change by rounding: stage 2 promises not to change any code.
        monitor: "val/" and a metric; null: the stage's `best_metric`.
        mode: "max" or "min", whichever is better; null: what the metric says.
        save_top_k: number of best codecs; null: the stage's `keep_best`.
    """

    def __init__(
        self,
        dtype: str = "float32",
        monitor: str | None = None,
        mode: str | None = None,
        save_top_k: int | None = None,
    ):
        """See the class for the arguments; MimoError for a dtype that weights cannot have."""
        self.dtype, self.asked = check_dtype(dtype), Choice(monitor, mode, save_top_k)
        self.monitor, self.mode, self.save_top_k = monitor or "", mode or "max", save_top_k or 1
        self.best: float | None = None
        self.kept: dict[int, float] = {}
        self._root: Path | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take from the stage what was not given."""
        self._root = Path(trainer.default_root_dir)
        self.monitor, self.mode, self.save_top_k = self.asked.with_defaults(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values of the metric so far."""
        return {"best": self.best, "monitor": self.monitor, "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best values of the metric, if it is the same one and the codecs are there."""
        if state_dict.get("monitor", self.monitor) == self.monitor and self._is_there("best"):
            self.best = state_dict["best"]
            kept = state_dict.get("kept", {})
            self.kept = {step: score for step, score in kept.items() if self._is_there(f"best-{step}")}

    def _is_there(self, name: str) -> bool:
        return self._root is None or (self._root / name).exists()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write `export`, and `best` if the metric is better than before."""
        if trainer.sanity_checking or _is_trial(trainer) or not self._is_ready(pl_module):
            return
        self._export(trainer, pl_module, "export")
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            return
        if self.best is None or self._is_better(float(score), self.best):
            self.best = float(score)
            self._export(trainer, pl_module, "best")
        if self.save_top_k > 1:
            self._keep(trainer, pl_module, float(score))

    def _is_better(self, score: float, than: float) -> bool:
        return score > than if self.mode == "max" else score < than

    def _keep(self, trainer: lightning.Trainer, stage: Any, score: float) -> None:
        """Write `best-STEP` if the score is among the best, and remove what is not any more."""
        self.kept[trainer.global_step] = score
        order = sorted(self.kept, key=self.kept.__getitem__, reverse=self.mode == "max")
        for step in order[self.save_top_k :]:
            del self.kept[step]
            if trainer.is_global_zero:
                shutil.rmtree(Path(trainer.default_root_dir) / f"best-{step}", ignore_errors=True)
        if trainer.global_step in self.kept:
            self._export(trainer, stage, f"best-{trainer.global_step}")

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write `export` when a signal has stopped training."""
        if isinstance(exception, Stopped):
            self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write `export` when training ends."""
        if _is_trial(trainer):
            return
        if not self._is_ready(pl_module):
            rank_zero_warn(
                "no codec is written: training ended before its codebooks were started (quantizer_start)",
                category=MimoWarning,
            )
            return
        rank_zero_info(self._how_to_load(self._export(trainer, pl_module, "export")))

    def _is_ready(self, stage: Any) -> bool:
        """Whether there is a model to write."""
        return bool(stage.codec.quantizer.is_initialized)

    def _how_to_load(self, folder: Path) -> str:
        return f"codec written to {folder}: MimoCodec.from_pretrained('{folder}')"

    def _export(self, trainer: lightning.Trainer, stage: Any, name: str) -> Path:
        folder = Path(trainer.default_root_dir) / name
        codec: MimoCodec = stage.validated_codec
        # All processes take part, because this is where shards are put together.
        parameters = stage.codec.named_parameters()
        trained = {key for key, p in parameters if p.requires_grad and not key.startswith("quantizer.")}
        state = {key: self._stored(value, key in trained) for key, value in codec.state_dict().items()}
        if trainer.is_global_zero:
            save_checkpoint(folder, codec.config, state)
        stage.save_beside(folder)
        return folder

    def _stored(self, value: Tensor, trained: bool) -> Tensor:
        value = (value.full_tensor() if hasattr(value, "full_tensor") else value).detach()
        narrow = value.to(self.dtype) if value.is_floating_point() else value
        return narrow if trained or torch.equal(narrow.to(value.dtype), value) else value
