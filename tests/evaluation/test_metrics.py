"""Metrics against known truths, and without their packages."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_codec import MimoError, load_audio, resample
from mimo_codec.evaluation.codec.scoring import choose_metrics
from mimo_codec.metrics import CORE_METRICS, METRICS, available_metrics, missing_packages, speech_metrics, words
from mimo_codec.metrics.pitch import f0_contour
from mimo_codec.metrics.signal import MAX_SI_SDR

SPEECH = ROOT / "examples" / "speech.wav"
RATE = 16000

PERFECT = {
    "pesq_wb": 4.644,
    "pesq_nb": 4.549,
    "si_sdr": MAX_SI_SDR,
    "stoi": 1,
    "speaker_similarity": 1,
    "f0_correlation": 1,
}
"""of two equal waveforms; 0 for all others"""


def need(*metrics: str) -> None:
    missing = [package for name in metrics for package in missing_packages(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def noise(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(like), generator=torch.Generator().manual_seed(seed))


def score(name: str, reference: torch.Tensor, decoded: torch.Tensor, **known: str) -> float:
    return speech_metrics(reference, RATE, decoded, RATE, (name,), **known)[name]


# ---- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.slow])
def test_equal_is_perfect_and_noise_is_worse(name, voice):
    need(name)
    equal = score(name, voice, voice)
    noisy = [score(name, voice, voice + level * voice.std() * noise(voice)) for level in (0.05, 1)]
    assert equal == pytest.approx(PERFECT.get(name, 0), abs=2e-3)
    ranking = [equal, *noisy] if METRICS[name].higher_is_better else [-equal, *(-value for value in noisy)]
    assert ranking == sorted(ranking, reverse=True) and ranking[0] > ranking[2]


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.slow])
def test_silence_does_not_break_them(name, voice):
    need(name)
    for reference, decoded in ((voice, 0 * voice), (0 * voice, voice), (0 * voice, 0 * voice)):
        assert isinstance(score(name, reference, decoded), float)


def test_rates_may_differ_and_lengths_by_a_little(voice):
    need(*CORE_METRICS)
    decoded = resample(voice, RATE, 24000)[:-100]
    scores = speech_metrics(voice, RATE, decoded, 24000)
    assert tuple(scores) == CORE_METRICS
    assert scores["pesq_wb"] > 4.5 and scores["stoi"] > 0.999 and scores["mel_distance"] < 0.3


@given(st.floats(-20, 40), st.floats(0.01, 100))
@settings(deadline=None, max_examples=20)
def test_si_sdr_of_known_noise_at_any_gain(decibels, gain):
    signal = noise(torch.empty(4000), seed=1).double()
    error = noise(torch.empty(4000), seed=2).double()
    signal, error = signal - signal.mean(), error - error.mean()
    error -= (error @ signal) / (signal @ signal) * signal
    error *= (signal.square().sum() / error.square().sum() * 10 ** (-decibels / 10)).sqrt()
    assert score("si_sdr", signal.float(), (gain * (signal + error)).float()) == pytest.approx(decibels, abs=0.01)


def test_log_spectral_distance_of_a_gain_is_the_gain():
    signal = noise(torch.empty(RATE))
    assert score("log_spectral_distance", signal, signal * 10 ** (6 / 20)) == pytest.approx(6, abs=0.01)


def glide(low: float, high: float, seconds: float = 2.0) -> torch.Tensor:
    """A pulse-like tone whose F0 rises evenly on a logarithmic scale."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    phase = torch.cumsum(low * (high / low) ** (t / seconds) / RATE, 0) * 2 * torch.pi
    return 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 10)).float()


def test_f0_of_a_glide():
    need("f0_correlation")
    rising, fifth_higher, falling = glide(120, 200), glide(180, 300), glide(200, 120)
    contour = f0_contour(rising.numpy(), RATE)
    seconds = np.linspace(0, 2, len(contour))
    inner = slice(10, -10)
    assert contour[inner] == pytest.approx(120 * (200 / 120) ** (seconds[inner] / 2), rel=0.02)
    assert score("f0_correlation", rising, fifth_higher) == pytest.approx(1, abs=1e-3)
    assert score("f0_correlation", rising, falling) < -0.99


def test_voicing_error_is_the_share_of_frames_that_differ():
    need("voicing_error")
    half_silent = torch.cat((glide(120, 200)[:RATE], torch.zeros(RATE)))
    assert score("voicing_error", glide(120, 200), half_silent) == pytest.approx(0.5, abs=0.03)
    assert math.isnan(score("f0_correlation", torch.zeros(RATE), torch.zeros(RATE)))


