"""Checkpoints: whole at any time, damage found and named, and no run writes over another one."""

from __future__ import annotations

import os
import random
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

from train_commands import COMMON, SHRUNK
from training import fit, make_adversarial, make_unified

from mimo_codec import MimoError
from mimo_codec.train.callbacks import BestCheckpoint, ExportCodec, SaveOnSignal
from mimo_codec.train.checkpoints import LAST, PREVIOUS, WholeCheckpoints, damage, read_checkpoint, starting_point


def state(step: int, size: int = 3000) -> dict:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(step))
    return {"global_step": step, "state_dict": {"weight": weights}, "names": ["a", "b"]}


def same(one: object, two: object) -> bool:
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.fixture
def saved(tmp_path) -> Path:
    WholeCheckpoints().save_checkpoint(state(1), tmp_path / LAST)
    return tmp_path / LAST


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_the_checkpoint_before_the_last_is_kept(saved):
    WholeCheckpoints().save_checkpoint(state(2), saved)
    assert read_checkpoint(saved)["global_step"] == 2
    assert read_checkpoint(saved.with_name(PREVIOUS))["global_step"] == 1
    WholeCheckpoints().save_checkpoint(state(3), saved)
    assert read_checkpoint(saved.with_name(PREVIOUS))["global_step"] == 2
    assert sorted(os.listdir(saved.parent)) == [LAST, PREVIOUS]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_writing_leaves_a_whole_checkpoint(saved):
    rng = random.Random(0)
    for _ in range(25):
        child = os.fork()
        if child == 0:
            for step in range(2, 10_000):
                WholeCheckpoints().save_checkpoint(state(step, 300_000), saved)
            os._exit(1)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for path in (saved, *saved.parent.glob(PREVIOUS)):
            read = read_checkpoint(path)
            assert same(read, state(read["global_step"], len(read["state_dict"]["weight"])))
    assert saved.with_name(PREVIOUS).exists()


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_zeroed_bytes_anywhere_are_found_or_change_nothing(saved):
    whole, loaded = saved.read_bytes(), state(1)
    found = 0
    for start in range(0, len(whole), 61):
        saved.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        if damage(saved) is None:  # they were zero, or padding
            assert same(read_checkpoint(saved), loaded)
        else:
            found += 1
            with pytest.raises(MimoError, match="damaged"):
                read_checkpoint(saved)
    assert found > 0.8 * len(whole) / 61


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_short_checkpoint_is_one_line_that_names_another(share, saved):
    WholeCheckpoints().save_checkpoint(state(2), saved)
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(MimoError) as error:
        WholeCheckpoints().load_checkpoint(saved)
    message = str(error.value)
    assert str(saved) in message and "damaged" in message and "\n" not in message
    assert f"--ckpt_path {saved.with_name(PREVIOUS)}" in message
    saved.with_name(PREVIOUS).unlink()
    with pytest.raises(MimoError, match="there is no other one"):
        WholeCheckpoints().load_checkpoint(saved)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_only_plain_values_are_loaded(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    torch.save({"state_dict": Evil()}, saved)
    with pytest.raises(MimoError, match="more than tensors and plain values"):
        WholeCheckpoints().load_checkpoint(saved, weights_only=False)
    assert not Path("evil").exists()


def test_a_zip_archive_that_is_no_checkpoint_is_one_line(saved):
    with zipfile.ZipFile(saved, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(MimoError, match="is not a checkpoint of training"):
        read_checkpoint(saved)


def test_only_counters_are_set_from_a_checkpoint(speech_folder, tmp_path):
    _, runner = fit(make_unified(), speech_folder, tmp_path, 1)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    for name, value in (("learn", 1), ("codec", "x")):
        checkpoint["mimo_codec"][name] = value
    torch.save(checkpoint, tmp_path / "b.ckpt")
    stage = make_unified()
    fit(stage, speech_folder, tmp_path, 2, checkpoint=tmp_path / "b.ckpt")
    assert stage.batches_seen == 2 and callable(stage.learn)
    checkpoint["mimo_codec"] = {"batches_seen": -5}
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(MimoError, match="batches_seen"):
        fit(make_unified(), speech_folder, tmp_path, 2, checkpoint=tmp_path / "b.ckpt")


def test_checkpoints_of_another_stage_are_one_line(speech_folder, small_codec, tmp_path):
    _, runner = fit(make_adversarial(small_codec), speech_folder, tmp_path, 1)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(MimoError, match="holds other networks"):
        fit(make_unified(), speech_folder, tmp_path, 2, checkpoint=tmp_path / "a.ckpt")


# ---- a run and the one before it -------------------------------------------------------------------------------------


def earlier_run(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch() if "." in name else (root / name).mkdir()
    return root / "checkpoints"


@pytest.mark.parametrize("names", [["checkpoints/last.ckpt", "export"], ["best"], ["checkpoints/best.ckpt"]])
def test_a_run_that_would_write_over_another_is_refused(names, tmp_path):
    folder = earlier_run(tmp_path, *names)
    with pytest.raises(MimoError, match="--ckpt_path last.*default_root_dir"):
        starting_point(None, tmp_path, folder)
    other = tmp_path.parent / f"{tmp_path.name}.ckpt"
    other.touch()
    with pytest.raises(MimoError, match="earlier run"):
        starting_point(str(other), tmp_path, folder)


def test_where_a_run_starts(tmp_path):
    folder = tmp_path / "checkpoints"
    earlier_run(tmp_path, "checkpoints/.mimo-codec-01234567-1-0123456789abcdef.ckpt")  # of a killed process
    assert starting_point(None, tmp_path, folder) is None
    assert starting_point("last", tmp_path, folder) is None  # for scripts that always say it
    with pytest.raises(MimoError, match=r"other\.ckpt: there is no such checkpoint"):
        starting_point("other.ckpt", tmp_path, folder)
    earlier_run(tmp_path, "checkpoints/best.ckpt", "best")
    with pytest.raises(MimoError, match=r"there is no last\.ckpt"):
        starting_point("last", tmp_path, folder)
    assert starting_point("best", tmp_path, folder) == str(folder / "best.ckpt")
    earlier_run(tmp_path, "checkpoints/previous.ckpt")
    assert starting_point("last", tmp_path, folder) == str(folder / PREVIOUS)
    earlier_run(tmp_path, "checkpoints/last.ckpt")
    assert starting_point("last", tmp_path, folder) == str(folder / LAST)


def test_the_command_does_not_write_over_a_run_and_ends_with_its_last_step(run, speech_folder, tmp_path):
    arguments = ["train", "nano_stage1", "--data.root", speech_folder, *COMMON, *SHRUNK]
    arguments += ["--trainer.default_root_dir", tmp_path / "run", "--trainer.logger", "false"]
    assert run(*arguments, "--trainer.max_steps", "1").code == 0
    last = tmp_path / "run" / "checkpoints" / LAST
    assert read_checkpoint(last)["global_step"] == 1  # it is saved every 200 steps
    before = last.read_bytes()
    refused = run(*arguments, "--trainer.max_steps", "1")
    assert refused.code == 2 and "an earlier run is there" in refused.err.splitlines()[-1]
    assert last.read_bytes() == before
    (tmp_path / "run").rename(tmp_path / "copy")
    arguments[arguments.index(tmp_path / "run")] = tmp_path / "copy"
    assert run(*arguments, "--trainer.max_steps", "2", "--ckpt_path", "last").code == 0
    assert sorted(os.listdir(tmp_path / "copy" / "checkpoints")) == [LAST, PREVIOUS]
    assert read_checkpoint(tmp_path / "copy" / "checkpoints" / LAST)["global_step"] == 2
    (tmp_path / "copy" / "checkpoints" / LAST).write_bytes(b"")
    refused = run(*arguments, "--trainer.max_steps", "2", "--ckpt_path", "last")
    assert refused.code == 2 and "it is empty; continue with --ckpt_path" in refused.err.splitlines()[-1]


def test_the_best_of_a_run_stays_the_best_where_it_is_moved(speech_folder, small_codec, tmp_path, monkeypatch):
    import mimo_codec.train.codec.stage as module

    def validated(root: Path, steps: int, score: float, **more) -> None:
        monkeypatch.setattr(module, "speech_metrics", lambda *_: dict.fromkeys(module.METRICS, score))
        kept = BestCheckpoint(dirpath=str(root / "checkpoints"))
        options = dict(enable_checkpointing=True, val_check_interval=1, check_val_every_n_epoch=None)
        _, runner = fit(
            make_unified(codec=str(small_codec)),
            speech_folder,
            root,
            steps,
            callbacks=[ExportCodec(), kept, SaveOnSignal()],
            trainer=options | {"num_sanity_val_steps": 0},
            validation_root=str(speech_folder),
            num_validation_files=1,
            **more,
        )
        runner.save_checkpoint(root / "checkpoints" / LAST)

    validated(tmp_path / "one", 1, 3.0)
    (tmp_path / "one").rename(tmp_path / "two")
    best = tmp_path / "two" / "checkpoints" / "best.ckpt"
    exported = (tmp_path / "two" / "best" / "model.safetensors").read_bytes()
    validated(tmp_path / "two", 2, 2.0, checkpoint=best.with_name(LAST))
    assert read_checkpoint(best)["global_step"] == 1
    assert (tmp_path / "two" / "best" / "model.safetensors").read_bytes() == exported
    validated(tmp_path / "new", 2, 2.0, checkpoint=best)  # in a folder of its own the first one is the best
    assert read_checkpoint(tmp_path / "new" / "checkpoints" / "best.ckpt")["global_step"] == 2
    assert (tmp_path / "new" / "best").is_dir()
