"""What a target of the attacks is, and the sound and the codec that most of them begin with."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import SMALL

from mimo_codec import CodecConfig, MimoCodec

RATE = 16000
SECONDS = 0.3


@dataclass(frozen=True)
class Target:
    """One kind of input: `prepare` works once in a folder of its own, `spoil` and `attempt` for every input."""

    prepare: Callable[[Path], Any]
    spoil: Callable[[Path, Any, random.Random], Any]
    attempt: Callable[[Path, Any], None]
    share: int
    """Parts of a campaign that this target gets."""


def waveform(seconds: float = SECONDS) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.2 * np.sin(2 * np.pi * 150 * time) + 0.02 * noise).astype(np.float32)


def make_codec() -> MimoCodec:
    torch.manual_seed(0)
    return MimoCodec(CodecConfig.preset("tiny").replace(**SMALL)).eval()
