"""Small language models and quick runs that the tests of their training share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from training import QUIET, Losses

from mimo_codec.train.lm.data import LanguageData
from mimo_codec.train.lm.stages import LanguageModelStage

SIZES = np.array([1024, 1024, *[128] * 6])[:, None]
"""Entries of the codebooks of the preset "tiny" [8, 1]."""
WORDS = "time year people way day man thing woman life child world school state family student group".split()


def make_utterances(count: int, frames: tuple[int, int] = (4, 13), seed: int = 0) -> list[dict[str, Any]]:
    """Rows of random codes and texts, all different."""
    draw = np.random.default_rng(seed)
    return [
        {
            "audio": draw.integers(0, SIZES, (len(SIZES), int(draw.integers(*frames)))).tolist(),
            "text": f"{number} {' '.join(draw.choice(WORDS, 2))}",
        }
        for number in range(count)
    ]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_stage(model: str = "tiny", **changes) -> LanguageModelStage:
    options = dict(
        learning_rate=3e-3, matrix_learning_rate=2e-2, schedule="linear", warmup_share=0.01, text_weight=10.0
    )
    torch.manual_seed(0)
    return LanguageModelStage(model, **(options | {"channel_weights": (1.0,) * 8} | changes))


def fit_language_model(
    stage: LanguageModelStage, root: Path, rows: Any, steps: int, stop: int | None = None, **more: Any
) -> tuple[list[float], lightning.Trainer]:
    """Train, and return the losses; `more` goes to the data, `trainer` and `checkpoint` of it to the trainer."""
    losses = Losses(stop)
    trainer, checkpoint = more.pop("trainer", {}), more.pop("checkpoint", None)
    trainer["callbacks"] = [losses, *trainer.get("callbacks", [])]
    runner = lightning.Trainer(max_steps=steps, default_root_dir=root, **(QUIET | trainer))
    options = dict(batch_size=4, tasks=["asr", "tts"], max_positions=1024)
    lightning.seed_everything(0)
    roots = rows if isinstance(rows, dict) else str(rows)
    runner.fit(stage, LanguageData(roots, **(options | more)), ckpt_path=checkpoint)
    return losses.values, runner
