"""All metrics by name, and how to score a pair of waveforms with some of them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from mimo_codec.audio.resampling import resample
from mimo_codec.common.errors import MimoError
from mimo_codec.metrics import opinion, perceptual, pitch, signal, speaker, whisper, words
from mimo_codec.metrics.pair import Pair

WIDE_RATE, NARROW_RATE = 16000, 8000
MIN_SECONDS = 0.1
"""Less than the longest window of the spectral distances has nothing to be compared."""
EVAL_EXTRA = "pip install 'mimo-codec[eval]'"


@dataclass(frozen=True)
class Metric:
    """One number for a pair."""

    label: str
    """its name in tables"""
    score: Callable[[Pair], float]
    """nan where it has no meaning for the pair"""
    higher_is_better: bool
    unit: str = ""
    rate: int = WIDE_RATE
    """in Hz, of the pair that is scored"""
    packages: tuple[str, ...] = ()
    """optional ones that it imports"""
    install: str = EVAL_EXTRA
    """how to get them"""
    slow: bool = False
    """only by request, for it takes about as long as the audio or is one of many of its kind"""


RECOGNISER = ("pocketsphinx", "jiwer")
# later versions download their models
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
"""name -> metric, in the order of tables; a new one is an entry here"""
CORE_METRICS = ("pesq_wb", "pesq_nb", "stoi", "mel_distance")


def speech_metrics(
    reference: Tensor,
    reference_rate: int,
    decoded: Tensor,
    decoded_rate: int,
    metrics: Sequence[str] = CORE_METRICS,
    text: str | None = None,
) -> dict[str, float]:
    """Scores of decoded speech, name -> value, in the order of `metrics` (names of `METRICS`).

    reference, decoded: [S] of the same sound, at their own rates in Hz; both are resampled to the metric's rate
    (16 kHz, narrow-band PESQ 8 kHz) and cut to the shorter one. text: what is said, where it is known. A score that has
    no meaning for these sounds (PESQ without speech) is nan.
    MimoError for unknown names, for packages that are not installed, and for less than 0.1 s of sound.
    """
    for name in metrics:
        require_metric(name)
    seconds = min(len(reference) / reference_rate, len(decoded) / decoded_rate)
    if seconds < MIN_SECONDS:
        raise MimoError(f"{seconds:.3f} s of sound is too short to be scored; {MIN_SECONDS} s is needed")
    decoded, reference = decoded.detach().float(), reference.detach().float().to(decoded.device)
    pairs = {
        rate: _pair(reference, reference_rate, decoded, decoded_rate, rate, text)
        for rate in {METRICS[name].rate for name in metrics}
    }
    return {name: METRICS[name].score(pairs[METRICS[name].rate]) for name in metrics}


def require_metric(name: str) -> None:
    """MimoError for a name that is not known and for packages that are not installed."""
    if name not in METRICS:
        raise MimoError(f"metric {name!r} is not known; {', '.join(METRICS)} are")
    missing = missing_packages(name)
    if missing:
        raise MimoError(f"{name}: {missing[0]} is not installed: {METRICS[name].install}")


def available_metrics() -> tuple[str, ...]:
    """Names of the metrics whose packages can be imported, slow ones included."""
    return tuple(name for name in METRICS if not missing_packages(name))


def missing_packages(name: str) -> list[str]:
    """Those that the metric needs and that cannot be imported."""
    return [package for package in METRICS[name].packages if not _can_import(package)]


def _can_import(package: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what packages say of their own imports is not for users
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
