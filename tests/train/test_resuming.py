"""Training that resumes goes on where it stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from training import fit, make_adversarial, make_unified

from mimo_codec.train.callbacks import SaveOnSignal
from mimo_codec.train.stage import CodecStage


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
