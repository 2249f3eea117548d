"""`mimo-codec train` stopped before its first step, outside of the main thread, and with options of the Trainer."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from train_commands import COMMON, RECIPES, SHRUNK, shrunk
from training import fit, make_unified

from mimo_codec import MimoCodec
from mimo_codec.data.module import SpeechData
from mimo_codec.train.callbacks import ExportCodec, SaveOnSignal
from mimo_codec.train.run import train


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", ["loading", "scanning"])
def test_signals_before_the_first_step_end_quietly(
    place, number, code, run, speech_folder, small_codec, tmp_path, monkeypatch
):
    """While weights load, inside jsonargparse, and while data is prepared, inside Lightning."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    owner, name = (MimoCodec, "from_pretrained") if place == "loading" else (SpeechData, "prepare_data")
    monkeypatch.setattr(owner, name, lambda *_, **__: signal.raise_signal(number))
    arguments = ["--data.root", speech_folder, *COMMON, *shrunk(RECIPES / "nano_stage2.yaml", small_codec)]
    outcome = run("train", "nano_stage2", *arguments, "--trainer.default_root_dir", tmp_path / "run")
    assert outcome.code == code and "Traceback" not in outcome.err + outcome.out
    assert signal.getsignal(signal.SIGINT) == handlers[0]
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "export").exists()


def test_a_second_signal_exports_nothing_half_done(speech_folder, small_codec, tmp_path):
    class TwoSignals(lightning.Callback):
        def on_train_batch_start(self, *_):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        callbacks = [SaveOnSignal(), ExportCodec(), TwoSignals()]
        fit(make_unified(codec=str(small_codec)), speech_folder, tmp_path, 2, callbacks=callbacks)
    assert left.value.code == 143 and not (tmp_path / "export").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_works_in_another_thread(speech_folder, tmp_path):
    arguments = ["--data.root", speech_folder, *COMMON, *SHRUNK, "--trainer.logger", "false"]
    arguments += ["--trainer.default_root_dir", tmp_path, "--trainer.max_steps", "2"]
    caught: list[BaseException] = []

    def work() -> None:
        try:
            train("nano_stage1", [str(word) for word in arguments])
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert not thread.is_alive() and not caught
    assert MimoCodec.from_pretrained(tmp_path / "export").quantizer.is_initialized


def test_overfitting_sees_the_same_batches_again(speech_folder, tmp_path):
    seen = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
            seen.append(batch["crops"].waveform.clone())

    fit(make_unified(), speech_folder, tmp_path, 5, callbacks=[Keep()], distinct_batches=2)
    assert len(seen) == 5 and not torch.equal(seen[0], seen[1])
    assert all(torch.equal(seen[i], seen[i % 2]) for i in range(5))


def test_the_trainer_s_overfit_batches_is_that_of_the_data(run, speech_folder, tmp_path):
    arguments = ["--data.root", speech_folder, *COMMON, *SHRUNK, "--trainer.default_root_dir", tmp_path]
    outcome = run("train", "nano_stage1", *arguments, "--trainer.overfit_batches", 1, "--trainer.max_steps", 1)
    assert outcome.code == 0
    (config,) = tmp_path.rglob("config.yaml")
    assert "distinct_batches: 1" in config.read_text()


def test_a_trial_leaves_nothing_behind(run, speech_folder, tmp_path):
    arguments = ["--data.root", speech_folder, *COMMON, *SHRUNK, "--trainer.default_root_dir", tmp_path]
    (tmp_path / "export").mkdir()
    assert run("train", "nano_stage1", *arguments, "--trainer.fast_dev_run", "true").code == 0
    assert sorted(os.listdir(tmp_path)) == ["data", "export"] and not os.listdir(tmp_path / "export")


def test_help_shows_no_options_that_stages_do_not_have(run):
    shown = run("train", "nano_stage1", "--help").out
    assert "--trainer.max_steps" in shown and "--data.batch_size" in shown
    for hidden in ("--optimizer", "--lr_scheduler", "accumulate_grad_batches", "gradient_clip", "weights_only"):
        assert hidden not in shown
