"""Speech for the tests of the pipeline: pieces of the example, joined with pauses of known length."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from conftest import ROOT

from mimo_codec import load_audio
from mimo_codec.audio.resampling import resample

RATE = 16000


@cache
def example() -> np.ndarray:
    """Natural speech [S] at 16 kHz, without silence around it."""
    waveform, rate = load_audio(ROOT / "examples" / "speech.wav")
    samples = resample(waveform.numpy(), rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def noise(seconds: float, level: float = 1e-3, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


Places = list[tuple[float, float]]


def join(pieces: list[np.ndarray], pauses: list[float], level: float = 1e-3) -> tuple[np.ndarray, Places]:
    """Pieces with pauses before each and after the last, in noise -> samples, and where the pieces are, in seconds."""
    parts, places, position = [], [], 0.0
    for number, pause in enumerate(pauses):
        parts.append(np.zeros(round(pause * RATE), np.float32))
        position += pause
        if number < len(pieces):
            parts.append(pieces[number])
            places.append((position, position + len(pieces[number]) / RATE))
            position = places[-1][1]
    samples = np.concatenate(parts)
    return samples + noise(len(samples) / RATE + 1, level)[: len(samples)], places


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, rate, **options)
    return path
