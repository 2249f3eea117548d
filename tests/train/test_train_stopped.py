"""`mimo-codec train`, killed or stopped, saves and resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")


from train_commands import assert_same_curve, command, environment, logged_losses

from mimo_codec.train.run import train


def start_and_wait_for_step(arguments: list[str], root: Path, step: int) -> subprocess.Popen[str]:
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    process = subprocess.Popen(arguments, env=environment(), **pipes)
    deadline = time.monotonic() + 240
    while max(logged_losses(root) or [0], default=0) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "training does not get on"
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("recipe", ["nano_stage1", "nano_stage2"])
@pytest.mark.slow
def test_killed_and_resumed_the_loss_curve_goes_on(recipe, speech_folder, small_codec, tmp_path):
    steps = 400
    killed = tmp_path / "killed"
    process = start_and_wait_for_step(command(recipe, killed, speech_folder, small_codec, steps), killed, 5)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = max(logged_losses(killed))
    total = reached + 6
    for root, more in ((killed, ["--ckpt_path", "last"]), (tmp_path / "whole", [])):
        # the schedule of the learning rate is the same until its decay, which is far away
        decay = ["--model.init_args.decay_share", "0"]
        _, _, _, _, name, *options = command(recipe, root, speech_folder, small_codec, total, *decay, *more)
        train(name, options)
    assert len(logged_losses(tmp_path / "whole")) >= total - 1
    assert_same_curve(killed, tmp_path / "whole", rtol=1e-5)


@pytest.mark.slow
def test_a_signal_saves_before_leaving(speech_folder, small_codec, tmp_path):
    process = start_and_wait_for_step(command("nano_stage1", tmp_path, speech_folder, small_codec, 500), tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "Traceback" not in output and "--ckpt_path last" in output
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= max(logged_losses(tmp_path)) and saved["global_step"] < 500


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.slow
def test_interrupts_of_a_terminal_save_before_leaving(num_processes, speech_folder, small_codec, tmp_path):
    """Ctrl-C reaches every process of the run, data workers too."""
    process = start_and_wait_for_step(
        command(
            "nano_stage1",
            tmp_path,
            speech_folder,
            small_codec,
            5000,
            "--data.num_workers",
            "1",
            "--trainer.devices",
            str(num_processes),
        ),
        tmp_path,
        3,
    )
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output and "--ckpt_path last" in output, output
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= max(logged_losses(tmp_path)) and saved["global_step"] < 5000
