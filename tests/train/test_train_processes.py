"""`mimo-codec train` in several processes gives what one process gives."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

from conftest import SMALL, assert_one_line_error
from exports import made_once
from train_commands import command, environment

from mimo_codec import CodecConfig, MimoCodec
from mimo_codec.train.run import cpu_processes


@pytest.mark.parametrize(
    ("cores", "sizes", "wanted"),
    [(2, (32, 0), 2), (1, (32, 0), 1), (8, (32, 0), 4), (8, (32, 6), 2), (2, (8, 0), 1), (2, (33, 0), 1)],
)
def test_processes_share_a_batch_equally(cores, sizes, wanted, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert cpu_processes(*sizes) == wanted


@pytest.mark.parametrize(
    ("recipe", "key", "text"),
    [("nano_stage1", "root", "{}"), ("lm_sft", "root", "{}"), ("lm_sft", "validation_root", "{{{}: 1.0}}")],
)
def test_a_root_that_is_not_there_is_named_before_anything_starts(recipe, key, text, run, tmp_path):
    root = tmp_path / "speech"
    arguments = [f"--data.{key}", text.format(root), "--trainer.default_root_dir", tmp_path / "run"]
    if key != "root":
        arguments += ["--data.root", tmp_path]
    done = run("train", recipe, *arguments, "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    assert_one_line_error(done, "there is no", root)


@pytest.mark.slow
def test_an_empty_root_is_one_line_with_several_processes(tmp_path):
    """From the process that looks into the folder; the others end without a word."""
    root = tmp_path / "speech"
    root.mkdir()
    arguments = ["--data.root", root, "--trainer.default_root_dir", tmp_path / "run", "--trainer.devices", "2"]
    command = [sys.executable, "-m", "mimo_codec", "train", "nano_stage1", *arguments, "--trainer.accelerator", "cpu"]
    done = subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("mimo-codec: error: ")]
    assert len(errors) == 1 and "there are no files to read" in errors[0] and str(root) in errors[0]


@pytest.mark.slow
def test_the_command_uses_all_cores(speech_folder, tmp_path):
    """A batch of 16 as two processes of 8, whose batches are those of one process."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    arguments = [word for word in command("nano_stage1", tmp_path, speech_folder, tmp_path, 2)]
    place = arguments.index("--trainer.devices")
    done = subprocess.run(
        [*arguments[:place], *arguments[place + 2 :], "--data.batch_size", "16"],
        timeout=280,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MEMBER: 2/2" in done.stderr, done.stderr


SAME_RUN = [
    "--trainer.precision",
    "32",
    "--model.init_args.matrix_learning_rate",
    "0",
    "--model.init_args.warmup_steps",
    "1",
    "--data.segment_seconds",
    "0.36",
    "--data.text_batch_size",
    "0",
]
"""In float32, with crops no longer than the shortest file at its fastest and without texts, whose lengths differ: two
halves have the mean of the whole."""


def logged_column(root: Path, name: str) -> list[float]:
    (path,) = root.rglob("metrics.csv")
    with open(path, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def run_processes(
    root: Path, folder: Path, codec: Path, num_processes: int, batch_size: int, recipe: str, *more: str
) -> Path:
    arguments = command(
        recipe,
        root,
        folder,
        codec,
        4,
        "--data.batch_size",
        str(batch_size),
        "--trainer.devices",
        str(num_processes),
        *more,
    )
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    if num_processes == 1:
        assert "lightning/pytorch" not in done.stderr  # where its warnings say they are from
    return root


def run_alone(recipe: str, request: pytest.FixtureRequest) -> Path:
    """One process with a batch of 4, from `small_codec`, made once."""
    names = ("tmp_path_factory", "speech_folder", "small_codec")
    factory, folder, codec = (request.getfixturevalue(name) for name in names)
    more = [*SAME_RUN, "--model.init_args.codec", str(codec)]
    return made_once(factory, f"alone-{recipe}", lambda root: run_processes(root, folder, codec, 1, 4, recipe, *more))


def assert_same_run(one: Path, two: Path) -> None:
    """The same gradients at every step, so the same weights; and codebooks that have moved."""
    names = ["codec"] if logged_column_exists(one, "train/gradient_codec") else ["generator", "discriminators"]
    for name in names:
        column = f"train/gradient_{name}"
        assert logged_column(two, column) == pytest.approx(logged_column(one, column), rel=5e-3)
    codecs = [MimoCodec.from_pretrained(root / "export").state_dict() for root in (one, two)]
    for name, value in codecs[0].items():
        assert torch.allclose(value.float(), codecs[1][name].float(), atol=2e-4, rtol=1e-3), name


def logged_column_exists(root: Path, name: str) -> bool:
    (path,) = root.rglob("metrics.csv")
    return name in path.read_text().splitlines()[0]


@pytest.mark.parametrize("recipe", ["nano_stage1", "nano_stage2"])
@pytest.mark.slow
def test_two_processes_with_half_the_batch_are_one_with_all_of_it(
    recipe, speech_folder, small_codec, tmp_path, request
):
    """Plain DDP, which is what Lightning chooses when there are several devices."""
    more = [*SAME_RUN, "--model.init_args.codec", str(small_codec)]
    one = run_alone(recipe, request)
    two = run_processes(tmp_path / "two", speech_folder, small_codec, 2, 2, recipe, *more)
    assert_same_run(one, two)
    if recipe == "nano_stage1":
        before, after = (
            MimoCodec.from_pretrained(path).quantizer.codebook(0) for path in (small_codec, two / "export")
        )
        assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.slow
def test_two_processes_validate_every_file_once(speech_folder, small_codec, tmp_path):
    """Three files: the second process validates one more, so that both are as long, and it counts once."""
    more = [*SAME_RUN, "--model.init_args.codec", str(small_codec), "--trainer.val_check_interval", "4"]
    more += ["--data.validation_root", str(speech_folder), "--data.num_validation_files", "3"]
    one = run_processes(tmp_path / "one", speech_folder, small_codec, 1, 4, "nano_stage2", *more)
    two = run_processes(tmp_path / "two", speech_folder, small_codec, 2, 2, "nano_stage2", *more)
    for name in ("val/mel_distance", "val/stoi", "codebook/val_usage_0", "codebook/val_usage_1"):
        assert logged_column(two, name) == pytest.approx(logged_column(one, name), rel=2e-3), name


@pytest.mark.slow
def test_two_processes_start_their_codebooks_together(speech_folder, small_codec, tmp_path):
    """K-means when short files have left the processes with different numbers of frames."""
    root = run_processes(
        tmp_path,
        speech_folder,
        small_codec,
        2,
        2,
        "nano_stage1",
        "--data.segment_seconds",
        "1.5",
        "--model.init_args.quantizer_start",
        "2",
    )
    assert MimoCodec.from_pretrained(root / "export").quantizer.is_initialized


SAME_CODEBOOKS = """
import os, sys, torch
from torch import distributed
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
from mimo_codec import CodecConfig
from mimo_codec.codec.residual_vq import ResidualVQ
threshold = float(sys.argv[3])
config = CodecConfig.preset("tiny").replace(codebook_size=[64, 32], num_quantizers=2, threshold_ema_dead_code=threshold)
quantizer = ResidualVQ(config.quantizer, 8, decay=0.5)
everything = torch.randn(5, 2, 60, 8, generator=torch.Generator().manual_seed(0))
own = everything[:, int(sys.argv[2])]
torch.manual_seed(100 + int(sys.argv[2]))  # k-means may draw different vectors
quantizer.initialize(own[0], 120)
start = {k: v.clone() for k, v in quantizer.state_dict().items()}
def learn(quantizer, batch, step):
    torch.manual_seed(100 * step + int(sys.argv[2]))
    batch = batch + 3 * (step > 2)
    quantizer.collect(batch, quantizer(batch), (torch.arange(60) < 50).expand(len(batch), 60))
    quantizer.update()
for step in range(1, 5):
    learn(quantizer, own[step][None], step)
state = torch.cat([v.double().flatten() for v in quantizer.state_dict().values()])
both = [torch.empty_like(state) for _ in range(2)]
distributed.all_gather(both, state)
assert torch.equal(*both), "codebooks differ between processes"
if threshold > 0:
    assert not torch.allclose(quantizer.codebook(0), start["vq.layers.0._codebook.embed"][0]), "nothing has moved"
distributed.destroy_process_group()
if sys.argv[2] == "0" and threshold == 0:  # alone, from the same start, with both halves of every batch
    alone = ResidualVQ(config.quantizer, 8, decay=0.5)
    alone.load_state_dict(start)
    for step in range(1, 5):
        learn(alone, everything[step], step)
    for name, value in alone.state_dict().items():
        assert torch.allclose(value.float(), quantizer.state_dict()[name].float(), atol=1e-5), name
print("same", flush=True)
os._exit(0)  # gloo's threads may still be letting go of tensors, and abort a Python that takes itself down meanwhile
"""


@pytest.mark.parametrize("threshold", [0, 1], ids=["averages", "revival"])
def test_two_processes_hold_the_codebooks_of_one(threshold, tmp_path):
    """Start, moving averages and padding; and revival (a threshold that kills many entries at every step), in which
    chance decides, but the same in both."""
    assert_same(SAME_CODEBOOKS, str(tmp_path / "meet"), str(threshold))


def assert_same(program: str, meeting: str, argument: str) -> None:
    """Run a program as two processes, which get a file to meet at, their rank and an argument, and print "same"."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    arguments = [sys.executable, "-c", program, meeting]
    processes = [subprocess.Popen([*arguments, str(n), argument], env=environment(), **pipes) for n in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [printed for printed, _ in outputs] == ["same\n"] * 2


SHARED_MUON = """
import os, sys, torch
from torch import distributed, nn
rank = int(sys.argv[2])
from mimo_codec.train.optimizer import make_optimizer

def trained(first, last, state=None, weights=None):
    torch.manual_seed(0)
    network = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(6, 9), nn.Linear(9, 4), nn.Linear(4, 4)])})
    if weights is not None:
        network.load_state_dict(weights)
    optimizer = make_optimizer(network.named_parameters(), 0.05, 0.01, 0.1)
    if state is not None:
        optimizer.load_state_dict(state)
    for step in range(first, last):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
        for layer in network["layers"]:
            x = layer(x).tanh()
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()
    return {k: v.clone() for k, v in network.state_dict().items()}, optimizer.state_dict()

