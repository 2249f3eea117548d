"""Signals that the tests of audio share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype) * 2 - 1


def sine(frequency: float, rate: int, num_samples: int, phase: float = 0.0) -> Tensor:
    t = torch.arange(num_samples, dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * frequency * t + phase)


SPEECH_LIKE = 0.5 * sine(440, 24_000, 36_001).float() * sine(2, 24_000, 36_001).float()
