"""Training: data, codebook start and upkeep, optimizer, recipes, resuming."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

import lightning
from conftest import make_speech

from mimo_codec import CodecConfig, MimoCodec, MimoError, save_audio
from mimo_codec.quantizer import ResidualQuantizer
from mimo_codec.train.cli import find_recipe, shipped_recipes, train
from mimo_codec.train.data import SpeechData
from mimo_codec.train.losses import PAPER_SCALES, multi_scale_mel_loss
from mimo_codec.train.optimizer import MuonAdamW
from mimo_codec.train.stages import ReconstructionStage

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def speech_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for i, (seconds, rate) in enumerate([(3.0, 16000), (1.0, 24000), (0.4, 22050), (2.5, 16000)]):
        save_audio(folder / f"{i}.wav", make_speech(seconds, rate, seed=i), rate)
    (folder / "broken.wav").write_bytes(b"this is no audio")
    return folder


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_mel_loss_is_zero_for_equal_and_grows_with_noise(log):
    speech = make_speech(1.0)[None]
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    losses = [float(multi_scale_mel_loss(speech + a * noise, speech, 24000, PAPER_SCALES, log)) for a in (0, 0.01, 0.1)]
    assert losses[0] == 0 < losses[1] < losses[2]


# ---- codebooks -------------------------------------------------------------------------------------------------------


def clustered(num_vectors: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(200, dim, generator=generator)
    chosen = torch.randint(200, (num_vectors,), generator=generator)
    return centres[chosen] + 0.1 * torch.randn(num_vectors, dim, generator=generator)


@pytest.fixture()
def quantizer() -> ResidualQuantizer:
    torch.manual_seed(0)
    config = CodecConfig.preset("tiny").replace(codebook_size=[128, 64, 32], num_quantizers=3)
    return ResidualQuantizer(config.quantizer, 16, decay=0.9)


def test_k_means_start_leaves_no_codebook_dead(quantizer):
    features = clustered(4000, 16)
    quantizer.forget()
    assert not quantizer.fitted
    quantizer.fit(features, 600)
    assert quantizer.fitted
    codes = quantizer.encode(features, 3)
    for size, row in zip((128, 64, 32), codes, strict=True):
        assert len(row.unique()) > 0.9 * size
    errors = [(features - quantizer.decode(codes[:q])).square().mean() for q in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_codebooks_follow_the_data_only_in_training(quantizer):
    quantizer.fit(clustered(4000, 16), 600)
    shifted = clustered(600, 16, seed=1)[None] + 1.0
    before = quantizer.codebook(0).clone()
    quantizer.eval()(shifted)
    assert torch.equal(quantizer.codebook(0), before)
    quantizer.train()(shifted)
    assert not torch.equal(quantizer.codebook(0), before)


def test_dead_entries_are_revived(quantizer):
    quantizer.fit(clustered(4000, 16), 600)
    moved = clustered(4000, 16, seed=2)[None] + 20.0
    used = [len(quantizer.encode(moved, 1).unique())]
    quantizer.train()
    for _ in range(60):
        quantizer(moved[:, torch.randperm(4000)[:600]])
    used.append(len(quantizer.encode(moved, 1).unique()))
    assert used[1] > 100 and used[1] > 3 * used[0]


def test_gradients_pass_straight_through(quantizer):
    features = clustered(100, 16)[None].requires_grad_()
    output = quantizer.eval()(features)
    output.quantized.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))
    assert torch.allclose(output.quantized, quantizer.decode(output.codes), atol=1e-5)


# ---- optimizer -------------------------------------------------------------------------------------------------------


def test_optimizer_state_round_trips():
    def run(steps: int, state=None, weights=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        if weights is not None:
            layer.load_state_dict(weights)
        optimizer = MuonAdamW([layer.weight], [layer.bias], 0.02, 0.01, 0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        return layer.state_dict(), optimizer.state_dict()

    whole, _ = run(6)
    halfway, state = run(3)
    halfway = {k: v.clone() for k, v in halfway.items()}
    resumed, _ = run(3, state, halfway)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_learning_rates_of_both_parts_follow_the_scheduler():
    layer = torch.nn.Linear(4, 4)
    optimizer = MuonAdamW([layer.weight], [layer.bias], 0.02, 0.01, 0.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.01, 0.005}


# ---- runs ------------------------------------------------------------------------------------------------------------

TINY = {"d_model": 32, "vocoder_dim": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocoder_intermediate_dim": 32,
        "codebook_size": [64, 32], "num_quantizers": 2}  # fmt: skip
QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
             enable_checkpointing=False)  # fmt: skip


class Losses(lightning.Callback):
    """Keeps the losses, and interrupts the run after step `stop`."""

    def __init__(self, stop: int | None = None):
        self.values: list[float] = []
        self.stop = stop

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))
        trainer.should_stop = trainer.global_step == self.stop


def run_stage(folder: Path, root: Path, steps: int, stop: int | None = None,
              checkpoint: Path | None = None) -> tuple[list[float], Path]:  # fmt: skip
    lightning.seed_everything(0)
    stage = ReconstructionStage("tiny", TINY, matrix_learning_rate=0.01, quantizer_start=2, quantizer_dropout=0.5,
                                warmup_steps=1)  # fmt: skip
    losses = Losses(stop)
    trainer = lightning.Trainer(max_steps=steps, callbacks=[losses], default_root_dir=root, **QUIET)
    data = SpeechData(str(folder), batch_size=4, segment_seconds=0.5)
    trainer.fit(stage, data, ckpt_path=checkpoint, weights_only=False)
    saved = root / "stopped.ckpt"
    trainer.save_checkpoint(saved)
    return losses.values, saved


def test_a_resumed_run_goes_on_where_it_stopped(speech_folder, tmp_path):
    whole, _ = run_stage(speech_folder, tmp_path, 8)
    start, saved = run_stage(speech_folder, tmp_path, 8, stop=5)
    rest, _ = run_stage(speech_folder, tmp_path, 8, checkpoint=saved)
    assert len(whole) == 8 and len(rest) == 3
    assert start == whole[:5]
    assert rest == pytest.approx(whole[5:], rel=1e-6)


@pytest.mark.slow
def test_training_lowers_the_loss_and_uses_the_codebooks(speech_folder, tmp_path):
    losses, saved = run_stage(speech_folder, tmp_path, 60)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_runs_for_two_steps(recipe, speech_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "run"
    arguments = ["--data.root", str(speech_folder), "--data.validation_root", str(speech_folder),
                 "--data.num_validation_files", "1", "--data.batch_size", "2", "--data.segment_seconds", "0.5",
                 "--model.init_args.config", json.dumps(TINY), "--model.init_args.quantizer_start", "1",
                 "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu",
                 "--trainer.default_root_dir", str(root), "--trainer.enable_progress_bar", "false"]  # fmt: skip
    train(str(recipe), arguments)
    codec = MimoCodec.from_pretrained(root / "export")
    assert codec.decode(codec.encode(make_speech(0.5), 24000, 2)).shape == (12000,)
    assert (root / "checkpoints" / "last.ckpt").is_file()
    assert list(root.rglob("events.out.tfevents*"))


def test_recipes_are_found_by_name_and_unknown_ones_listed():
    assert find_recipe("nano") == shipped_recipes()["nano"]
    with pytest.raises(MimoError, match="nano"):
        find_recipe("no-such-recipe")


def test_unknown_keys_are_one_line(speech_folder):
    with pytest.raises(MimoError, match="max_stepz") as error:
        train("nano", ["--data.root", str(speech_folder), "--trainer.max_stepz", "3"])
    assert "\n" not in str(error.value)