def test_a_speaker_is_more_like_himself_than_like_a_smaller_one():
    need("speaker_similarity")
    whole = resample(*load_audio(SPEECH), RATE)
    first, second = whole.split(-(-len(whole) // 2))
    smaller = resample(second, 24000, RATE)  # pitch and formants 1.5 times as high
    assert score("speaker_similarity", first, second) > score("speaker_similarity", first, smaller) + 0.05


@pytest.mark.parametrize("metric", ["dnsmos", "dnsmos_p835"])
def test_a_predicted_opinion_is_of_one_sound_alone(metric, voice):
    need(metric)
    noisy = voice + 0.3 * voice.std() * noise(voice)
    assert 1 < score(metric, voice, noisy) < score(metric, noisy, voice) - 0.2 < 5
    assert score(metric, noisy, voice) == score(f"{metric}_original", voice, noisy)
    assert math.isnan(score(metric, voice, 0 * voice)) and math.isnan(score(f"{metric}_original", 0 * voice, voice))


@pytest.mark.parametrize(
    ("text", "heard", "rate"),
    [
        ("The cat, sat!", "the cat sat", 0),
        ("It's here", "it's hear", 1 / 2),
        ("one two three", "one three", 1 / 3),
        ("one", "one two three", 2),
        ("one two", "", 1),
    ],
)
def test_word_error_rate(text, heard, rate):
    need("wer")
    assert words.word_error_rate(text, heard) == pytest.approx(rate)
    assert math.isnan(words.word_error_rate("-", heard))


RECOGNISERS = {"wer": "pocketsphinx", "wer_moonshine": "moonshine", "wer_whisper": "whisper"}


@pytest.mark.parametrize("metric", RECOGNISERS)
def test_words_are_those_of_the_text_or_else_of_the_original(monkeypatch, voice, metric):
    need(metric)
    monkeypatch.setitem(
        words.RECOGNISERS, RECOGNISERS[metric], lambda pcm: "a b c d" if max(pcm[1::2]) > 60 else "a b c x"
    )
    original, decoded = 0.5 * voice.abs() / voice.max(), 0.02 * voice.abs()
    assert score(metric, original, decoded) == 1 / 4
    assert score(metric, original, decoded, text="a b y z") == 2 / 4
    assert score(f"{metric}_original", original, decoded, text="a b y d") == 1 / 4
    assert math.isnan(score(f"{metric}_original", original, decoded))


@pytest.mark.parametrize(("metric", "recogniser"), RECOGNISERS.items())
def test_a_transcript_does_not_depend_on_what_was_heard_before(voice, metric, recogniser):
    need(metric)
    clip = voice[: round(1.2 * RATE)].numpy()
    before = words.transcribe(clip, recogniser)
    words.transcribe(0.05 * voice[RATE : 2 * RATE].numpy(), recogniser)
    words._transcribe.cache_clear()
    assert words.transcribe(clip, recogniser) == before


def test_what_cannot_be_scored():
    with pytest.raises(MimoError, match="metric 'loudness' is not known; choose one of pesq_wb"):
        score("loudness", torch.ones(RATE), torch.ones(RATE))
    with pytest.raises(MimoError, match="too short"):
        score("si_sdr", torch.ones(RATE), torch.ones(100))
    for name in ("si_sdr", "mel_distance", "log_spectral_distance"):
        assert isinstance(score(name, make_speech(0.1, RATE), make_speech(0.1, RATE, seed=1)), float)


# ---- packages that are not there -------------------------------------------------------------------------------------


def test_missing_packages_are_left_out_unless_asked_for_by_name(monkeypatch, voice):
    monkeypatch.setitem(sys.modules, "pesq", None)
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    assert not {"pesq_wb", "pesq_nb", "speaker_similarity"} & set(available_metrics())
    chosen, notes = choose_metrics(None)
    assert "mel_distance" in chosen and "pesq_wb" not in chosen
    assert "left out: pesq_wb, pesq_nb (pesq is not installed: pip install 'mimo-codec[eval]')" in notes
    with pytest.raises(MimoError, match=r"pesq_nb: pesq is not installed: pip install 'mimo-codec\[eval\]'"):
        choose_metrics(["stoi", "pesq_nb"])
    with pytest.raises(MimoError, match="pip install --no-deps resemblyzer"):
        score("speaker_similarity", voice, voice)


def test_slow_metrics_are_for_those_who_ask():
    assert not {"wer", "wer_original", "wer_moonshine", "wer_whisper"} & set(choose_metrics(None)[0])
    assert set(choose_metrics(["all"])[0]) == set(available_metrics())
    assert choose_metrics(["si_sdr", "mel_distance", "si_sdr"]) == (("si_sdr", "mel_distance"), [])
