"""What training reports: the use of codebooks, the scores of validation and the best step."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from training import QUIET, fit, make_unified

from mimo_codec import MimoCodec
from mimo_codec.train.callbacks import BestCheckpoint, ExportCodec

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