whole, state = trained(0, 6)  # before there are several processes: one does all
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
shared, shared_state = trained(0, 6)
assert all(torch.allclose(whole[k], shared[k], atol=1e-6) for k in whole), "not what one process gets"
momentum, shared_momentum = state["parts"][0]["state"], shared_state["parts"][0]["state"]
assert momentum.keys() == shared_momentum.keys() and len(momentum) == 3
for number, one in momentum.items():
    two = shared_momentum[number]
    assert torch.allclose(one["momentum_buffer"], two["momentum_buffer"], atol=1e-6), "the state is not whole"
half, half_state = trained(0, 3)
resumed, _ = trained(3, 6, half_state, half)
assert all(torch.equal(shared[k], resumed[k]) for k in shared), "resuming changes the run"
distributed.destroy_process_group()
print("same", flush=True)
os._exit(0)  # see SAME_CODEBOOKS
"""


@pytest.mark.slow
def test_two_processes_share_muon_out_and_get_what_one_gets(tmp_path):
    """Weights, and the state in every process, from which a run can be resumed."""
    assert_same(SHARED_MUON, str(tmp_path / "meet"), "")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["nano_stage1", "nano_stage2"])
def test_fsdp_by_its_name_alone(recipe, speech_folder, small_codec, tmp_path, request):
    more = [*SAME_RUN, "--model.init_args.codec", str(small_codec)]
    fsdp = ["--trainer.strategy", "fsdp"]
    one = run_alone(recipe, request)
    two = run_processes(tmp_path / "two", speech_folder, small_codec, 2, 2, recipe, *more, *fsdp)
    assert_same_run(one, two)
    resumed = command(
        recipe,
        tmp_path / "two",
        speech_folder,
        small_codec,
        6,
        "--data.batch_size",
        "2",
        "--trainer.devices",
        "2",
        *more,
        *fsdp,
        "--ckpt_path",
        "last",
    )
    done = subprocess.run(resumed, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_projections_of_a_quantizer_are_shared_out_too(speech_folder, tmp_path):
    """Their gradients are those of all processes, and they are whole again where codes are made and exported."""
    torch.manual_seed(0)
    changes = {key: value for key, value in SMALL.items() if key != "codebook_size"}
    MimoCodec(
        CodecConfig.preset("tiny").replace(**changes, quantizer_type="rfsq", fsq_levels=[8, 5, 5])
    ).save_pretrained(tmp_path / "codec")
    codec = tmp_path / "codec"
    more = [*SAME_RUN, "--model.init_args.codec", str(codec), "--trainer.val_check_interval", "2"]
    more += ["--data.validation_root", str(speech_folder), "--data.num_validation_files", "2"]
    more += ["--model.init_args.config", "null"]
    one = run_processes(tmp_path / "one", speech_folder, codec, 1, 4, "nano_stage1", *more)
    two = run_processes(
        tmp_path / "two", speech_folder, codec, 2, 2, "nano_stage1", *more, "--trainer.strategy", "fsdp"
    )
    assert_same_run(one, two)
    before, after = (MimoCodec.from_pretrained(path).quantizer.fingerprint() for path in (codec, two / "export"))
    assert before != after


def test_fsdp_and_muon_do_not_go_together(speech_folder, small_codec, tmp_path):
    arguments = command("nano_stage1", tmp_path, speech_folder, small_codec, 4, "--trainer.strategy", "fsdp")
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 2 and "matrix_learning_rate" in done.stderr.splitlines()[-1], done.stderr
