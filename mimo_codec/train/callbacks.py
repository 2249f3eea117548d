"""Lightning callbacks: stopping on a signal, the best checkpoint, export of the codec."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
from mimo_codec.train.checkpoints import last_checkpoint


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


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint by a validation metric as `best.ckpt`; does nothing without validation.

    Args:
        monitor: metric, such as "val/pesq_wb" or "val/mel_distance".
        mode: "max" or "min", whichever is better.
        dirpath: folder of the checkpoint; by default that of the run's checkpoints.
    """

    def __init__(self, monitor: str = "val/pesq_wb", mode: str = "max", dirpath: str | None = None):
        """See the class for the arguments."""
        super().__init__(
            dirpath,
            "best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

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
    before.

    Args:
        dtype: of the stored encoder and decoder: float32, float16 or bfloat16. Codebooks stay float32, and so does what
            is not trained and would change by rounding: stage 2 promises not to change any code.
        monitor: the validation metric.
        mode: "max" or "min", whichever is better.
    """

    def __init__(self, dtype: str = "float32", monitor: str = "val/pesq_wb", mode: str = "max"):
        """See the class for the arguments; MimoError for a dtype that weights cannot have."""
        self.dtype, self.monitor, self.sign = check_dtype(dtype), monitor, {"max": 1, "min": -1}[mode]
        self.best: float | None = None
        self._root: Path | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best value of the metric so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value of the metric."""
        if self._root is None or (self._root / "best").exists():  # else a new folder, with a best of its own
            self.best = state_dict["best"]

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Note where the codecs are."""
        self._root = Path(trainer.default_root_dir)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write `export`, and `best` if the metric is better than before."""
        if trainer.sanity_checking or _is_trial(trainer) or not pl_module.codec.quantizer.is_initialized:
            return
        self._export(trainer, pl_module, "export")
        score = trainer.callback_metrics.get(self.monitor)
        if score is not None and (self.best is None or self.sign * float(score) > self.sign * self.best):
            self.best = float(score)
            self._export(trainer, pl_module, "best")

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write `export` when a signal has stopped training."""
        if isinstance(exception, Stopped):
            self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write `export` when training ends."""
        if _is_trial(trainer):
            return
        if not pl_module.codec.quantizer.is_initialized:
            rank_zero_warn("no codec is written: training ended before its codebooks were started (quantizer_start)")
            return
        folder = self._export(trainer, pl_module, "export")
        rank_zero_info(f"codec written to {folder}: MimoCodec.from_pretrained('{folder}')")

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
