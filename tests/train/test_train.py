"""Training: both stages, every quantizer and vocoder, what is kept and exported."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from conftest import SMALL, make_speech
from goldens import KINDS, each_kind
from safetensors.torch import load_file
from training import fit, make_adversarial, make_unified

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.data.batch import Batch, collate
from mimo_codec.data.dataset import Item
from mimo_codec.train.callbacks import BestCheckpoint, ExportCodec
from mimo_codec.train.codec.stages import UnifiedStage

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


# ---- optimizer and schedule ------------------------------------------------------------------------------------------


def test_batches_of_a_stage_name_their_files(speech_folder, tmp_path):
    """What a saved batch is named after."""
    seen: list[Batch] = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            seen.append(batch["crops"])

    fit(make_unified(), speech_folder, tmp_path, 1, callbacks=[Keep()])
    assert len(seen[0].names) == 4 and all(".wav" in name for name in seen[0].names)
