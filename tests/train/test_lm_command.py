"""`mimo-codec train` with recipes of language models, as processes: equal in one and two, killed, planned, merged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the lm extra")

import yaml
from conftest import GOLDEN, ROOT
from lm_training import make_utterances, write_rows
from train_commands import assert_same_curve, environment, logged_losses

from mimo_codec.lm.pipeline import MimoAudioLM

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("lm_*.yaml"))
BASE = str(GOLDEN / "lm_base")


def command(recipe: str, root: Path, rows: Path, steps: int, *more: str) -> list[str]:
    """A training command on the golden model that writes its losses to losses.csv at every step."""
    options = {
        "--data.root": rows,
        "--data.init_args.batch_size": 4,
        "--data.init_args.num_workers": 0,
        "--model.init_args.model": BASE,
        "--model.init_args.codec": "null",
        "--trainer.accelerator": "cpu",
        "--trainer.devices": 1,
        "--trainer.precision": 32,
        "--trainer.enable_model_summary": "false",
        "--trainer.max_steps": steps,
        "--trainer.default_root_dir": root,
        "--trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir": root,
        "--trainer.logger.flush_logs_every_n_steps": 1,
        "--trainer.log_every_n_steps": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "mimo_codec", "train", recipe, *words, *more]


def run(words: list[str], code: int = 0) -> str:
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", make_utterances(12))


@pytest.mark.slow
def test_two_processes_are_one(rows: Path, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    held_out = ["--data.init_args.validation_root", str(rows), "--data.init_args.num_validation_items", "5"]
    rate = ["--model.init_args.learning_rate", "1e-3", *held_out, "--trainer.val_check_interval", "10"]
    run(command("lm_sft", tmp_path / "one", rows, 10, *rate))
    two = ["--trainer.devices", "2", "--data.init_args.batch_size", "2", "--data.init_args.max_positions", "60"]
    run(command("lm_sft", tmp_path / "two", rows, 10, *rate, *two))
    one, one_validated = logged_losses(tmp_path / "one"), logged_losses(tmp_path / "one", "val/loss")
    assert len(one) == 10 and len(one_validated) == 1
    assert logged_losses(tmp_path / "two") == pytest.approx(one, rel=1e-5)
    assert logged_losses(tmp_path / "two", "val/loss") == pytest.approx(one_validated, rel=1e-5)
    run(command("lm_sft", tmp_path / "shards", rows, 10, *rate, *two[:4], "--trainer.strategy", "fsdp"))
    assert logged_losses(tmp_path / "shards") == pytest.approx(one, rel=1e-5)
    assert MimoAudioLM.from_pretrained(tmp_path / "shards" / "export", device="cpu").config.hidden_size == 64


@pytest.mark.slow
def test_adapters_are_trained_in_shards(rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the lora extra")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    run(command("lm_lora", tmp_path, rows, 2, "--trainer.devices", "2", "--trainer.strategy", "fsdp"))
    lm = MimoAudioLM.from_pretrained(BASE, device="cpu", adapter=tmp_path / "export")
    assert lm.model.config.hidden_size == 64


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(rows: Path, tmp_path: Path) -> None:
    every = json.dumps(
        [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"save_last": True, "save_top_k": 0, "every_n_train_steps": 2},
            },
            {"class_path": "mimo_codec.train.lm.callbacks.ExportLanguageModel"},
        ]
    )
    more = ["--trainer.callbacks", every, "--model.init_args.learning_rate", "1e-3"]
    run(command("lm_sft", tmp_path / "whole", rows, 30, *more))
    words = command("lm_sft", tmp_path / "killed", rows, 30, *more)
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint, start = tmp_path / "killed" / "checkpoints" / "last.ckpt", time.monotonic()
    while not checkpoint.exists() and time.monotonic() < start + 120:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run([*words, "--ckpt_path", "last"])
    assert len(logged_losses(tmp_path / "whole")) == 30
    assert_same_curve(tmp_path / "killed", tmp_path / "whole", rtol=1e-6)
    assert MimoAudioLM.from_pretrained(tmp_path / "killed" / "export", device="cpu").config.hidden_size == 64


@pytest.mark.slow
def test_an_adapter_is_trained_and_merged(rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the lora extra")
    text = run(command("lm_lora", tmp_path / "run", rows, 2))
    assert "adapter written to" in text
    merge = [sys.executable, "-m", "mimo_codec", "merge", BASE, str(tmp_path / "run" / "export"), "-o"]
    run([*merge, str(tmp_path / "merged")])
    assert MimoAudioLM.from_pretrained(tmp_path / "merged", device="cpu").config.hidden_size == 64
    error = run([*merge, str(tmp_path / "merged")], code=2)
    assert "already exists" in error and "Traceback" not in error


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_its_stage(recipe: str) -> None:
    from mimo_codec.train.lm.data import LanguageData
    from mimo_codec.train.lm.stages import LanguageModelStage

    content = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text())
    LanguageData(**content["data"]["init_args"])
    changes = {"codec": None} | ({} if "config" in content["model"]["init_args"] else {"model": BASE})
    stage = LanguageModelStage(**{**content["model"]["init_args"], **changes})
    assert any(p.requires_grad for p in stage.parameters())


def test_the_plan_of_a_recipe_is_told_before_anything_loads(tmp_path: Path) -> None:
    text = run([sys.executable, "-m", "mimo_codec", "train", "lm_sft", "--plan", "--model.init_args.model", "mimo-7b"])
    assert "patch_encoder 120.4 M" in text and "logits" in text and "lora_rank" in text and "fits: " in text
    error = run([sys.executable, "-m", "mimo_codec", "train", "nano_stage1", "--plan"], code=2)
    assert "language models" in error
