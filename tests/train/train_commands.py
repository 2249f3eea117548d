"""`mimo-codec train` with models and data small enough for tests."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the train extra")

from conftest import ROOT, SMALL

RECIPES = ROOT / "recipes"

COMMON = [
    "--data.batch_size",
    "4",
    "--data.segment_seconds",
    "1.0",
    "--data.num_workers",
    "0",
    "--trainer.accelerator",
    "cpu",
    "--trainer.devices",
    "1",
    "--trainer.strategy",
    "auto",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.enable_model_summary",
    "false",
]

SHRUNK = [
    "--model.init_args.preset",
    "tiny",
    "--model.init_args.config",
    json.dumps(SMALL),
    "--model.init_args.text_dim",
    "16",
    "--model.init_args.text_layers",
    "1",
    "--model.init_args.text_heads",
    "2",
    "--model.init_args.quantizer_start",
    "1",
]


def shrunk(recipe: Path, codec: Path) -> list[str]:
    """Overrides that make a recipe small."""
    if "UnifiedStage" in recipe.read_text():
        return SHRUNK
    return [
        "--model.init_args.codec",
        str(codec),
        "--model.init_args.period_channels",
        "[4, 4]",
        "--model.init_args.stft_channels",
        "4",
        "--model.init_args.excerpt_seconds",
        "0.2",
    ]


def command(recipe: str, root: Path, folder: Path, codec: Path, steps: int, *more: str) -> list[str]:
    """A training command that writes its losses to losses.csv at every step, and a checkpoint."""
    return [
        sys.executable,
        "-m",
        "mimo_codec",
        "train",
        recipe,
        "--data.root",
        str(folder),
        *COMMON,
        *shrunk(RECIPES / f"{recipe}.yaml", codec),
        "--trainer.max_steps",
        str(steps),
        "--trainer.default_root_dir",
        str(root),
        "--trainer.logger",
        "lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir",
        str(root),
        "--trainer.logger.flush_logs_every_n_steps",
        "1",
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.callbacks",
        json.dumps(
            [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"save_last": True, "save_top_k": 0, "every_n_train_steps": 2},
                },
                {"class_path": "mimo_codec.train.callbacks.ExportCodec"},
            ]
        ),
        *more,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def logged_losses(root: Path, name: str = "train/loss") -> dict[int, float]:
    """Step -> loss, as the last run that got there logged it."""
    losses: dict[int, float] = {}
    for path in sorted(root.rglob("metrics.csv"), key=os.path.getmtime):
        with open(path, newline="") as file:
            losses |= {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}
    return dict(sorted(losses.items()))


def assert_same_curve(killed: Path, whole: Path, rtol: float) -> None:
    """A run that was killed and went on has the losses of one that was not.

    Lightning saves a checkpoint before it logs the loss of that step: the log may lack that of the last step before the
    kill.
    """
    resumed, undisturbed = logged_losses(killed), logged_losses(whole)
    assert len(undisturbed.keys() - resumed.keys()) <= 1 and resumed.keys() <= undisturbed.keys()
    assert resumed == pytest.approx({step: undisturbed[step] for step in resumed}, rel=rtol)
