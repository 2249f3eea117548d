"""What a run prints and logs of its progress."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("lightning", reason="needs the train extra")

from training import fit, make_adversarial, make_unified

from mimo_codec.train.progress import Progress, _duration


def lines(caplog) -> list[str]:
    return [message for message in caplog.messages if message.startswith("step ")]


def test_without_a_progress_bar_there_are_lines(speech_folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Progress, "MEASURED", 1)
    caplog.set_level("INFO")
    stage = make_unified(learning_rate=2e-3, matrix_learning_rate=0.03, decay_share=0.0, warmup_steps=0, accumulate=2)
    fit(stage, speech_folder, tmp_path, 5, callbacks=[Progress(seconds=0)])
    told = lines(caplog)
    assert len(told) == 10 - Progress.SKIPPED
    line = told[2]
    assert re.match(r"step 3 of 5: loss [\d.]+, (reconstruction|commitment) [\d.]+", line), line
    assert "learning rate of codec_matrices 3.00e-02, codec 2.00e-03" in line
    assert re.search(r"; [\d.]+ seconds of audio per second on 1 x cpu; \d+ s left$", line), line


def test_with_a_progress_bar_there_is_one_line(speech_folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Progress, "MEASURED", 1)
    caplog.set_level("INFO")
    fit(make_unified(), speech_folder, tmp_path, 7, callbacks=[Progress(0)], trainer=dict(enable_progress_bar=True))
    assert len(lines(caplog)) == 1


def test_learning_rates_are_logged(speech_folder, small_codec, tmp_path):
    _, runner = fit(make_adversarial(small_codec, decay_share=0.0, warmup_steps=0), speech_folder, tmp_path, 1)
    logged = {name: float(value) for name, value in runner.callback_metrics.items() if "rate" in name}
    assert logged == pytest.approx(
        {
            "learning_rate/generator_matrices": 0.01,
            "learning_rate/generator": 1e-4,
            "learning_rate/discriminators": 1e-4,
        }
    )


def test_durations_are_short():
    assert [_duration(s) for s in (5.4, 59.4, 61, 3599, 36000)] == ["5 s", "59 s", "1 min", "1 h 0 min", "10 h 0 min"]
