"""Quality of decoded speech against the original: pair -> number, one entry of `METRICS` each.

A package, because every kind of metric leans on another library and is read on its own:

    pair.py         two waveforms of equal length and rate, what every metric takes
    perceptual.py   PESQ, STOI
    signal.py       SI-SDR, spectral distances
    pitch.py        F0 correlation, voicing
    speaker.py      speaker similarity
    words.py        word error rate
    registry.py     the table of metrics, and `speech_metrics`, which scores a pair with some of them
"""

from mimo_codec.metrics.registry import (
    CORE_METRICS,
    METRICS,
    Metric,
    available_metrics,
    missing_packages,
    require_metric,
    speech_metrics,
)

__all__ = [
    "CORE_METRICS",
    "METRICS",
    "Metric",
    "available_metrics",
    "missing_packages",
    "require_metric",
    "speech_metrics",
]
