"""Files to train on, good and broken in every way the scan knows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
from conftest import make_speech

from mimo_codec import save_audio

RATE = 8000


def write_speech(path: Path, seconds: float = 0.4, rate: int = RATE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, make_speech(seconds, rate, seed), rate)
    return path


def truncated_flac(path: Path) -> None:
    write_speech(path.with_suffix(".flac"), 3.0)
    whole = path.with_suffix(".flac").read_bytes()
    path.with_suffix(".flac").unlink()
    path.write_bytes(whole[: len(whole) // 2])


def floats(*values: float, count: int = 4000) -> Callable[[Path], None]:
    samples = np.resize(np.array(values, dtype=np.float32), count)
    return lambda path: sf.write(path, samples, RATE, format="WAV", subtype="FLOAT")


def with_rate(rate: int) -> Callable[[Path], None]:
    return lambda path: sf.write(path, np.full(4000, 0.1), rate, format="WAV")


BROKEN: dict[str, tuple[str, Callable[[Path], None]]] = {
    "text": ("unreadable", lambda path: path.write_text("not audio at all " * 100) and None),
    "empty": ("unreadable", lambda path: path.touch()),
    "random": ("unreadable", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)) and None),
    "header": ("damaged", floats(count=0)),
    "truncated": ("damaged", truncated_flac),
    "nan": ("damaged", floats(0.1, -0.1, float("nan"))),
    "zeros": ("silent", floats(0.0)),
    "quiet": ("silent", floats(1e-4, -1e-4)),
    "clipped": ("clipped", floats(1.0, -1.0, 0.2, 0.1)),
    "loud": ("clipped", floats(20000.0, -3000.0)),
    "short": ("too short", floats(0.1, -0.1, count=100)),
    "rate": ("unreadable", with_rate(1)),
    "dangling": ("missing", lambda path: path.symlink_to(path.parent / "nowhere.wav")),
}
"""How a file can be broken -> the kind of its fault, and how to break one."""


def write_mixed(folder: Path) -> dict[str, str]:
    """200 files in sub-folders, 20 of them broken in 13 ways -> name of each broken one, and the kind of its fault."""
    kinds = {}
    speech = write_speech(folder / "0" / "good.wav").read_bytes()
    for i in range(1, 180):
        place = folder / str(i % 7) / f"good{i}.wav"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(speech)
    for i, (way, (kind, spoil)) in enumerate(itertools.islice(itertools.cycle(BROKEN.items()), 20)):
        path = folder / str(i % 7) / f"{way}{i}.wav"
        spoil(path)
        kinds[path.name] = kind
    return kinds
