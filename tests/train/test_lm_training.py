"""Training of language models: they learn, resume exactly, and train what they are told to."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, make_speech

pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the lm extra")

import soundfile as sf
from lm_training import fit_language_model, make_stage, make_utterances, write_rows

from mimo_codec import MimoError
from mimo_codec.common.errors import MimoWarning
from mimo_codec.lm.pipeline import MimoAudioLM
from mimo_codec.train.lm.data import LanguageData
from mimo_codec.train.lm.options import LanguageOptions
from mimo_codec.train.lm.parts import PARTS, part_of
from mimo_codec.train.lm.stages import schedule_factor


@pytest.mark.slow
def test_a_small_model_learns_utterances_by_heart(tmp_path: Path) -> None:
    rows = make_utterances(50, (4, 9))
    stage = make_stage(empty_weight=1.0)
    fit_language_model(stage, tmp_path, write_rows(tmp_path / "rows.jsonl", rows), 700, batch_size=30)
    lm = MimoAudioLM(stage.language_model.eval(), stage.tokenizer)
    codes = [np.array(row["audio"]) for row in rows]
    assert [answer.text for answer in lm.transcribe(codes)] == [row["text"] for row in rows]
    spoken = lm.speak([row["text"] for row in rows], sampling="greedy")
    for answer, true in zip(spoken, codes, strict=True):
        assert answer.codes is not None
        np.testing.assert_array_equal(answer.codes.to_numpy(), lm.layout.whole_patches(true))


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(20))
    whole, _ = fit_language_model(make_stage(), tmp_path / "a", rows, 10)
    first, runner = fit_language_model(make_stage(), tmp_path / "b", rows, 10, stop=4)
    runner.save_checkpoint(tmp_path / "four.ckpt")
    with warnings.catch_warnings(record=True) as caught:
        rest, _ = fit_language_model(make_stage(), tmp_path / "c", rows, 10, checkpoint=tmp_path / "four.ckpt")
    assert not [warning for warning in caught if "resum" in str(warning.message)]
    np.testing.assert_allclose([*first, *rest], whole, rtol=1e-6)


def test_small_packs_are_one_large_pack(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(20))
    plain = dict(matrix_learning_rate=0.0, learning_rate=1e-3)  # Muon, in bfloat16, makes much of little
    together, _ = fit_language_model(make_stage(**plain), tmp_path, rows, 10, batch_size=8)
    apart, _ = fit_language_model(make_stage(**plain), tmp_path, rows, 10, batch_size=8, max_positions=100)
    np.testing.assert_allclose(apart, together, rtol=1e-5)


@pytest.mark.parametrize("trained", [["patch_encoder", "backbone"], ["patch_decoder"], list(PARTS)])
def test_gradients_reach_exactly_what_is_trained(tmp_path: Path, trained: list[str]) -> None:
    weights = {} if "patch_decoder" in trained else {"channel_weights": (0.0,) * 8}
    stage = make_stage(trained=trained, **weights)
    before = {name: p.detach().clone() for name, p in stage.language_model.named_parameters()}
    fit_language_model(stage, tmp_path, write_rows(tmp_path / "rows.jsonl", make_utterances(8)), 2)
    changed = {name for name, p in stage.language_model.named_parameters() if not torch.equal(p, before[name])}
    assert {part_of(name) for name in changed} == set(trained)
    reachable = {name for name in before if part_of(name) in trained and "norm" not in name}
    assert reachable - changed <= {name for name in reachable if "k_proj.bias" in name}  # softmax does not see these


def test_learning_rates_keep_their_proportions(tmp_path: Path) -> None:
    stage = make_stage(
        learning_rate=3e-5, patch_encoder_learning_rate=2e-4, matrix_learning_rate=0.0, schedule="cosine"
    )
    _, runner = fit_language_model(stage, tmp_path, write_rows(tmp_path / "r.jsonl", make_utterances(4)), 3)
    groups = runner.optimizers[0].param_groups
    rates = {
        part_of(name): group["lr"]
        for name, p in stage.language_model.named_parameters()
        for group in groups
        if any(p is q for q in group["params"])
    }
    assert rates["patch_encoder"] / rates["backbone"] == pytest.approx(20 / 3)
    assert rates["patch_decoder"] == rates["backbone"] == pytest.approx(3e-6)  # the end of the cosine


def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path: Path) -> None:
    stage = make_stage()
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(4))
    head = stage.language_model.lm_head
    head.register_forward_hook(lambda module, args, out: out * (float("nan") if stage.batches_seen == 1 else 1.0))
    states: list[dict] = []
    stage.on_train_batch_end = lambda *_: states.append({k: v.clone() for k, v in stage.state_dict().items()})
    fit_language_model(stage, tmp_path, rows, 3)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[1]["network.model.lm_head.weight"], states[2]["network.model.lm_head.weight"])


def test_rows_that_cannot_be_used_are_listed_by_line(tmp_path: Path) -> None:
    good = make_utterances(3)
    bad = [
        {"task": "sing", "text": "la"},
        {"task": "asr", "text": "no sound"},
        [{"role": "user", "content": "no answer"}],
        "a text",
        {"task": "tts", "text": "x" * 3000, "audio": good[0]["audio"]},
    ]
    path = write_rows(tmp_path / "rows.jsonl", [good[0], *bad, *good[1:]])
    path.write_text(path.read_text() + "{broken\n" + '{"task": "asr", "audio": "x\\ud800.wav", "text": "a"}\n')
    fit_language_model(make_stage(), tmp_path, path, 1)
    skipped = [json.loads(line) for line in (tmp_path / "data" / "skipped.jsonl").read_text().splitlines()]
    assert [row["row"] for row in skipped] == [f"{path}:{line}" for line in (2, 3, 4, 5, 6, 9, 10)]
    "".join(row["reason"] for row in skipped).encode("utf-8")  # what is logged can be printed
    assert "context" in skipped[4]["reason"] and all(row["reason"] for row in skipped)


def test_a_file_that_cannot_be_read_is_listed_and_others_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write_rows(folder / "good.jsonl", make_utterances(2))
    (folder / "bad.json").write_text("{")
    (folder / "folder.json").mkdir()
    fit_language_model(make_stage(), tmp_path, folder, 1)
    skipped = [json.loads(line) for line in (tmp_path / "data" / "skipped.jsonl").read_text().splitlines()]
    assert [row["row"] for row in skipped] == [str(folder / "bad.json")]


def test_validation_has_items_of_all_tasks(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(20))
    data = dict(validation_root=str(rows), num_validation_items=20)
    _, runner = fit_language_model(make_stage(), tmp_path, rows, 1, **data)
    empty = runner.lightning_module.layout.empty_id
    trained = [pack.tokens[pack.trained] for packs in runner.datamodule.val_dataloader() for pack in packs]
    spoken = [bool((tokens == empty).any()) for tokens in trained]
    assert len(spoken) == 20 and 5 <= sum(spoken) <= 15


def test_a_checkpoint_is_trained_as_such(tmp_path: Path) -> None:
    """Not in evaluation mode, in which layers are not checkpointed and nothing is left out."""
    stage = make_stage(model=str(GOLDEN / "lm_base"), attention_dropout=0.5, checkpoint_layers=True)
    assert all(module.training for module in stage.modules())
    calls = []
    stage.language_model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(4))
    fit_language_model(stage, tmp_path, rows, 1, batch_size=2)
    assert len(calls) == 2  # once more in the backward pass


@pytest.mark.parametrize("steps", [100, 101, 150, 1000, 3])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_rates_never_exceed_their_peak(steps: int, schedule: str) -> None:
    options = LanguageOptions(schedule=schedule, warmup_share=0.01)
    factors = [schedule_factor(step, steps, options) for step in range(steps + 1)]
    assert max(factors) == 1.0 and min(factors) >= 0.0
    assert schedule == "constant" or factors[-1] <= 0.11


def test_roots_are_drawn_from_by_weight(tmp_path: Path) -> None:
    small = write_rows(tmp_path / "small.jsonl", make_utterances(2))
    large = write_rows(tmp_path / "large.jsonl", make_utterances(40, seed=1))
    stage = make_stage()
    _, runner = fit_language_model(stage, tmp_path, {str(small): 3, str(large): 1}, 1)
    dataset = runner.datamodule.train_dataloader().dataset
    names = [dataset[number].name for number in range(400)]
    share = sum(name.startswith(str(small)) for name in names) / len(names)
    assert share == pytest.approx(0.75, abs=0.07)
    assert names == [dataset[number].name for number in range(400)]


def test_a_root_without_a_row_of_use_is_an_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"task": "asr"}])
    with pytest.raises(MimoError, match="no row can be used"):
        fit_language_model(make_stage(), tmp_path, path, 1)
    assert (tmp_path / "data" / "skipped.jsonl").exists(), "the list is what one needs then"


@pytest.mark.parametrize(
    "changes",
    [
        {"trained": ["tail"]},
        {"trained": []},
        {"channel_weights": (1.0,) * 7},
        {"channel_weights": (0.0,) * 8},  # and the patch decoder is trained
        {"schedule": "triangle"},
        {"model": "no-such-preset"},
        {"config": {"wings": 2}},
        {"tokenizer": "/nowhere"},
        {"lora_rank": 2},  # of random weights, which are kept nowhere
        {"clip_norm": -1.0},
        {"weight_decay": -1.0},
        {"max_non_finite": 0},
        {"patch_encoder_learning_rate": -1.0},
        {"betas": (1.0, 0.9)},
    ],
)
def test_options_of_no_use_are_refused(changes: dict) -> None:
    with pytest.raises(MimoError):
        make_stage(**changes)


def test_tasks_that_do_not_exist_are_refused_at_once() -> None:
    with pytest.raises(MimoError, match="tasks 'sing' is not known"):
        LanguageData("rows.jsonl", tasks=["asr", "sing"])


def test_only_adapters_are_trained_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the lora extra")
    options = dict(model=str(GOLDEN / "lm_base"), lora_rank=2, matrix_learning_rate=0.0)
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(8))
    stage = make_stage(**options)
    before = {name: p.detach().clone() for name, p in stage.language_model.named_parameters()}
    whole, runner = fit_language_model(stage, tmp_path / "a", rows, 6)
    changed = {name for name, p in stage.language_model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("lora_" in name for name in changed)
    first, runner = fit_language_model(make_stage(**options), tmp_path / "b", rows, 6, stop=3)
    runner.save_checkpoint(tmp_path / "three.ckpt")
    saved = torch.load(tmp_path / "three.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name for name in saved)
    rest, _ = fit_language_model(make_stage(**options), tmp_path / "c", rows, 6, checkpoint=tmp_path / "three.ckpt")
    np.testing.assert_allclose([*first, *rest], whole, rtol=1e-6)


def test_what_users_would_hear_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jiwer", reason="needs the eval extra")
    from lightning.pytorch.loggers import CSVLogger

    from mimo_codec.train.lm.listening import Listen

    sf.write(tmp_path / "a.wav", make_speech(1.0, seed=0).numpy(), 24000)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    recordings = [{"audio": "a.wav", "text": "one two"}, {"audio": "~/bad.wav", "text": "three"}]
    held = write_rows(tmp_path / "held.jsonl", recordings)
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        listen = Listen(str(held), metrics=["stoi", "mel_distance"])
    trainer = {"callbacks": [listen], "logger": CSVLogger(tmp_path), "val_check_interval": 2, "num_sanity_val_steps": 0}
    stage = make_stage(codec="nano")
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(4))
    with pytest.warns(MimoWarning, match="bad.wav .* is left out"):
        _, runner = fit_language_model(stage, tmp_path, rows, 2, trainer=trainer, validation_root=str(rows))
    logged = runner.callback_metrics
    assert {"listen/transcribe_wer", "listen/mel_distance", "val/loss", "val/accuracy_0"} <= logged.keys()
    assert float(logged["listen/transcribe_wer"]) > 0 and stage.language_model.training
    with pytest.raises(MimoError, match="no row"):
        Listen(str(rows))
    with pytest.raises(MimoError, match="loudness"):
        Listen(str(held), metrics=["loudness"])


def test_averages_of_8_bits_learn_and_resume(tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="needs the quantize extra")
    options = dict(optimizer_bits=8, matrix_learning_rate=0.0, learning_rate=1e-3)
    rows = write_rows(tmp_path / "rows.jsonl", make_utterances(8))
    whole, _ = fit_language_model(make_stage(**options), tmp_path / "a", rows, 6)
    first, runner = fit_language_model(make_stage(**options), tmp_path / "b", rows, 6, stop=3)
    runner.save_checkpoint(tmp_path / "three.ckpt")
    rest, _ = fit_language_model(make_stage(**options), tmp_path / "c", rows, 6, checkpoint=tmp_path / "three.ckpt")
    np.testing.assert_allclose([*first, *rest], whole, rtol=1e-6)
    assert whole[-1] < whole[0]
