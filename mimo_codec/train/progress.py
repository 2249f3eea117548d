"""Lines that say how training goes on, for logs and terminals."""

from __future__ import annotations

import time
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info


class Progress(lightning.Callback):
    """Prints a line with step, losses, learning rates, speed and the time that is left.

    The first line appears as soon as the speed is known. Others follow where there is no progress bar, such as in log
    files.

    Args:
        seconds: least time between two lines.
    """

    SKIPPED, MEASURED = 3, 10
    """Batches before the speed is measured, and those of the first line."""

    def __init__(self, seconds: float = 60.0):
        """See the class for the arguments."""
        self.seconds = seconds

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Reset the counters."""
        self.num_batches = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and print a line if it is time."""
        self.num_batches += 1
        if self.num_batches == self.SKIPPED:
            self._restart(trainer, pl_module)
        if self.num_batches <= self.SKIPPED:
            return
        self.audio += pl_module.seconds_of(batch)
        if self.num_batches == self.SKIPPED + self.MEASURED or (
            self.num_batches > self.SKIPPED + self.MEASURED
            and trainer.progress_bar_callback is None
            and time.perf_counter() - self.started >= self.seconds
        ):
            rank_zero_info(self._line(trainer, pl_module))
            self._restart(trainer, pl_module)

    def _restart(self, trainer: lightning.Trainer, stage: Any) -> None:
        _synchronize(stage)
        self.audio, self.started, self.step = 0.0, time.perf_counter(), trainer.global_step

    def _line(self, trainer: lightning.Trainer, stage: Any) -> str:
        _synchronize(stage)
        elapsed, steps = time.perf_counter() - self.started, trainer.global_step - self.step
        shown = trainer.progress_bar_metrics.items()
        values = [f"{name.removeprefix('train/')} {x:.4g}" for name, x in shown if isinstance(x, int | float)]
        rates = [f"{name} {rate:.2e}" for name, rate in stage.learning_rates().items()]
        parts = [f"step {trainer.global_step} of {trainer.max_steps}: {', '.join(values)}"]
        parts.append(f"learning rate of {', '.join(rates)}")
        if self.audio:
            speed = self.audio * trainer.world_size / elapsed
            parts.append(f"{speed:.1f} seconds of audio per second on {trainer.world_size} x {stage.device.type}")
        if steps:
            parts.append(f"{_duration((trainer.max_steps - trainer.global_step) * elapsed / steps)} left")
        return "; ".join(parts)


def _synchronize(stage: lightning.LightningModule) -> None:
    if stage.device.type == "cuda":
        torch.cuda.synchronize(stage.device)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
