"""Training data of a folder, and its batches."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")


from mimo_codec.data.batch import Batch
from mimo_codec.data.module import SpeechData


def make_data(root: Path, **options: Any) -> SpeechData:
    data = SpeechData(str(root), **{"batch_size": 4, "segment_seconds": 0.5} | options)
    data.setup()
    return data


def attach(
    data: SpeechData, root: Path | str = ".", rank: int = 0, world_size: int = 1, seen: int = 0, max_steps: int = 10
) -> SimpleNamespace:
    """A stand-in for a trainer whose module has trained on `seen` batches."""
    trainer = SimpleNamespace(
        default_root_dir=str(root),
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        max_steps=max_steps,
        accumulate_grad_batches=1,
        lightning_module=SimpleNamespace(batches_seen=seen),
    )
    data.trainer = trainer  # type: ignore[assignment]
    return trainer


def batches(data: SpeechData, count: int) -> list[dict[str, Batch]]:
    return [batch for batch, _, _ in itertools.islice(iter(data.train_dataloader()), count)]


def equal(one: Batch, other: Batch) -> bool:
    tensors = torch.equal(one.waveform, other.waveform) and torch.equal(one.lengths, other.lengths)
    return tensors and one[2:] == other[2:]
