"""`mimo-codec train`: every recipe, and wrong arguments."""

from __future__ import annotations

import pytest

pytest.importorskip("lightning", reason="needs the train extra")

from conftest import make_speech
from train_commands import COMMON, RECIPES, SHRUNK, shrunk

from mimo_codec import MimoCodec, MimoError
from mimo_codec.train.run import find_recipe, shipped_recipes, train

OTHER_RATES = sorted(RECIPES.glob("nano_*k*.yaml"))
"""Recipes at other sample rates, which test_sample_rates.py runs."""
LANGUAGE_MODELS = sorted(RECIPES.glob("lm_*.yaml"))
"""Of which test_lm_command.py makes the stages."""


@pytest.mark.parametrize(
    "recipe", sorted({*RECIPES.glob("*.yaml")} - {*OTHER_RATES, *LANGUAGE_MODELS}), ids=lambda path: path.stem
)
def test_every_recipe_runs_for_two_steps(recipe, speech_folder, small_codec, tmp_path):
    root = tmp_path / "run"
    train(
        str(recipe),
        [
            "--data.root",
            str(speech_folder),
            "--data.validation_root",
            str(speech_folder),
            "--data.num_validation_files",
            "1",
            *COMMON,
            *shrunk(recipe, small_codec),
            "--trainer.max_steps",
            "2",
            "--trainer.val_check_interval",
            "2",
            "--trainer.default_root_dir",
            str(root),
        ],
    )
    codec = MimoCodec.from_pretrained(root / "export")
    assert codec.decode(codec.encode(make_speech(0.5), 24000, 2)).shape == (12000,)
    assert (root / "checkpoints" / "last.ckpt").is_file()
    assert list(root.rglob("events.out.tfevents*"))


def test_recipes_are_found_by_name_and_unknown_ones_listed():
    assert find_recipe("nano_stage1") == shipped_recipes()["nano_stage1"]
    with pytest.raises(MimoError, match="nano_stage1"):
        find_recipe("no-such-recipe")


def test_help_names_the_command_as_it_is_typed(capsys):
    with pytest.raises(SystemExit) as exited:
        train("nano_stage1", ["--help"])
    out = capsys.readouterr().out
    assert exited.value.code == 0 and out.startswith("usage: mimo-codec train nano_stage1 ") and " fit" not in out


def test_unknown_keys_are_one_line(speech_folder):
    with pytest.raises(MimoError, match="max_stepz") as error:
        train("nano_stage1", ["--data.root", str(speech_folder), "--trainer.max_stepz", "3"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("learning_rat", "1"), ("learning_rate", "hot")])
def test_options_of_a_stage_that_are_wrong_are_named_first(speech_folder, key, value):
    with pytest.raises(MimoError, match=rf"^nano_stage1.yaml: model: .*{key}\b") as error:
        train("nano_stage1", ["--data.root", str(speech_folder), f"--model.init_args.{key}", value])
    assert len(str(error.value)) < 120 and "NoneType" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.init_args.text_tokenizer", "no/such/folder", "text tokenizer"),
        ("data.root", "missing", "missing"),
        ("data.sample_rate", "16000", "24000"),
        ("data.batch_size", "0", "batch_size"),
        ("trainer.max_steps", "-1", "max_steps"),
        ("trainer.gradient_clip_val", "1.0", "clip_norm"),
        ("trainer.gradient_clip_algorithm", "value", "clip_norm"),
        ("trainer.overfit_batches", "0.5", "overfit_batches"),
        ("seed_everything", "-1", "seed_everything"),
        ("model.init_args.accumulate", "0", "accumulate"),
        ("model.init_args.decay_share", "2", "decay_share"),
        ("optimizer", "Adam", "--optimizer"),
    ],
)
def test_wrong_values_are_one_line_and_exit_code_2(key, value, message, run, speech_folder, tmp_path):
    outcome = run(
        "train",
        "nano_stage1",
        "--data.root",
        speech_folder,
        *COMMON,
        *SHRUNK,
        "--trainer.default_root_dir",
        tmp_path,
        f"--{key}",
        value,
    )
    last = outcome.err.strip().splitlines()[-1]
    assert outcome.code == 2 and last.startswith("mimo-codec: error:") and message in last, outcome.err
    assert "Traceback" not in outcome.err
