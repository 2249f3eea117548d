"""Training: both stages, resuming, broken batches, what is kept and exported, the optimizer."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from conftest import ROOT, SMALL, make_speech
from goldens import KINDS, each_kind
from safetensors.torch import load_file

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.data.batch import Batch, collate
from mimo_codec.data.dataset import Item
from mimo_codec.data.module import SpeechData
from mimo_codec.train.callbacks import BestCheckpoint, ExportCodec, SaveOnSignal
from mimo_codec.train.codec.stages import AdversarialStage, UnifiedStage
from mimo_codec.train.optimizer import make_optimizer
from mimo_codec.train.stage import CodecStage, warm_up_and_decay

RECIPES = ROOT / "recipes"
QUIET = dict(
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    log_every_n_steps=1,
)
DISCRIMINATORS = dict(periods=(2,), period_channels=(4, 4), stft_sizes=(256,), stft_channels=4)


def make_unified(**changes) -> UnifiedStage:
    options = dict(
        matrix_learning_rate=0.01,
        quantizer_start=2,
        quantizer_dropout=0.5,
        warmup_steps=1,
        mel_power=0.3,
        text_dim=16,
        text_layers=1,
        text_heads=2,
    )
    return UnifiedStage(**(options | {"preset": "tiny", "config": SMALL} | changes))


def make_adversarial(codec: Path, **changes) -> AdversarialStage:
    options = dict(
        warmup_steps=1,
        quantizer_dropout=0.5,
        average_decay=0.5,
        excerpt_seconds=0.2,
        mel_power=0.3,
        matrix_learning_rate=0.01,
    )
    return AdversarialStage(str(codec), **(options | DISCRIMINATORS | changes))


class Losses(lightning.Callback):
    """Keeps the losses, and ends the run after step `stop`."""

    def __init__(self, stop: int | None = None):
        self.values: list[float] = []
        self.stop = stop

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))
        trainer.should_stop = trainer.global_step == self.stop


def fit(
    stage: CodecStage,
    folder: Path,
    root: Path,
    steps: int,
    stop: int | None = None,
    callbacks: Sequence = (),
    checkpoint: Path | None = None,
    trainer: dict | None = None,
    **data,
) -> tuple[list[float], lightning.Trainer]:
    losses = Losses(stop)
    runner = lightning.Trainer(
        max_steps=steps, callbacks=[losses, *callbacks], default_root_dir=root, **(QUIET | (trainer or {}))
    )
    module = SpeechData(str(folder), **(dict(batch_size=4, segment_seconds=0.5) | data))
    lightning.seed_everything(0)
    runner.fit(stage, module, ckpt_path=checkpoint)
    return losses.values, runner


# ---- resuming --------------------------------------------------------------------------------------------------------


def stages(kind: str, codec: Path) -> Iterator[CodecStage]:
    while True:
        lightning.seed_everything(0)
        yield make_unified(accumulate=2) if kind == "unified" else make_adversarial(codec)


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("kind", ["unified", "adversarial"])
def test_a_resumed_run_goes_on_where_it_stopped(kind, stop, speech_folder, small_codec, tmp_path):
    """Losses, weights, averages and codebooks; before (stop = 1) and after the quantizer has started."""
    fresh = stages(kind, small_codec)
    text = {"text_batch_size": 2} if kind == "unified" else {}
    one = next(fresh)
    whole, _ = fit(one, speech_folder, tmp_path, 5, **text)
    start, stopped = fit(next(fresh), speech_folder, tmp_path, 5, stop=stop, **text)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    two = next(fresh)
    rest, _ = fit(two, speech_folder, tmp_path, 5, checkpoint=tmp_path / "stopped.ckpt", **text)
    per_step = one.accumulate
    assert len(whole) == 5 * per_step and len(rest) == (5 - stop) * per_step
    assert start == pytest.approx(whole[: stop * per_step], rel=1e-6)
    assert rest == pytest.approx(whole[stop * per_step :], rel=1e-6)
    for name, value in one.state_dict().items():
        assert torch.allclose(value.float(), two.state_dict()[name].float(), atol=1e-6), name


def test_a_signal_during_validation_loses_nothing(speech_folder, small_codec, tmp_path, monkeypatch):
    import mimo_codec.train.stage as module

    monkeypatch.setattr(module, "speech_metrics", lambda *_: dict.fromkeys(module.METRICS, 1.0))
    fresh = stages("adversarial", small_codec)
    validation = dict(
        trainer=dict(val_check_interval=2, check_val_every_n_epoch=None, num_sanity_val_steps=0),
        validation_root=str(speech_folder),
        num_validation_files=3,
    )
    whole, _ = fit(next(fresh), speech_folder, tmp_path, 4, **validation)
    save = SaveOnSignal()

    class Signal(lightning.Callback):
        def on_validation_batch_start(self, trainer, stage, batch, batch_idx, dataloader_idx=0):
            save.received = signal.SIGTERM if batch_idx == 1 else 0

    with pytest.raises(SystemExit) as left:
        fit(next(fresh), speech_folder, tmp_path, 4, callbacks=[save, Signal()], **validation)
    assert left.value.code == 143
    rest, runner = fit(
        next(fresh), speech_folder, tmp_path, 4, checkpoint=tmp_path / "checkpoints" / "last.ckpt", **validation
    )
    assert rest == pytest.approx(whole[2:], rel=1e-6) and runner.global_step == 4


# ---- stage 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_lowers_the_loss(speech_folder, tmp_path):
    losses, _ = fit(make_unified(), speech_folder, tmp_path, 60)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_text_is_learnt_from_what_has_text(speech_folder, tmp_path):
    stage = make_unified(learning_rate=1e-2, text_weight=10.0)
    _, runner = fit(stage, speech_folder, tmp_path, 30, text_batch_size=2)
    assert runner.datamodule.texts() == ["three seconds", "one second: 一秒"]
    assert 0 < stage.entropy < 6
    losses = list(stage.recent_text_losses["own"])
    assert len(losses) == 30 and losses[-1] < 0.6 * losses[0]


def test_without_text_the_text_model_stays_as_it_is(speech_folder, tmp_path):
    stage = make_unified()
    before = {name: p.clone() for name, p in stage.text_model.named_parameters()}
    fit(stage, speech_folder, tmp_path, 2)
    assert all(torch.equal(before[name], p) for name, p in stage.text_model.named_parameters())


def test_a_trained_codec_can_be_gone_on_with(small_codec):
    stage = UnifiedStage(codec=str(small_codec))
    wanted = MimoCodec.from_pretrained(small_codec)
    assert stage.codec.quantizer.is_initialized
    assert torch.equal(stage.codec.quantizer.codebook(1), wanted.quantizer.codebook(1))


@pytest.mark.slow
def test_compiled_networks_keep_their_names(speech_folder, small_codec, tmp_path, monkeypatch):
    """Traced by torch.compile, but not turned into machine code, which takes minutes."""
    compiled, compile = [], torch.nn.Module.compile

    def trace(module):
        compiled.append(module)
        compile(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    stage = make_unified(codec=str(small_codec), compile=True)
    plain, _ = fit(make_unified(codec=str(small_codec)), speech_folder, tmp_path / "plain", 2)
    names = set(stage.state_dict())
    losses, _ = fit(stage, speech_folder, tmp_path, 2)
    assert compiled == list(stage.networks()) and set(stage.state_dict()) == names
    assert losses == pytest.approx(plain, rel=1e-3)


# ---- stage 2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["decoder", "vocoder"])
def test_codes_do_not_change_by_one_bit(trained, speech_folder, small_codec, tmp_path):
    speech = make_speech(2.0)
    before = MimoCodec.from_pretrained(small_codec)
    stage = make_adversarial(small_codec, trained=trained)
    fit(stage, speech_folder, tmp_path, 4, callbacks=[ExportCodec()])
    after = MimoCodec.from_pretrained(tmp_path / "export")
    assert torch.equal(after.encode(speech, 24000, 2).codes, before.encode(speech, 24000, 2).codes)
    assert after.quantizer.fingerprint() == before.quantizer.fingerprint()
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert not {name for name in changed if not name.startswith("decoder.")}
    assert any(name.startswith("decoder.vocoder.") for name in changed)
    assert any(not name.startswith("decoder.vocoder.") for name in changed) == (trained == "decoder")


def test_narrow_exports_do_not_change_codes_either(speech_folder, small_codec, tmp_path):
    fit(make_adversarial(small_codec), speech_folder, tmp_path, 1, callbacks=[ExportCodec("bfloat16")])
    old, new = load_file(small_codec / "model.safetensors"), load_file(tmp_path / "export" / "model.safetensors")
    assert all(torch.equal(old[name], new[name]) for name in old if not name.startswith("decoder."))
    assert new["decoder.dconv1.conv.weight"].dtype == torch.bfloat16


def test_short_crops_give_what_they_give_alone(small_codec):
    stage = make_unified(codec=str(small_codec)).eval()
    crops = [make_speech(0.5), make_speech(0.31, seed=1), make_speech(0.493, seed=2)]
    items = [Item(torch.as_tensor(crop), "", "") for crop in crops]
    with torch.no_grad():
        together, num_frames = stage.encode(collate(items))
        for item, features, count in zip(items, together, num_frames, strict=True):
            alone, _ = stage.encode(collate([item]))
            assert alone.shape[1] == count
            assert torch.allclose(features[:count], alone[0], atol=1e-5)


def test_codebooks_with_more_entries_than_vectors_are_kept_for_others_start(speech_folder, tmp_path, monkeypatch):
    """As codebooks of more than 20,000 entries: the number of vectors that are kept follows the largest codebook."""
    import mimo_codec.train.codec.stages as module

    monkeypatch.setattr(module, "KEPT_VECTORS", 30)
    stage = make_unified(quantizer_start=1)  # 64 entries; a batch has 4 x 13 vectors
    fit(stage, speech_folder, tmp_path, 4)
    assert stage.codec.quantizer.is_initialized


def test_accumulated_batches_are_one_to_the_codebooks(speech_folder, small_codec, tmp_path):
    """Two batches of two, or one of four: the same vectors, so the same moving averages and the same start."""
    books = []
    for name, options in (("one", dict(batch_size=4)), ("two", dict(batch_size=2))):
        lightning.seed_everything(0)
        stage = make_unified(
            codec=str(small_codec),
            accumulate=4 // options["batch_size"],
            quantizer_dropout=0,
            matrix_learning_rate=0,
            learning_rate=1e-9,
            warmup_steps=1,
        )
        fit(stage, speech_folder, tmp_path / name, 2, segment_seconds=0.3, **options)
        books.append(torch.cat([stage.codec.quantizer.codebook(i) for i in range(2)]))
    before = MimoCodec.from_pretrained(small_codec).quantizer.codebook(0)
    assert torch.allclose(*books, atol=1e-5) and not torch.allclose(books[0][: len(before)], before, atol=1e-4)


def test_a_codec_without_codebooks_cannot_go_to_stage_2(tmp_path):
    UnifiedStage("tiny", SMALL).codec.save_pretrained(tmp_path)
    with pytest.raises(MimoError, match="quantizer_start"):
        make_adversarial(tmp_path)


def test_before_the_quantizer_starts_nothing_is_exported_or_best(speech_folder, tmp_path, monkeypatch):
    import mimo_codec.train.stage as module

    monkeypatch.setattr(module, "speech_metrics", lambda *_: dict.fromkeys(module.METRICS, 1.0))
    kept = BestCheckpoint(dirpath=str(tmp_path / "checkpoints"))
    _, runner = fit(
        make_unified(quantizer_start=100),
        speech_folder,
        tmp_path,
        2,
        callbacks=[ExportCodec(), kept],
        trainer=dict(
            enable_checkpointing=True, val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=0
        ),
        validation_root=str(speech_folder),
        num_validation_files=1,
    )
    assert "unquantized/stoi" in runner.callback_metrics and "val/stoi" not in runner.callback_metrics
    assert not (tmp_path / "export").exists() and not (tmp_path / "checkpoints").exists()


def test_what_is_exported_is_the_moving_average(speech_folder, small_codec, tmp_path):
    class Weights(lightning.Callback):
        def __init__(self):
            self.values = []

        def on_train_batch_end(self, trainer, stage, *_):
            self.values.append(stage.codec.decoder.vocoder.embeddings.weight.detach().clone())

    stage, seen = make_adversarial(small_codec, average_decay=0.75), Weights()
    fit(stage, speech_folder, tmp_path, 3, callbacks=[seen, ExportCodec()])
    expected = seen.values[0]
    for value in seen.values[1:]:
        expected = 0.75 * expected + 0.25 * value
    exported = MimoCodec.from_pretrained(tmp_path / "export").decoder.vocoder.embeddings.weight
    assert torch.allclose(exported, expected, atol=1e-7)
    assert not torch.allclose(exported, seen.values[-1], atol=1e-7)


def test_discriminators_learn_and_have_no_weight_decay(speech_folder, small_codec, tmp_path):
    stage = make_adversarial(small_codec)
    before = {name: p.clone() for name, p in stage.discriminators.named_parameters() if "weight" in name}
    _, runner = fit(stage, speech_folder, tmp_path, 2)
    assert len(before) == 3 + 6
    assert all(not torch.equal(p, before[n]) for n, p in stage.discriminators.named_parameters() if n in before)
    assert all(group["weight_decay"] == 0 for group in runner.optimizers[1].param_groups)


def test_only_known_parts_can_be_trained(small_codec):
    with pytest.raises(MimoError, match="'decoder'"):
        make_adversarial(small_codec, trained="encoder")


# ---- other quantizers and vocoders ----------------------------------------------------------------------------------


def small(kind: str) -> dict[str, Any]:
    """Changes to the preset "tiny": those of a kind, and those of SMALL that fit it."""
    options = CodecConfig.preset("tiny").replace(**KINDS[kind]).to_dict(defaults=True)
    return {key: value for key, value in SMALL.items() if key in options} | KINDS[kind]


@each_kind
def test_each_kind_goes_through_both_stages(kind, speech_folder, tmp_path):
    """Everything that stage 1 trains moves; what it exports in bfloat16 has the codes of what it trained, and stage 2
    leaves them as they are."""
    stage = make_unified(config=small(kind), text_weight=0.1)
    before = {name: p.detach().clone() for name, p in stage.codec.named_parameters()}
    losses, _ = fit(stage, speech_folder, tmp_path, 4, callbacks=[ExportCodec("bfloat16")], text_batch_size=2)
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    still = {name for name, p in stage.codec.named_parameters() if torch.equal(p, before[name])}
    assert not still
    speech, count = make_speech(2.0), stage.codec.num_quantizers
    exported = MimoCodec.from_pretrained(tmp_path / "export")
    assert exported.config == stage.codec.config
    assert exported.quantizer.fingerprint() == stage.codec.quantizer.fingerprint()
    adversary = make_adversarial(tmp_path / "export")
    fit(adversary, speech_folder, tmp_path / "two", 3, callbacks=[ExportCodec()])
    after = MimoCodec.from_pretrained(tmp_path / "two" / "export")
    assert torch.equal(after.encode(speech, 24000, count).codes, exported.encode(speech, 24000, count).codes)
    old, new = exported.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    trained = {name for name, _ in after.named_parameters() if name.startswith("decoder.")}
    assert changed == trained


@each_kind
def test_each_kind_goes_on_where_it_stopped(kind, speech_folder, tmp_path):
    def fresh() -> UnifiedStage:
        lightning.seed_everything(0)
        return make_unified(config=small(kind))

    one, two = fresh(), fresh()
    whole, _ = fit(one, speech_folder, tmp_path, 4)
    _, stopped = fit(fresh(), speech_folder, tmp_path, 4, stop=2)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    rest, _ = fit(two, speech_folder, tmp_path, 4, checkpoint=tmp_path / "stopped.ckpt")
    assert rest == pytest.approx(whole[2:], rel=1e-6)
    for name, value in one.state_dict().items():
        assert torch.allclose(value.float(), two.state_dict()[name].float(), atol=1e-6), name


# ---- what is not finite ----------------------------------------------------------------------------------------------


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


def test_float16_is_refused(small_codec, monkeypatch):
    stage = make_unified(codec=str(small_codec))
    stage.trainer = lightning.Trainer(**QUIET)
    monkeypatch.setattr(type(stage.trainer), "precision", "16-mixed")
    with pytest.raises(MimoError, match="bf16-mixed"):
        stage.on_fit_start()


# ---- the use of codebooks --------------------------------------------------------------------------------------------


def test_little_use_of_a_codebook_is_warned_about(small_codec, monkeypatch):
    import mimo_codec.train.stage as module

    stage, logged = make_unified(codec=str(small_codec)), {}
    stage.trainer = lightning.Trainer(**QUIET)
    monkeypatch.setattr(stage, "log", lambda name, value, **_: logged.__setitem__(name, float(value)))
    monkeypatch.setattr(module, "WARNING_INTERVAL", 2)
    whole = torch.tensor([40])
    codes = torch.zeros(1, 2, 40, dtype=torch.int64)
    codes[0, 1] = torch.arange(40) % 32
    stage.log_usage(codes, whole)
    stage.batches_seen = 1
    with pytest.warns(UserWarning, match=r"codebook 0 \(2 %\)"):
        stage.log_usage(codes[:, :1], whole)  # a prefix; the others were used a moment ago
    assert logged["codebook/usage_0"] == pytest.approx(1 / 64) and logged["codebook/usage_1"] == 1
    assert logged["codebook/perplexity_0"] == pytest.approx(1) and 30 < logged["codebook/perplexity_1"] <= 32
    stage.batches_seen = 1000  # what was used long ago counts no more
    stage.log_usage(codes, torch.tensor([3]))  # the rest is padding
    assert logged["codebook/usage_1"] == pytest.approx(3 / 32)


# ---- validation ------------------------------------------------------------------------------------------------------


def test_validation_keeps_the_best(speech_folder, small_codec, tmp_path, monkeypatch):
    import mimo_codec.train.stage as module

    scores = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr(module, "speech_metrics", lambda *_: dict.fromkeys(module.METRICS, next(scores)))
    export = ExportCodec()
    kept = BestCheckpoint(dirpath=str(tmp_path / "checkpoints"))
    fit(
        make_unified(codec=str(small_codec)),
        speech_folder,
        tmp_path,
        3,
        callbacks=[export, kept],
        trainer=dict(
            enable_checkpointing=True, val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=0
        ),
        validation_root=str(speech_folder),
        num_validation_files=1,
    )
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2 and export.best == 3.0
    saved = MimoCodec.from_pretrained(tmp_path / "best").encoder.conv1.weight
    assert torch.equal(saved, best["state_dict"]["codec.encoder.conv1.weight"])
    last = MimoCodec.from_pretrained(tmp_path / "export").encoder.conv1.weight
    assert not torch.equal(saved, last)


def test_scores_without_a_value_do_not_spoil_the_mean(small_codec, monkeypatch):
    stage, logged = make_unified(codec=str(small_codec)), {}
    stage.trainer = lightning.Trainer(**QUIET)
    monkeypatch.setattr(stage, "log", lambda name, value, **_: logged.__setitem__(name, float(value)))
    stage.scored = ["pesq_wb", "stoi"]
    full = {"pesq_wb": 2.0, "stoi": 0.5}
    stage._scores = [full, full | {"pesq_wb": float("nan"), "stoi": 0.7}]
    stage.on_validation_epoch_end()
    assert logged["val/pesq_wb"] == 2 and logged["val/stoi"] == pytest.approx(0.6)


# ---- optimizer and schedule ------------------------------------------------------------------------------------------


def test_optimizer_state_round_trips():
    def run(steps: int, state=None, weights=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        if weights is not None:
            layer.load_state_dict(weights)
        optimizer = make_optimizer([("layers.weight", layer.weight), ("bias", layer.bias)], 0.02, 0.01, 0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        return layer.state_dict(), optimizer.state_dict()

    whole, _ = run(6)
    halfway, state = run(3)
    halfway = {k: v.clone() for k, v in halfway.items()}
    resumed, _ = run(3, state, halfway)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_learning_rates_of_both_parts_follow_the_scheduler():
    layer = torch.nn.Linear(4, 4)
    optimizer = make_optimizer([("layers.weight", layer.weight), ("bias", layer.bias)], 0.02, 0.01, 0.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.005}
    assert isinstance(make_optimizer([("layers.weight", layer.weight)], 0.0, 0.01, 0.0), torch.optim.AdamW)


def test_the_rate_warms_up_stays_and_decays():
    rates = [warm_up_and_decay(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:50] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5) and rates[99] == pytest.approx(0.02)


def test_batches_of_a_stage_name_their_files(speech_folder, tmp_path):
    """What a saved batch is named after."""
    seen: list[Batch] = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            seen.append(batch["crops"])

    fit(make_unified(), speech_folder, tmp_path, 1, callbacks=[Keep()])
    assert len(seen[0].names) == 4 and all(".wav" in name for name in seen[0].names)
