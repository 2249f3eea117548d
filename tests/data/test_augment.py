"""Augmentation: what each switch does to speech, and what none of them may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lightning", reason="needs the train extra")

from jsonargparse import ArgumentParser

from mimo_codec import MimoError
from mimo_codec.data.augment import Augmentation, change_speed, num_samples_before
from mimo_codec.data.module import SpeechData

ranges = st.tuples(st.floats(-10, 40), st.floats(-10, 40)).map(sorted).map(tuple)
augmentations = st.builds(
    Augmentation,
    gain_db=st.none() | ranges,
    invert=st.booleans(),
    speed=st.floats(0, 0.5),
    equalise_db=st.floats(0, 40),
    noise_snr_db=st.none() | ranges,
    reverb=st.floats(0, 1),
    bandwidth=st.floats(0, 1),
    formant=st.floats(0, 0.5),
)


@settings(deadline=None)
@given(
    augmentation=augmentations,
    seed=st.integers(0, 2**32),
    num_samples=st.integers(1, 5000),
    level=st.sampled_from([0.0, 1e-6, 0.1, 1.0, 1000.0]),
)
def test_augmented_speech_stays_finite_and_in_range(
    augmentation: Augmentation, seed: int, num_samples: int, level: float
) -> None:
    speech = level * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))
    outcome, again = (augmentation(speech, 24000, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(outcome, again)
    assert outcome.shape == speech.shape and outcome.dtype == torch.float32
    assert outcome.isfinite().all() and outcome.abs().max() <= 0.99


@settings(deadline=None)
@given(speed=st.integers(50, 150), num_samples=st.integers(1, 30000))
def test_enough_is_read_for_every_speed(speed: int, num_samples: int) -> None:
    changed = change_speed(torch.zeros(num_samples_before(num_samples, speed)), speed)
    assert num_samples <= len(changed) <= num_samples + 2


def test_speed_moves_the_pitch() -> None:
    time = torch.arange(24000) / 24000
    faster = change_speed(torch.sin(2 * torch.pi * 1000 * time), 110)
    spectrum = torch.fft.rfft(faster).abs()
    assert spectrum.argmax() * 24000 / len(faster) == pytest.approx(1100, abs=3)


def test_formants_move_and_the_pitch_stays() -> None:
    harmonics = 120.0 * torch.arange(1, 80)
    time = torch.arange(24000) / 24000
    levels = torch.exp(-(((harmonics - 2000) / 400) ** 2))  # one formant
    speech = 0.05 * (levels[:, None] * torch.sin(2 * torch.pi * harmonics[:, None] * time)).sum(0)

    def formant_and_peaks(x: torch.Tensor) -> tuple[float, list[int]]:
        power = torch.fft.rfft(x[4000:16000] * torch.hann_window(12000)).abs().square()
        hertz = torch.arange(len(power)) * 2.0
        return float((power * hertz).sum() / power.sum()), [int(2 * i) for i in power.topk(5).indices]

    before, peaks = formant_and_peaks(speech)
    draw = 1 + np.random.default_rng(3).uniform(-0.2, 0.2)
    moved = Augmentation(None, False, formant=0.2)(speech, 24000, np.random.default_rng(3))
    after, moved_peaks = formant_and_peaks(moved)
    assert abs(draw - 1) > 0.05 and after / before - 1 == pytest.approx(draw - 1, rel=0.3)
    assert all(min(peak % 120, 120 - peak % 120) <= 4 for peak in (*peaks, *moved_peaks))


def test_every_setting_is_a_switch() -> None:
    speech = make_speech(1.0) / 4

    def change(**settings: Any) -> torch.Tensor:
        augmentation = Augmentation(**{"gain_db": None, "invert": False} | settings)
        return augmentation(speech, 24000, np.random.default_rng(5))

    assert torch.equal(change(), speech)
    gain = change(gain_db=(-6.0, -3.0)).norm() / speech.norm()
    assert 10 ** (-6 / 20) <= gain <= 10 ** (-3 / 20)
    signs = [Augmentation(None, True)(speech, 24000, np.random.default_rng(i))[1000] / speech[1000] for i in range(20)]
    assert {round(float(sign)) for sign in signs} == {-1, 1}
    noise = change(noise_snr_db=(12.0, 12.0)) - speech
    assert 20 * torch.log10(speech.norm() / noise.norm()) == pytest.approx(12, abs=0.1)
    spectra = [torch.fft.rfft(x, 48000).abs() for x in (speech, change(equalise_db=12.0), change(bandwidth=1.0))]
    levels = [20 * torch.log10(x[:24000].view(-1, 240).norm(dim=1)) for x in spectra]
    assert 2 < (levels[1] - levels[0]).abs().max() < 13
    assert spectra[2][-200:].max() < 0.01 * spectra[0][-200:].max()
    click = torch.zeros(24000)
    click[0] = 0.5
    room = Augmentation(None, False, reverb=1.0)(click, 24000, np.random.default_rng(0))
    assert room[0] == pytest.approx(0.5, rel=1e-3) and room[1:2000].norm() > 10 * room[4000:].norm() > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gain_db", (6.0, -8.0)),
        ("gain_db", (1.0,)),
        ("gain_db", 3.0),
        ("speed", 0.6),
        ("equalise_db", -1.0),
        ("noise_snr_db", (0.0, float("nan"))),
        ("reverb", 1.1),
        ("bandwidth", True),
    ],
)
def test_settings_that_are_refused(name: str, value: Any) -> None:
    with pytest.raises(MimoError, match=f"augmentation: {name}"):
        Augmentation(**{name: value})


def test_augmentation_is_set_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "data: {root: speech, augmentation: {gain_db: [-3, 3], invert: false, speed: 0.05, noise_snr_db: null}}"
    )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SpeechData, "data")
    arguments = ["--config", str(tmp_path / "recipe.yaml"), "--data.augmentation.reverb", "0.5"]
    data = parser.instantiate_classes(parser.parse_args(arguments)).data
    assert data.augmentation == Augmentation((-3.0, 3.0), False, 0.05, reverb=0.5)
    data = parser.instantiate_classes(parser.parse_args(["--data.root", "speech"])).data
    assert data.augmentation == Augmentation()
