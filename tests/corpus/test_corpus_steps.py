"""Steps tell what was put into the sound."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import RATE, example

from mimo_codec import MimoError
from mimo_codec.corpus.config import StepOptions
from mimo_codec.corpus.schema import BASE
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps import check_steps, find_step, make_steps
from mimo_codec.corpus.steps.base import Step
from mimo_codec.corpus.steps.quality import (
    Quality,
    frame_powers,
    measure_bandwidth,
    measure_clipping,
    measure_snr,
)
from mimo_codec.corpus.steps.speakers import group_speakers


def described(step: Step, samples: np.ndarray, rate: int = RATE, **row) -> dict:
    segment = Segment(samples.astype(np.float32), rate, {"recording": "r", **row})
    step.describe([segment])
    step.finish([segment.row])
    return segment.row


def in_noise(snr_db: float, seed: int = 0) -> np.ndarray:
    """The example with pauses between which nobody speaks, in white noise."""
    speech = np.concatenate((np.zeros(RATE // 2, np.float32), example()[: 6 * RATE], np.zeros(RATE // 2, np.float32)))
    noise = np.random.default_rng(seed).standard_normal(len(speech))
    return speech + noise * np.sqrt(np.square(speech).mean() / 10 ** (snr_db / 10))


@pytest.mark.parametrize("snr_db", [0, 5, 10, 20, 30])
def test_the_ratio_of_signal_to_noise_is_what_was_put_in(snr_db):
    assert measure_snr(frame_powers(in_noise(snr_db).astype(np.float32), RATE)) == pytest.approx(snr_db, abs=2)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("level", [1.0, 0.3])
def test_clipping_is_found_at_any_level(share, level):
    speech = example()[: 5 * RATE]
    limit = np.quantile(np.abs(speech), 1 - share) if share else 2.0
    found = measure_clipping(level * speech.clip(-limit, limit))
    assert found == pytest.approx(share, abs=0.003 if share < 0.05 else 0.04)


@pytest.mark.parametrize("width", [2000, 4000, 8000])
def test_the_bandwidth_is_that_of_what_was_recorded(width):
    wide = np.random.default_rng(0).standard_normal(4 * 24000).astype(np.float32) * 0.1
    spectrum = np.fft.rfft(wide)
    spectrum[np.fft.rfftfreq(len(wide), 1 / 24000) > width] = 0
    narrow = np.fft.irfft(spectrum).astype(np.float32)
    assert measure_bandwidth(narrow, 24000) == pytest.approx(width, rel=0.06)


def test_silence_has_no_figures():
    row = described(Quality(), np.zeros(RATE))
    assert row["snr_db"] is None and row["bandwidth_hz"] is None and row["silence"] == 1.0 and row["clipped"] == 0.0
    row = described(Quality(), np.concatenate((np.zeros(RATE), example()[:RATE])))
    assert 0.45 < row["silence"] < 0.7


def test_equally_loud():
    loudness = pytest.importorskip("pyloudnorm", reason="needs the corpus extra")
    step = find_step("loudness")(target_lufs=-23.0, max_gain_db=60.0)
    for gain in (0.01, 0.2, 1.0):
        speech = gain * example()[: 5 * RATE]
        row = described(step, speech)
        raised = speech * 10 ** (row["gain_db"] / 20)
        assert loudness.Meter(RATE).integrated_loudness(raised) == pytest.approx(-23.0, abs=0.2)
    assert described(step, np.zeros(RATE)) == {"recording": "r", "loudness_lufs": None, "gain_db": 0.0}
    assert described(step, example()[: RATE // 10])["loudness_lufs"] is None
    quiet = described(find_step("loudness")(max_gain_db=6.0), 0.01 * example()[: 5 * RATE])
    assert quiet["gain_db"] == 6.0
    peaky = described(find_step("loudness")(target_lufs=0.0, peak=0.5), example()[: 5 * RATE])
    assert np.abs(example()[: 5 * RATE]).max() * 10 ** (peaky["gain_db"] / 20) == pytest.approx(0.5, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 1000))
def test_speakers_are_numbered_as_they_appear(turns, seed):
    rng = np.random.default_rng(seed)
    voices = np.linalg.qr(rng.standard_normal((64, 4)))[0].T
    embeddings = voices[turns] + 0.02 * rng.standard_normal((len(turns), 64))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    order = list(dict.fromkeys(turns))
    assert group_speakers(embeddings.astype(np.float32), 0.7) == [order.index(turn) for turn in turns]


@pytest.mark.skipif(not find_spec("resemblyzer"), reason="needs resemblyzer")
def test_speakers_that_are_known_stay():
    step = find_step("speakers")()
    speech = example()[: 3 * RATE]
    segments = [Segment(speech, RATE, {"recording": "r", "speaker": name}) for name in (None, "Ann", None)]
    step.describe(segments)
    step.finish([segment.row for segment in segments])
    assert [segment.row for segment in segments] == [
        {"recording": "r", "speaker": name} for name in ("r/0", "Ann", "r/0")
    ]


@pytest.mark.skipif(not find_spec("faster_whisper"), reason="needs faster-whisper")
def test_what_is_said_is_written_down_unless_it_is_known():
    whisper = pytest.importorskip("mimo_codec.metrics.whisper")
    if not all(map(find_spec, whisper.PARTS)):
        pytest.skip("needs the weights of Whisper base")
    step = find_step("transcript")()
    row = described(step, example()[: 6 * RATE])
    assert len(row["text"].split()) > 5 and row["language"] == "en" and -2 < row["confidence"] < 0
    starts = [word["start"] for word in row["words"]]
    assert starts == sorted(starts) and row["words"][-1]["end"] <= 6.5
    assert described(step, example()[: 6 * RATE], text="Known.") == {"recording": "r", "text": "Known."}
    again = described(find_step("transcript")(again=True), example()[: 6 * RATE], text="Known.")
    assert again["text"] == "Known." and again["heard"] == row["text"]


class Louder(Step):
    """A step of a user's own."""

    columns: ClassVar = {"louder": "bool"}
    needs = ("loudness_lufs",)

    def __init__(self, than: float = -30.0):
        self.than = than

    def describe(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            segment.row["louder"] = segment.row["loudness_lufs"] > self.than


def test_steps_are_checked_before_they_load_anything():
    own = f"{__name__}.Louder"
    steps = [StepOptions("loudness", {}), StepOptions(own, {"than": -20.0})]
    assert check_steps(steps, BASE) == {"loudness_lufs": "float32", "gain_db": "float32", "louder": "bool"}
    for wrong, message in (
        ([StepOptions(own, {})], "needs the column loudness_lufs"),
        ([StepOptions("loudnes", {})], "choose one of loudness"),
        ([StepOptions("loudness", {"tarket": 1})], "tarket"),
        ([StepOptions("no.such.Step", {})], "cannot be imported"),
        ([StepOptions("json.JSONDecoder", {})], "no subclass"),
    ):
        with pytest.raises(MimoError, match=message):
            check_steps(wrong, BASE)


def test_errors_of_steps_name_them():
    pytest.importorskip("pyloudnorm", reason="needs the corpus extra")
    with pytest.raises(MimoError, match="describe: loudness: target_lufs must be"):
        make_steps([StepOptions("loudness", {"target_lufs": 3})])
