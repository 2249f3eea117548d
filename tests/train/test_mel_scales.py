"""Scales of the mel loss in milliseconds: the same samples as before at 24 kHz, and the same times at other rates."""

from __future__ import annotations

import logging

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import yaml
from conftest import ROOT, SMALL, make_speech
from training import fit, make_unified

from mimo_codec import MimoError
from mimo_codec.codec.mel_distance import PAPER_SCALES
from mimo_codec.data.batch import Batch
from mimo_codec.train.codec.options import StageOptions
from mimo_codec.train.codec.stages import UnifiedStage

NANO_SAMPLES = ((32, 240, 120), (64, 480, 120), (80, 960, 240), (128, 1920, 480))


def recipe_options(name: str) -> StageOptions:
    scales = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())["model"]["init_args"]["mel_scales_ms"]
    return StageOptions(mel_scales_ms=scales)


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        *((name, NANO_SAMPLES) for name in ("nano_stage1", "nano_stage2")),
        *((name, PAPER_SCALES) for name in ("mimo_stage1", "mimo_stage2", "finetune_decoder", "text")),
    ],
)
def test_recipes_have_the_samples_that_they_had(name, samples):
    assert recipe_options(name).scales(24000) == samples
    assert recipe_options(name).scales(48000) == tuple((bands, 2 * size, 2 * hop) for bands, size, hop in samples)


def test_the_default_is_the_papers():
    assert StageOptions().scales(24000) == PAPER_SCALES
    assert StageOptions().scales(44100) == ((32, 441, 220), (64, 882, 441), (128, 1764, 882))


def test_scales_in_samples_still_work_and_may_be_given_beside_the_same_in_milliseconds():
    """A checkpoint of before has samples, the recipe it goes on with has milliseconds."""
    assert StageOptions(mel_scales=[[16, 100, 50]]).scales(48000) == ((16, 100, 50),)
    both = StageOptions(mel_scales=NANO_SAMPLES, mel_scales_ms=recipe_options("nano_stage1").mel_scales_ms)
    assert both.scales(24000) == NANO_SAMPLES
    with pytest.raises(MimoError, match="mel_scales_ms and mel_scales differ"):
        both.scales(16000)


@pytest.mark.parametrize("scale", [(0, 10, 5), (32, 10, 20), (32, -1, 1), (32, 10), (32, float("nan"), 5)])
@pytest.mark.parametrize("name", ["mel_scales_ms", "mel_scales"])
def test_impossible_scales_are_refused(name, scale):
    with pytest.raises(MimoError, match=f"{name}: "):
        StageOptions(**{name: [scale]})


def test_a_hop_below_one_sample_is_refused():
    with pytest.raises(MimoError, match="below one sample at 16000 Hz"):
        StageOptions(mel_scales_ms=[(8, 10, 0.02)]).scales(16000)


def test_both_forms_give_the_same_loss():
    speech = torch.stack([make_speech(0.5, seed=seed) for seed in (0, 1)])
    batch = Batch(speech, torch.tensor([12000, 9000]), ("", ""), ("a", "b"))
    in_ms = recipe_options("nano_stage1").mel_scales_ms
    stages = [
        UnifiedStage("tiny", SMALL, mel_power=0.3, **scales)
        for scales in ({"mel_scales": NANO_SAMPLES}, {"mel_scales_ms": in_ms})
    ]
    losses = [stage.waveform_terms(0.5 * speech, batch)["reconstruction"] for stage in stages]
    assert losses[0] == losses[1] > 0


def test_a_run_with_scales_in_samples_goes_on_with_those_in_milliseconds(speech_folder, tmp_path, caplog):
    """To the same losses, and without a word of a change; other scales take effect and are named."""
    caplog.set_level(logging.INFO)
    in_samples, in_ms = {"mel_scales": NANO_SAMPLES}, {"mel_scales_ms": recipe_options("nano_stage1").mel_scales_ms}
    torch.manual_seed(0)
    whole, _ = fit(make_unified(**in_samples), speech_folder, tmp_path, 3)
    torch.manual_seed(0)
    _, stopped = fit(make_unified(**in_samples), speech_folder, tmp_path, 3, stop=1)
    stopped.save_checkpoint(tmp_path / "before.ckpt")
    rest, _ = fit(make_unified(**in_ms), speech_folder, tmp_path, 3, checkpoint=tmp_path / "before.ckpt")
    assert rest == pytest.approx(whole[1:], rel=1e-6) and "mel_scales" not in caplog.text
    fit(make_unified(mel_scales=[[8, 240, 120]]), speech_folder, tmp_path, 3, checkpoint=tmp_path / "before.ckpt")
    assert "mel_scales: " in caplog.text
