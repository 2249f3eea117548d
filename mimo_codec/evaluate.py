"""Quality of a codec on a folder of speech: every file is coded, decoded and compared with the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimo_codec.audio import load_audio
from mimo_codec.codec import MimoCodec
from mimo_codec.metrics import speech_metrics


@dataclass(frozen=True)
class Evaluation:
    """Scores of every file, and how much of each codebook the files use together."""

    scores: dict[str, dict[str, float]]
    """file -> metric -> value"""
    usage: list[float]
    """share of each codebook's entries that occur at least once"""
    seconds: float
    """audio evaluated"""

    def summary(self) -> dict[str, tuple[float, float]]:
        """metric -> (mean, standard deviation) over files; files without a value (nan) are left out."""
        names = next(iter(self.scores.values()))
        columns = {name: np.array([s[name] for s in self.scores.values()]) for name in names}
        return {name: (float(np.nanmean(c)), float(np.nanstd(c))) for name, c in columns.items()}

    def as_dict(self) -> dict[str, Any]:
        """For programs to read."""
        summary = {name: {"mean": mean, "std": spread} for name, (mean, spread) in self.summary().items()}
        return {"summary": summary, "codebook_usage": self.usage, "seconds": self.seconds, "files": self.scores}

    def lines(self) -> list[str]:
        """For people to read."""
        rows = [f"{name:<13}{mean:8.3f} +- {spread:.3f}" for name, (mean, spread) in self.summary().items()]
        used = " ".join(f"{100 * share:.0f}" for share in self.usage)
        return [f"{len(self.scores)} files, {self.seconds / 60:.1f} min", *rows, f"codebook use  {used} %"]


def evaluate(codec: MimoCodec, paths: Sequence[Path], num_quantizers: int = 8,
             progress: Callable[[Path], None] = lambda path: None) -> Evaluation:  # fmt: skip
    """Code and decode each file with the first `num_quantizers` codebooks and score it (see `speech_metrics`).

    progress is called with each file's path when it is done. Raises MimoError for unreadable files.
    """
    scores, seconds = {}, 0.0
    used = [np.zeros(size, dtype=bool) for size in codec.codebook_sizes[:num_quantizers]]
    for path in paths:
        original, rate = load_audio(path)
        codes = codec.encode(original, rate, num_quantizers)
        scores[str(path)] = speech_metrics(original, rate, codec.decode(codes), codec.sample_rate)
        seconds += codes.duration
        for seen, row in zip(used, codes.to_numpy(), strict=True):
            seen[row] = True
        progress(path)
    return Evaluation(scores, [float(seen.mean()) for seen in used], seconds)
