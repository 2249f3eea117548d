"""Settings that are changed when a run goes on: each takes effect or is refused."""

from __future__ import annotations

import shutil

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from conftest import SMALL
from training import QUIET, fit, make_adversarial, make_unified

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.data.module import SpeechData
from mimo_codec.train.optimizer import make_optimizer
from mimo_codec.train.resuming import RunSchedule


@pytest.fixture
def saved(speech_folder, tmp_path):
    """A checkpoint of stage 1 after two of four steps."""

    def save(stage, name="saved.ckpt", **data):
        _, runner = fit(stage, speech_folder, tmp_path, 4, stop=2, **data)
        runner.save_checkpoint(tmp_path / name)
        return tmp_path / name

    return save


def rates(runner: lightning.Trainer) -> list[float]:
    return [group["initial_lr"] for optimizer in runner.optimizers for group in optimizer.param_groups]


def test_rates_their_schedule_and_weight_decay_take_effect(saved, speech_folder, small_codec, tmp_path):
    changed = dict(learning_rate=3e-3, matrix_learning_rate=0.02, weight_decay=0.3, warmup_steps=8, decay_share=0.0)
    _, runner = fit(make_unified(**changed), speech_folder, tmp_path, 4, checkpoint=saved(make_unified()), stop=3)
    groups = runner.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == [0.02, 3e-3, 3e-3]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3, 0]
    assert [group["lr"] for group in groups] == pytest.approx([0.02 * 4 / 8, 3e-3 * 4 / 8, 3e-3 * 4 / 8])
    changed = dict(learning_rate=3e-4, discriminator_learning_rate=7e-4)
    checkpoint = saved(make_adversarial(small_codec))
    _, runner = fit(make_adversarial(small_codec, **changed), speech_folder, tmp_path, 4, checkpoint=checkpoint)
    assert rates(runner) == [0.01, 3e-4, 3e-4, 7e-4]


def test_the_first_step_after_a_change_has_the_new_rate():
    """Also from the state of a plain LambdaLR, as earlier versions saved it."""

    def make(rate, schedule):
        layer = torch.nn.Linear(4, 4)
        optimizer = make_optimizer([("layers.weight", layer.weight), ("bias", layer.bias)], rate, rate / 10, 0.1)
        return optimizer, schedule(optimizer, lambda step: 1 / (1 + step))

    for schedule in (RunSchedule, torch.optim.lr_scheduler.LambdaLR):
        before, steps = make(0.02, schedule)
        for _ in range(3):
            before.step()
            steps.step()
        after, resumed = make(0.04, RunSchedule)
        after.load_state_dict(before.state_dict())
        resumed.load_state_dict(steps.state_dict())
        expected = [0.01, 0.001, 0.001][: len(after.param_groups)]
        assert [group["lr"] for group in after.param_groups] == pytest.approx(expected)
        assert resumed.get_last_lr() == pytest.approx(expected)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_batches_per_step_take_effect(before, after, saved, speech_folder, tmp_path):
    checkpoint = saved(make_unified(accumulate=before))
    losses, runner = fit(make_unified(accumulate=after), speech_folder, tmp_path, 6, checkpoint=checkpoint)
    assert runner.global_step == 6 and len(losses) == 4 * after


def test_the_size_of_batches_and_the_seeds_take_effect(saved, speech_folder, tmp_path, caplog):
    checkpoint, stage = saved(make_unified()), make_unified(warmup_steps=5)
    seen = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            seen.append(len(batch["crops"].waveform))

    caplog.set_level("INFO")
    fit(stage, speech_folder, tmp_path, 3, checkpoint=checkpoint, batch_size=2, callbacks=[Keep()])
    assert seen == [2] and stage.run_seed == 0
    assert "warmup_steps: 1 -> 5; data.batch_size: 4 -> 2" in caplog.text
    stage = make_unified()
    runner = lightning.Trainer(max_steps=3, default_root_dir=tmp_path, **QUIET)
    lightning.seed_everything(5)
    runner.fit(stage, SpeechData(str(speech_folder), batch_size=2, segment_seconds=0.5), ckpt_path=checkpoint)
    assert stage.run_seed == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": SMALL | {"d_model": 64}}, "holds other networks.*config"),
        ({"text_dim": 32}, "holds other networks.*text_dim: 16 -> 32"),
        ({"matrix_learning_rate": 0}, "matrix_learning_rate"),
        ({"codec": "small"}, "model.init_args.codec is .*began with None"),
    ],
    ids=["config", "text_dim", "matrix_learning_rate", "codec"],
)
def test_what_cannot_take_effect_is_refused(changes, words, saved, speech_folder, small_codec, tmp_path):
    if "codec" in changes:
        changes = {"codec": str(small_codec)}
    with pytest.raises(MimoError, match=words):
        fit(make_unified(**changes), speech_folder, tmp_path, 4, checkpoint=saved(make_unified()))


def test_stage_2_goes_on_with_the_same_codec_only(saved, speech_folder, small_codec, tmp_path):
    checkpoint = saved(make_adversarial(small_codec))
    shutil.copytree(small_codec, tmp_path / "copy")
    fit(make_adversarial(tmp_path / "copy"), speech_folder, tmp_path, 3, checkpoint=checkpoint)
    torch.manual_seed(1)
    other = MimoCodec(CodecConfig.preset("tiny").replace(**SMALL))
    other.quantizer.initialize(torch.randn(500, 32), 100)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(MimoError, match="another encoder or other codebooks"):
        fit(make_adversarial(tmp_path / "other"), speech_folder, tmp_path, 4, checkpoint=checkpoint)
    with pytest.raises(MimoError, match="trained"):
        fit(make_adversarial(small_codec, trained="vocoder"), speech_folder, tmp_path, 4, checkpoint=checkpoint)


def test_a_codec_with_a_changed_configuration(small_codec):
    stage = make_unified(codec=str(small_codec), config={"vocoder_attn_window_size": [23, 5]})
    assert stage.codec.config.to_dict(defaults=True)["vocoder_attn_window_size"] == [23, 5]
    before = MimoCodec.from_pretrained(small_codec).state_dict()
    assert all(torch.equal(value, stage.codec.state_dict()[name]) for name, value in before.items())
    assert stage.codec.quantizer.is_initialized
    with pytest.raises(MimoError, match="d_model: the weights of .* do not fit"):
        make_unified(codec=str(small_codec), config={"d_model": 64})
