"""What validation computes by request, and the best checkpoints and codecs by it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

from lightning.pytorch.callbacks import EarlyStopping
from train_commands import COMMON, SHRUNK
from training import fit, make_adversarial, make_unified

from mimo_codec import MimoError
from mimo_codec.metrics import METRICS
from mimo_codec.train.callbacks import BestCheckpoint, ExportCodec
from mimo_codec.train.stage import CodecStage


def validated(stage: CodecStage, folder: Path, root: Path, steps: int, *callbacks, **more):
    """A run that validates on one file after every step, with checkpoints in root/checkpoints."""
    options = dict(enable_checkpointing=True, val_check_interval=1, check_val_every_n_epoch=None)
    _, runner = fit(
        stage,
        folder,
        root,
        steps,
        callbacks=[BestCheckpoint(dirpath=str(root / "checkpoints")), ExportCodec(), *callbacks],
        trainer=options | {"num_sanity_val_steps": 0},
        validation_root=str(folder),
        num_validation_files=1,
        **more,
    )
    return runner


def scores_in_turn(monkeypatch, *values: float) -> None:
    import mimo_codec.train.stage as module

    scores = iter(values)
    monkeypatch.setattr(module, "speech_metrics", lambda *all: dict.fromkeys(all[4], next(scores)))


def test_any_metric_decides_what_is_the_best(speech_folder, small_codec, tmp_path):
    stage = make_adversarial(small_codec, best_metric="log_spectral_distance", validation_metrics=["si_sdr"])
    runner = validated(stage, speech_folder, tmp_path, 1)
    assert {name for name in runner.callback_metrics if name.startswith("val/")} == {
        "val/si_sdr",
        "val/log_spectral_distance",
    }
    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = (value for key, value in saved["callbacks"].items() if key.startswith("BestCheckpoint"))
    assert float(state["best_model_score"]) == float(runner.callback_metrics["val/log_spectral_distance"])
    assert "'mode': 'min'" in str(saved["callbacks"].keys()) and (tmp_path / "best").is_dir()


OWN = """
from mimo_codec.metrics import Metric

def loudness(pair):
    return float(pair.decoded.abs().mean())

GAP = Metric("gap", lambda pair: float((pair.decoded - pair.reference).abs().mean()), higher_is_better=False)
NUMBER = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with metrics of the user's own."""
    (tmp_path / "own_scores.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_scores", None)
    for name in [name for name in METRICS if "." in name]:
        del METRICS[name]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("name", "mode"), [("loudness", "max"), ("GAP", "min")])
def test_a_metric_of_one_s_own_decides(name, mode, speech_folder, small_codec, tmp_path):
    stage = make_unified(codec=str(small_codec), best_metric=f"own_scores.{name}")
    runner = validated(stage, speech_folder, tmp_path / "run", 1)
    assert float(runner.callback_metrics[f"val/own_scores.{name}"]) > 0
    saved = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert f"'mode': '{mode}'" in str(saved["callbacks"].keys())


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "nonsense.*pesq_wb"),
        ("own_scores.nothing", "own_scores.nothing: cannot be imported"),
        ("no_such_module.score", "cannot be imported"),
        ("own_scores.NUMBER", "a function or a Metric"),
    ],
)
def test_unknown_metrics_are_refused_at_the_start(name, words, speech_folder, small_codec, tmp_path):
    with pytest.raises(MimoError, match=words):
        validated(make_unified(codec=str(small_codec), best_metric=name), speech_folder, tmp_path / "run", 1)
    with pytest.raises(MimoError, match=words):
        watching = EarlyStopping(f"val/{name}", mode="max")
        validated(make_unified(codec=str(small_codec)), speech_folder, tmp_path / "run", 1, watching)


def test_several_best_are_kept(speech_folder, small_codec, tmp_path, monkeypatch):
    scores_in_turn(monkeypatch, 1.0, 3.0, 2.0, 0.5)
    stage = make_unified(codec=str(small_codec), keep_best=2)
    runner = validated(stage, speech_folder, tmp_path, 4)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["best-2.ckpt", "best-3.ckpt"]
    assert sorted(path.name for path in tmp_path.glob("best*")) == ["best", "best-2", "best-3"]
    best, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("best", "best-3"))
    assert best == (tmp_path / "best-2" / "model.safetensors").read_bytes() != second
    runner.save_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    scores_in_turn(monkeypatch, 2.5)
    stage = make_unified(codec=str(small_codec), keep_best=2)
    validated(stage, speech_folder, tmp_path, 5, checkpoint=tmp_path / "checkpoints" / "last.ckpt")
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["best-2.ckpt", "best-5.ckpt", "last.ckpt"]
    assert sorted(path.name for path in tmp_path.glob("best*")) == ["best", "best-2", "best-5"]


def test_lower_is_better_for_distances(speech_folder, small_codec, tmp_path, monkeypatch):
    scores_in_turn(monkeypatch, 1.0, 3.0, 2.0)
    validated(make_unified(codec=str(small_codec), best_metric="mel_distance"), speech_folder, tmp_path, 3)
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 1


def test_without_validation_no_metric_is_needed(speech_folder, tmp_path, monkeypatch):
    import mimo_codec.metrics.registry as registry

    monkeypatch.setattr(registry, "missing_packages", lambda name: ["pesq"] if "pesq" in name else [])
    kept = BestCheckpoint(dirpath=str(tmp_path))
    fit(make_unified(), speech_folder, tmp_path, 1, callbacks=[kept], trainer=dict(enable_checkpointing=True))
    with pytest.raises(MimoError, match="pesq is not installed"):
        validated(make_unified(validation_metrics=[]), speech_folder, tmp_path, 1)


@pytest.mark.parametrize("monitor", ["val/stoi", "train/nothing"])
def test_early_stopping_waits_for_scores(monitor, run, speech_folder, tmp_path):
    """Scores begin with `quantizer_start`."""
    arguments = ["--data.root", speech_folder, *COMMON, *SHRUNK, "--trainer.default_root_dir", tmp_path]
    arguments += ["--data.validation_root", speech_folder, "--data.num_validation_files", 1]
    arguments += ["--trainer.val_check_interval", 1, "--trainer.max_steps", 20, "--model.init_args.quantizer_start", 2]
    arguments += ["--trainer.callbacks+", "lightning.pytorch.callbacks.EarlyStopping"]
    arguments += ["--trainer.callbacks.monitor", monitor, "--trainer.callbacks.mode", "max"]
    arguments += ["--trainer.callbacks.patience", 1, "--trainer.callbacks.min_delta", 1.0]
    arguments += ["--model.init_args.validation_metrics", "[stoi]", "--model.init_args.best_metric", "stoi"]
    outcome = run("train", "nano_stage1", *arguments)
    assert "Traceback" not in outcome.err
    if monitor == "val/stoi":
        assert outcome.code == 0, outcome.err
        saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        assert 3 < saved["global_step"] < 20
    else:
        assert outcome.code == 2 and "train/nothing" in outcome.err.splitlines()[-1], outcome.err
