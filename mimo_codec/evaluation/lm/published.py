"""Published scores, to stand in the tables beside those of a model (arXiv 2512.23808, tables 4 and 5, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Published(NamedTuple):
    """Scores of a model in percent, or in the unit of the metric, by mode and group."""

    model: str
    shots: int
    scores: Mapping[tuple[str, str, str], float]
    """(mode, group, metric) -> value."""


def _speechmmlu(model: str, s2s: float, s2t: float, t2s: float, t2t: float) -> Published:
    values = {"s2s": s2s, "s2t": s2t, "t2s": t2s, "t2t": t2t}
    return Published(model, 5, {(mode, "all", "accuracy"): value for mode, value in values.items()})


def _mmau(model: str, overall: float, speech: float, sound: float, music: float) -> Published:
    values = {"all": overall, "speech": speech, "sound": sound, "music": music}
    return Published(model, 5, {("", group, "accuracy"): value for group, value in values.items()})


BASE, STEP, KIMI, BAICHUAN = "MiMo-Audio-7B-Base", "Step-Audio2-mini base", "Kimi-Audio base", "Baichuan-Audio base"
INSTRUCT = "MiMo-Audio-7B-Instruct"
PUBLISHED: Mapping[str, Sequence[Published]] = {
    "speechmmlu": (
        _speechmmlu(BASE, 69.1, 69.5, 71.5, 72.5),
        _speechmmlu(STEP, 51.8, 67.8, 63.4, 74.1),
        _speechmmlu(KIMI, 11.8, 67.9, 0.0, 70.7),
        _speechmmlu(BAICHUAN, 31.9, 29.9, 16.7, 71.1),
    ),
    "mmau": (
        _mmau(BASE, 66.0, 67.6, 65.2, 65.3),
        _mmau(STEP, 60.3, 55.0, 67.9, 58.1),
        _mmau(KIMI, 28.6, 29.4, 31.5, 24.8),
        _mmau(BAICHUAN, 25.9, 14.4, 30.3, 32.9),
        Published(INSTRUCT, 0, {("", "all", "accuracy"): 74.9}),
    ),
    "asr": (
        Published(f"{INSTRUCT}, LibriSpeech test-clean", 0, {("", "all", "wer_mean"): 3.76}),
        Published(f"{INSTRUCT}, AISHELL-1", 0, {("", "all", "wer_mean"): 1.78}),
    ),
    "tts": tuple(
        Published(f"{INSTRUCT}, Seed-TTS {name}", 0, {("plain", "all", "wer_mean"): value})
        for name, value in (("en", 5.37), ("zh", 1.96), ("zh hard", 14.14))
    ),
}
"""Suite -> published scores. Those of voice conversion (similarity 38.7 by another encoder of voices) and translation
(75.9 by COMET) have other scales than the judges here, and are left out."""
