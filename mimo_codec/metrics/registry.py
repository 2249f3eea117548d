"""The table of metrics, and functions that score a pair of waveforms with some of them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from mimo_codec.audio.resampling import resample
from mimo_codec.common.checks import check_choice, require
from mimo_codec.metrics import opinion, perceptual, pitch, signal, speaker, whisper, words
from mimo_codec.metrics.pair import Pair

WIDE_RATE, NARROW_RATE = 16000, 8000
MIN_SECONDS = 0.1
"""Shorter sounds are shorter than the longest window of the spectral distances."""
EVAL_EXTRA = "pip install 'mimo-codec[eval]'"


@dataclass(frozen=True)
class Metric:
    """A row of the table: what a metric is called, how it is computed and what it needs."""

    label: str
    """Its name in tables."""
    score: Callable[[Pair], float]
    """Computes it; nan where it has no meaning for the pair."""
    higher_is_better: bool
    unit: str = ""
    rate: int = WIDE_RATE
    """Sample rate in Hz of the pair that it takes."""
    packages: tuple[str, ...] = ()
    """Optional packages that it imports."""
    install: str = EVAL_EXTRA
    """Command that installs them."""
    slow: bool = False
    """Whether it is computed by request only: it takes about as long as the audio, or is one of many of its kind."""


RECOGNISER = ("pocketsphinx", "jiwer")
# Later versions of moonshine-voice download their models.
MOONSHINE: dict[str, Any] = dict(
    packages=("moonshine_voice", "jiwer"), slow=True, install=f"{EVAL_EXTRA} && pip install moonshine-voice==0.1.0"
)
WHISPER: dict[str, Any] = dict(
    packages=("faster_whisper", *whisper.PARTS, "jiwer"),
    slow=True,
    install=f"{EVAL_EXTRA} && pip install faster-whisper {' '.join(whisper.PARTS)}".replace("_", "-"),
)
DNSMOS: dict[str, Any] = dict(
    packages=("onnxruntime", "speechmos.dnsmos"), slow=True, install="pip install 'mimo-codec[eval,onnx]'"
)
METRICS = {
    "pesq_wb": Metric("PESQ-WB", perceptual.pesq_wb, True, packages=("pesq",)),
    "pesq_nb": Metric("PESQ-NB", perceptual.pesq_nb, True, rate=NARROW_RATE, packages=("pesq",)),
    "stoi": Metric("STOI", perceptual.stoi, True, packages=("pystoi",)),
    "si_sdr": Metric("SI-SDR", signal.si_sdr, True, unit="dB"),
    "mel_distance": Metric("mel distance", signal.mel_distance, False),
    "stft_distance": Metric("STFT distance", signal.stft_distance, False, packages=("auraloss",)),
    "log_spectral_distance": Metric("log-spectral distance", signal.log_spectral_distance, False, unit="dB"),
    "speaker_similarity": Metric(
        "speaker similarity",
        speaker.speaker_similarity,
        True,
        packages=("resemblyzer",),
        install=f"{EVAL_EXTRA} && pip install --no-deps resemblyzer",
    ),
    "f0_correlation": Metric("F0 correlation", pitch.f0_correlation, True, packages=("parselmouth",)),
    "voicing_error": Metric("voicing error", pitch.voicing_error, False, packages=("parselmouth",)),
    "dnsmos": Metric("DNSMOS", opinion.dnsmos, True, **DNSMOS),
    "dnsmos_original": Metric("DNSMOS of the original", opinion.dnsmos_original, True, **DNSMOS),
    "dnsmos_p835": Metric("DNSMOS P.835", partial(opinion.dnsmos, test="p835"), True, **DNSMOS),
    "dnsmos_p835_original": Metric(
        "DNSMOS P.835 of the original", partial(opinion.dnsmos_original, test="p835"), True, **DNSMOS
    ),
    "wer": Metric("WER", words.wer, False, packages=RECOGNISER, slow=True),
    "wer_original": Metric("WER of the original", words.wer_original, False, packages=RECOGNISER, slow=True),
    "wer_moonshine": Metric("WER (Moonshine)", partial(words.wer, recogniser="moonshine"), False, **MOONSHINE),
    "wer_moonshine_original": Metric(
        "WER of the original (Moonshine)", partial(words.wer_original, recogniser="moonshine"), False, **MOONSHINE
    ),
    "wer_whisper": Metric("WER (Whisper)", partial(words.wer, recogniser="whisper"), False, **WHISPER),
    "wer_whisper_original": Metric(
        "WER of the original (Whisper)", partial(words.wer_original, recogniser="whisper"), False, **WHISPER
    ),
}
"""Name -> metric, in the order of tables; a new metric is a row here."""
CORE_METRICS = ("pesq_wb", "pesq_nb", "stoi", "mel_distance")


def speech_metrics(
    reference: Tensor,
    reference_rate: int,
    decoded: Tensor,
    decoded_rate: int,
    metrics: Sequence[str] = CORE_METRICS,
    text: str | None = None,
) -> dict[str, float]:
    """Score decoded speech -> name -> value, in the order of `metrics`.

    Args:
        reference: the original [S].
        reference_rate: its sample rate in Hz.
        decoded: the decoded waveform [S'] of the same sound.
        decoded_rate: its sample rate in Hz. Both waveforms are resampled to the metric's rate (16 kHz, narrow-band PESQ
            8 kHz) and cut to the shorter one.
        metrics: names of `METRICS`.
        text: what is said, if it is known.

    Returns:
        The scores; one that has no meaning for these sounds (PESQ without speech) is nan.

    Raises:
        MimoError: for unknown names, for packages that are not installed, and for less than 0.1 s of sound.
    """
    for name in metrics:
        require_metric(name)
    seconds = min(len(reference) / reference_rate, len(decoded) / decoded_rate)
    require(seconds >= MIN_SECONDS, f"{seconds:.3f} s of sound is too short to be scored; {MIN_SECONDS} s is needed")
    decoded, reference = decoded.detach().float(), reference.detach().float().to(decoded.device)
    pairs = {
        rate: _pair(reference, reference_rate, decoded, decoded_rate, rate, text)
        for rate in {METRICS[name].rate for name in metrics}
    }
    return {name: METRICS[name].score(pairs[METRICS[name].rate]) for name in metrics}


def require_metric(name: str) -> None:
    """Raise MimoError when a metric is not known or a package that it needs is not installed."""
    check_choice("metric", name, METRICS)
    missing = next(iter(missing_packages(name)), None)
    require(missing is None, f"{name}: {missing} is not installed: {METRICS[name].install}")


def available_metrics() -> tuple[str, ...]:
    """List the metrics whose packages can be imported, slow ones included."""
    return tuple(name for name in METRICS if not missing_packages(name))


def missing_packages(name: str) -> list[str]:
    """List the packages that the metric needs and that cannot be imported."""
    return [package for package in METRICS[name].packages if not _can_import(package)]


def _can_import(package: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of packages about their own imports are not for users
            importlib.import_module(package)
    except ImportError:
        return False
    return True


def _pair(
    reference: Tensor, reference_rate: int, decoded: Tensor, decoded_rate: int, rate: int, text: str | None
) -> Pair:
    waveforms = resample(reference, reference_rate, rate), resample(decoded, decoded_rate, rate)
    size = min(map(len, waveforms))
    return Pair(waveforms[0][:size], waveforms[1][:size], rate, text)
