"""Small stages and quick runs that the tests of training share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from conftest import SMALL

from mimo_codec.data.module import SpeechData
from mimo_codec.train.codec.stages import AdversarialStage, UnifiedStage
from mimo_codec.train.stage import CodecStage

QUIET = dict(
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    log_every_n_steps=1,
)

DISCRIMINATORS = dict(periods=(2,), period_channels=(4, 4), stft_sizes=(256,), stft_channels=4)


def make_unified(**changes) -> UnifiedStage:
    options = dict(
        matrix_learning_rate=0.01,
        quantizer_start=2,
        quantizer_dropout=0.5,
        warmup_steps=1,
        mel_power=0.3,
        text_dim=16,
        text_layers=1,
        text_heads=2,
    )
    return UnifiedStage(**(options | {"preset": "tiny", "config": SMALL} | changes))


def make_adversarial(codec: Path, **changes) -> AdversarialStage:
    options = dict(
        warmup_steps=1,
        quantizer_dropout=0.5,
        average_decay=0.5,
        excerpt_seconds=0.2,
        mel_power=0.3,
        matrix_learning_rate=0.01,
    )
    return AdversarialStage(str(codec), **(options | DISCRIMINATORS | changes))


class Losses(lightning.Callback):
    """Keeps the losses, and ends the run after step `stop`."""

    def __init__(self, stop: int | None = None):
        self.values: list[float] = []
        self.stop = stop

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))
        trainer.should_stop = trainer.global_step == self.stop


def fit(
    stage: CodecStage,
    folder: Path,
    root: Path,
    steps: int,
    stop: int | None = None,
    callbacks: Sequence = (),
    checkpoint: Path | None = None,
    trainer: dict | None = None,
    **data,
) -> tuple[list[float], lightning.Trainer]:
    losses = Losses(stop)
    runner = lightning.Trainer(
        max_steps=steps, callbacks=[losses, *callbacks], default_root_dir=root, **(QUIET | (trainer or {}))
    )
    module = SpeechData(str(folder), **(dict(batch_size=4, segment_seconds=0.5) | data))
    lightning.seed_everything(0)
    runner.fit(stage, module, ckpt_path=checkpoint)
    return losses.values, runner
