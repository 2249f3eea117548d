"""Classes of a user's own: the example of the documentation trains, resumes and is exported; mistakes are named."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

from conftest import ROOT
from train_commands import COMMON
from training import Losses, fit, make_adversarial, make_unified

from mimo_codec import MimoCodec, MimoError
from mimo_codec.data.augment import Augmentation, Effect, apply_effects
from mimo_codec.data.module import SpeechData
from mimo_codec.train.own import names_data_module
from mimo_codec.train.run import train

PAGE = (ROOT / "docs" / "own-classes.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    """The files of the documentation -> the recipe; what was imported is forgotten afterwards."""
    for language in ("python", "yaml"):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)
        name = re.match(r"# (\S+)\n", block)
        assert name
        (tmp_path / name[1]).write_text(block, encoding="utf-8")
    path = list(sys.path)
    yield tmp_path / "my_recipe.yaml"
    sys.path[:] = path
    sys.modules.pop("my_parts", None)


def test_the_documented_example_trains(
    example: Path, speech_folder: Path, small_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mimo_codec.train.progress import Progress

    stages: list[Any] = []

    def keep(self: Progress, trainer: Any, stage: Any) -> None:
        stages.append(stage)
        self.num_batches = -(10**9)  # measures nothing

    monkeypatch.setattr(Progress, "on_train_start", keep)
    overrides = ["--data.root", str(speech_folder), "--model.init_args.codec", str(small_codec), *COMMON]
    overrides += ["--trainer.max_steps", "2", "--trainer.default_root_dir", str(tmp_path / "run")]
    overrides += ["--trainer.logger", "false"]
    train(str(example), overrides)
    (stage,) = stages
    data = stage.trainer.datamodule
    assert [type(part).__name__ for part in (stage.discriminators, data)] == ["WaveformDiscriminator", "LongFilesOnly"]
    assert stage.losses["envelope"].weight == 10.0 and stage.trainer.logged_metrics["train/envelope"] > 0
    assert data.effects[0].level == 0.02 and data.sample_rate == 24000
    assert {u.path.name for u in data.utterances["train"]} == {"0.wav", "1.wav", "3.wav"}  # 2.wav has 0.4 s
    codec = MimoCodec.from_pretrained(tmp_path / "run" / "export")
    assert codec.sample_rate == 24000
    about = (tmp_path / "run" / "export" / "discriminators.json").read_text()
    assert "my_parts.WaveformDiscriminator" in about

    overrides += ["--model.init_args.discriminators_from", str(tmp_path / "run" / "export")]
    overrides[overrides.index(str(tmp_path / "run"))] = str(tmp_path / "again")
    train(str(example), overrides)
    assert len(stages) == 2


def test_data_modules_are_told_by_recipe_and_command_line(tmp_path: Path) -> None:
    own, flat = tmp_path / "own.yaml", tmp_path / "flat.yaml"
    own.write_text("data: {class_path: my_parts.LongFilesOnly}")
    flat.write_text("data: {root: speech}\nmodel: {class_path: a.B}")
    (tmp_path / "empty.yaml").write_text("")
    assert names_data_module([flat, own], [])
    assert not names_data_module([flat, tmp_path / "empty.yaml"], ["--data.root", "class_path"])
    assert names_data_module([flat], ["--data", "my.Data"]) and names_data_module([flat], ["--data=my.Data"])


class Louder(Effect):
    def __call__(self, waveform: torch.Tensor, sample_rate: int, rng: np.random.Generator) -> torch.Tensor:
        return waveform * float(rng.uniform(2, 3))


class Wrong(Effect):
    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, waveform: torch.Tensor, sample_rate: int, rng: np.random.Generator) -> Any:
        return self.result


def test_effects_come_before_augmentation_and_are_drawn_by_number(speech_folder: Path) -> None:
    options = dict(batch_size=4, segment_seconds=0.5, augmentation=Augmentation(None, False))
    crops = []
    for effects in (None, [Louder()], [Louder()]):
        data = SpeechData(str(speech_folder), effects=effects, **options)  # type: ignore[arg-type]
        data.setup()
        crops.append([data.crops()[number].waveform for number in range(6)])
    plain, louder, again = crops
    assert all(torch.equal(a, b) for a, b in zip(louder, again, strict=True))
    ratios = [float(b.abs().max() / a.abs().max()) for a, b in zip(plain, louder, strict=True)]
    assert all(1.5 < ratio < 3 for ratio in ratios) and len(set(ratios)) > 1
    assert max(float(crop.abs().max()) for crop in louder) <= 0.991


@pytest.mark.parametrize("result", [None, torch.zeros(3), torch.full((4,), torch.nan), torch.zeros(4, dtype=torch.int)])
def test_effects_that_return_something_else_are_named(result: Any) -> None:
    with pytest.raises(MimoError, match="effects: Wrong must return a finite waveform of 4 samples"):
        apply_effects([Wrong(result)], torch.zeros(4), 8000, np.random.default_rng(0))


class Distance(torch.nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, decoded, original, lengths, sample_rate):
        assert decoded.shape == original.shape and decoded.dtype == torch.float32 and len(lengths) == len(decoded)
        assert sample_rate == 24000
        return self.scale * (decoded - original).abs().mean()


@pytest.mark.parametrize("kind", ["unified", "adversarial"])
def test_a_loss_is_added_logged_and_not_trained_and_the_run_resumes(kind, speech_folder, small_codec, tmp_path):
    def make(**changes: Any) -> Any:
        torch.manual_seed(0)
        return make_unified(**changes) if kind == "unified" else make_adversarial(small_codec, **changes)

    plain, _ = fit(make(), speech_folder, tmp_path, 1)
    stage = make(losses={"distance": Distance(3.0)})
    losses, trainer = fit(stage, speech_folder, tmp_path, 3)
    added = float(trainer.logged_metrics["train/distance"])
    assert added > 0 and losses[0] > plain[0] and stage.losses["distance"].scale == 3.0

    first, stopped = fit(make(losses={"distance": Distance(3.0)}), speech_folder, tmp_path, 3, stop=1)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    again = make(losses={"distance": Distance(3.0)})
    rest, _ = fit(again, speech_folder, tmp_path, 3, checkpoint=tmp_path / "stopped.ckpt")
    assert [*first, *rest] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("name", ["reconstruction", "loss", "with space", "a.b", ""])
def test_names_of_losses_that_are_taken_or_no_names_are_refused(name):
    with pytest.raises(MimoError, match="losses: .* cannot be a name"):
        make_unified(losses={name: Distance()})


def test_a_loss_that_is_no_scalar_is_named(speech_folder, tmp_path):
    class Many(torch.nn.Module):
        def forward(self, decoded, *_):
            return decoded.abs()

    with pytest.raises(MimoError, match="losses: many must return a tensor without dimensions"):
        fit(make_unified(losses={"many": Many()}), speech_folder, tmp_path, 1)
    assert Losses().values == []
