"""Batches, gradients and losses that are not finite leave no trace in what is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from safetensors.torch import load_file
from training import QUIET, fit, make_adversarial, make_unified

from mimo_codec import MimoError


class Poison(lightning.Callback):
    """Replaces the speech of some batches by NaN."""

    def __init__(self, batches: Sequence[int]):
        self.batches = batches
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, stage, batch, batch_idx):
        if stage.batches_seen in self.batches:
            batch["crops"].waveform.fill_(torch.nan)

    def on_train_batch_end(self, trainer, stage, *_):
        self.weights.append(
            torch.cat(
                [
                    x.detach().flatten().float()
                    for x in (*stage.codec.parameters(), *(stage.codec.quantizer.codebook(i) for i in range(2)))
                ]
            )
        )


def test_a_batch_that_is_not_finite_leaves_no_trace(speech_folder, small_codec, tmp_path):
    poison = Poison([2])
    stage = make_unified(codec=str(small_codec))
    _, runner = fit(stage, speech_folder, tmp_path, 4, callbacks=[poison])
    assert runner.global_step == 4 and stage.batches_seen == 5 and stage.num_non_finite == 1
    assert torch.equal(poison.weights[1], poison.weights[2])
    assert all(not torch.equal(poison.weights[i], poison.weights[i + 1]) for i in (0, 2, 3))
    assert poison.weights[-1].isfinite().all()


def test_gradients_that_are_not_finite_leave_no_trace(speech_folder, small_codec, tmp_path):
    stage = make_unified(codec=str(small_codec))
    before = stage.codec.encoder.conv1.weight.detach().clone()
    stage.codec.encoder.conv1.weight.register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(MimoError, match="norm of the gradients"):
        fit(stage, speech_folder, tmp_path, 4)
    assert torch.equal(before, stage.codec.encoder.conv1.weight)


def test_stage_2_leaves_out_what_is_not_finite_too(speech_folder, small_codec, tmp_path):
    stage = make_adversarial(small_codec)
    _, runner = fit(stage, speech_folder, tmp_path, 3, callbacks=[Poison([1])])
    assert runner.global_step == 3 and stage.batches_seen == 4 and stage.num_non_finite == 1
    assert all(value.isfinite().all() for value in stage.state_dict().values())


class StopAfterBatch(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True


def test_codebooks_do_not_move_when_the_loss_is_not_finite(speech_folder, small_codec, tmp_path, monkeypatch):
    """Features that are finite, and a loss that is not."""
    stage = make_unified(codec=str(small_codec))
    monkeypatch.setattr(stage, "reconstruction_loss", lambda *_: torch.tensor(torch.nan))
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    fit(stage, speech_folder, tmp_path, 1, callbacks=[StopAfterBatch()])
    assert stage.num_non_finite == 1
    changed = {name for name, value in stage.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= {"last_chosen"}


def test_spectral_norms_do_not_move_when_the_loss_is_not_finite(speech_folder, small_codec, tmp_path, monkeypatch):
    import mimo_codec.train.codec.stages as module

    for broken in (True, False):
        if broken:
            monkeypatch.setattr(module, "discriminator_loss", lambda *_: torch.tensor(torch.nan))
        stage = make_adversarial(small_codec)
        before = {name: value.clone() for name, value in stage.discriminators.state_dict().items()}
        fit(stage, speech_folder, tmp_path, 1, callbacks=[StopAfterBatch()])
        monkeypatch.undo()
        assert stage.num_non_finite == broken
        changed = {n for n, value in stage.discriminators.state_dict().items() if not torch.equal(value, before[n])}
        assert bool(changed) != broken and any("_u" in name for name in changed) != broken


def test_training_stops_after_several_in_a_row_and_saves_the_batch(speech_folder, small_codec, tmp_path):
    stage = make_unified(codec=str(small_codec), max_non_finite=3)
    with pytest.raises(MimoError, match="3 batches in a row were not finite"):
        fit(stage, speech_folder, tmp_path, 9, callbacks=[Poison([1, 3, 4, 5])])
    assert stage.num_non_finite == 4 and stage.batches_seen == 6
    (saved,) = (tmp_path / "non_finite").glob("*.safetensors")
    assert load_file(saved)["crops.waveform"].isnan().all()
    about = json.loads(saved.with_suffix(".json").read_text())
    assert len(about["names"]["crops"]) == 4 and ".wav" in about["names"]["crops"][0]


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_float16_is_refused(small_codec, monkeypatch, precision):
    stage = make_unified(codec=str(small_codec))
    stage.trainer = lightning.Trainer(**QUIET)
    monkeypatch.setattr(type(stage.trainer), "precision", precision)
    with pytest.raises(MimoError, match="bf16-mixed"):
        stage.on_fit_start()
