"""Quality of decoded speech against the original: functions from a pair of waveforms to a number.

    pair.py         two waveforms of equal length and rate, which every metric takes
    perceptual.py   PESQ, STOI
    opinion.py      DNSMOS
    signal.py       SI-SDR, spectral distances
    pitch.py        F0 correlation, voicing
    speaker.py      speaker similarity
    words.py        word error rate
    whisper.py      one of its recognizers
    registry.py     the table of metrics, and `speech_metrics`, which scores a pair with some of them

A new metric is a function in a file of its own and a row of `METRICS` in registry.py.
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
