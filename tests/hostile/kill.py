"""Kill commands at random times: nothing is lost, nothing is half-written, and the same command finishes the work.

python tests/hostile/kill.py                      # 100 kills of each command
python tests/hostile/kill.py --kills 5 --command encode
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process forks safely as long as PyTorch has no threads
sys.path.append(str(Path(__file__).parents[1]))  # the helpers of all tests, where pytest does not add them
import torch
from conftest import SMALL
from safetensors.torch import load_file
from targets import RATE, make_codec, waveform

from mimo_codec import MimoCodec, save_audio
from mimo_codec.cli.main import main

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Scenario:
    """`arguments` write below folder/out; `finish` are those that go on after a kill. Results are files by name."""

    prepare: Callable[[Path], None]
    arguments: Callable[[Path], list[str]]
    finish: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, object]]
    whole_at_any_time: bool
    """Every result that is there after a kill is complete; training's are only at the end."""
    fresh_every: int
    """Every so many kills begin without an output; the others begin where an output is complete."""
    check: Callable[[Path], None] = lambda folder: None
    """Raises for anything else that is not whole after a kill."""
    kill_workers: bool = False
    """Every other kill is of a process that the command has started; the command itself must then finish."""


def _sounds(folder: Path) -> None:
    make_codec().save_pretrained(folder / "tiny")
    (folder / "in").mkdir()
    for i in range(10):
        save_audio(folder / "in" / f"{i}.wav", waveform(0.5 + 0.1 * i), RATE)


def _sounds_for_training(folder: Path) -> None:
    """Imports what takes most of the time of a short run, so that kills hit the rest."""
    import auraloss  # noqa: F401
    import jsonargparse  # noqa: F401
    from lightning.pytorch.cli import LightningCLI  # noqa: F401

    import mimo_codec.train.codec.stages  # noqa: F401

    _sounds(folder)


def _graphs_to_write(folder: Path) -> None:
    """Trace before any kill: PyTorch takes a minute for it and writes nothing, and kills are to hit the rest."""
    import onnxruntime  # noqa: F401

    from mimo_codec.onnx.codec.export import OPSET, codec_graphs, write_graph

    _sounds(folder)
    trace, traced = torch.onnx.export, dict[tuple[str, ...], Any]()

    def traced_once(module: Any, **options: Any) -> Any:
        names = (*options["input_names"], *options["output_names"])
        if names not in traced:
            traced[names] = trace(module, **options)
        return traced[names]

    torch.onnx.export = traced_once
    for name, graph in codec_graphs(make_codec(), 2).items():
        write_graph(graph, folder / f"{name}.onnx", {}, OPSET)


def _codes(folder: Path) -> None:
    _sounds(folder)
    _run(["encode", f"{folder}/in", "-o", f"{folder}/codes", "-m", f"{folder}/tiny", "-q", "2"])


def _files(folder: Path) -> dict[str, object]:
    out = folder / "out"
    found = {p.relative_to(out): p for p in out.rglob("*") if p.is_file()}
    hidden = {name for name in found if any(part.startswith(".") for part in name.parts)}  # of killed processes
    return {str(name): path.read_bytes() for name, path in found.items() if name not in hidden}


def _graphs(folder: Path) -> dict[str, object]:
    """Whether the exported folder is complete: graphs hold an id that differs between exports."""
    return {name: b"" for name in _files(folder)}


def _training(folder: Path) -> list[str]:
    options = {
        "data.root": folder / "in",
        "data.batch_size": 2,
        "data.segment_seconds": 0.4,
        "data.num_workers": 0,
        "data.text_batch_size": 0,
        "model.init_args.preset": "tiny",
        "model.init_args.config": json.dumps(SMALL),
        "model.init_args.text_weight": 0,
        "model.init_args.quantizer_start": 1,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.max_steps": 8,
        "trainer.precision": 32,
        "trainer.default_root_dir": folder / "out",
        "trainer.enable_progress_bar": "false",
        "trainer.val_check_interval": 4,
        "trainer.callbacks": json.dumps(
            [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"save_last": True, "save_top_k": 0, "every_n_train_steps": 1},
                },
                {"class_path": "mimo_codec.train.callbacks.ExportCodec"},
            ]
        ),
    }
    return [
        "train",
        str(ROOT / "recipes" / "nano_stage1.yaml"),
        *(w for k, v in options.items() for w in (f"--{k}", str(v))),
    ]


def _resumed(folder: Path) -> list[str]:
    saved = (folder / "out" / "checkpoints" / "last.ckpt").exists()
    return _training(folder) + (["--ckpt_path", "last"] if saved else [])


def _check_checkpoints(folder: Path) -> None:
    """Checkpoints and exported codecs are whole at any time."""
    from mimo_codec.train.checkpoints import read_checkpoint

    for path in (folder / "out").glob("checkpoints/[!.]*.ckpt"):
        read_checkpoint(path)
    for path in (folder / "out").glob("*/config.json"):
        MimoCodec.from_pretrained(path.parent, device="cpu")


def _weights(folder: Path) -> dict[str, object]:
    return {
        name: tensor.tolist() for name, tensor in load_file(folder / "out" / "export" / "model.safetensors").items()
    }


def _batch(command: str, source: str, existing: str = "--overwrite") -> Callable[[Path], list[str]]:
    codebooks = ["-q", "2"] if command == "encode" else []
    return lambda folder: [
        *(command, f"{folder}/{source}", "-o", f"{folder}/out", "-m", f"{folder}/tiny", existing),
        *codebooks,
    ]


def _export(folder: Path) -> list[str]:
    return ["export", "codec", f"{folder}/tiny", "-o", f"{folder}/out", "-q", "2", "--overwrite"]


def _recordings(folder: Path) -> None:
    """Noises that stay whole, because the pipeline does not cut; a copy, and a file that is broken."""
    _sounds(folder)
    shutil.copy(folder / "in" / "3.wav", folder / "in" / "copy.wav")
    (folder / "in" / "broken.wav").write_bytes(b"RIFF and nothing more")
    parts = {
        "segment": None,
        "describe": ["loudness", "quality"],
        "tokenize": {"codec": str(folder / "tiny"), "num_quantizers": 2},
        "engine": {"workers": 2, "task_minutes": 0.1, "shard_hours": 0.001},
    }
    (folder / "pipeline.yaml").write_text(json.dumps(parts))


def _corpus(folder: Path) -> list[str]:
    return ["corpus", "run", f"{folder}/pipeline.yaml", "-i", f"{folder}/in", "-o", f"{folder}/out"]


def _shards(folder: Path) -> dict[str, object]:
    kept = ("shards/", "manifest.json", "quarantine.jsonl")
    return {name: content for name, content in _files(folder).items() if name.startswith(kept)}


SCENARIOS = {
    "encode": Scenario(_sounds, _batch("encode", "in"), _batch("encode", "in", "--skip-existing"), _files, True, 3),
    "decode": Scenario(
        _codes, _batch("decode", "codes"), _batch("decode", "codes", "--skip-existing"), _files, True, 3
    ),
    "export": Scenario(_graphs_to_write, _export, _export, _graphs, True, 3),
    "train": Scenario(_sounds_for_training, _training, _resumed, _weights, False, 1, _check_checkpoints),
    "corpus": Scenario(_recordings, _corpus, _corpus, _shards, True, 1, kill_workers=True),
}


class Ended(NamedTuple):
    """How a command ended."""

    code: int | None
    """None when it was killed itself."""
    seconds: float
    disturbed: bool
    """Whether it, or a process that it has started, was killed."""


def _run(arguments: list[str], after: float | None = None, worker: bool = False) -> Ended:
    """The command in a forked process, which is killed `after` seconds.

    worker: whether, where it has started processes, one of them is killed instead.
    """
    process = multiprocessing.get_context("fork").Process(target=_command, args=(arguments,))
    started = time.monotonic()
    process.start()
    process.join(after)
    if process.is_alive():
        victims = _workers(process.pid) if worker else []
        if victims:
            with suppress(ProcessLookupError):
                os.kill(random.choice(victims), signal.SIGKILL)
        else:
            process.kill()
        process.join()
        return Ended(process.exitcode if victims else None, time.monotonic() - started, True)
    return Ended(process.exitcode, time.monotonic() - started, False)


def _workers(parent: int | None) -> list[int]:
    """Processes that a process has started to work for it."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _command(arguments: list[str]) -> None:
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    main(arguments)


def kills(name: str, count: int, seed: int = 0) -> int:
    """Kill a command `count` times -> how many times it was still running; AssertionError for what is wrong then."""
    scenario, rng, killed = SCENARIOS[name], random.Random(seed), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scenario.prepare(folder)
        code, seconds, _ = _run(scenario.arguments(folder))
        assert code == 0, f"{name} ended with {code} undisturbed"
        expected = scenario.results(folder)
        for number in range(count):
            if number % scenario.fresh_every == 0:
                shutil.rmtree(folder / "out")
            of_worker = scenario.kill_workers and number % 2 == 1
            code, taken, disturbed = _run(scenario.arguments(folder), rng.uniform(0.05, 1.05) * seconds, of_worker)
            assert code in (0, None), f"{name}, kill {number}: the command ends with {code} when a worker is killed"
            killed += disturbed
            seconds = seconds if disturbed else taken  # the first run may have been slower
            if scenario.whole_at_any_time and (folder / "out").exists():
                for result, content in scenario.results(folder).items():
                    assert content == expected[result], f"{name}, kill {number}: {result} is half-written"
            scenario.check(folder)
            code, *_ = _run(scenario.finish(folder))
            assert code == 0, f"{name}, kill {number}: the command ends with {code} afterwards"
            assert scenario.results(folder) == expected, f"{name}, kill {number}: other results than undisturbed"
            left = [path.name for path in folder.rglob(".mimo-codec-*")]
            assert not left, f"{name}, kill {number}: {left} is left behind"
    return killed


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--command", choices=SCENARIOS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [options.command] if options.command else SCENARIOS:
        started = time.monotonic()
        killed = kills(name, options.kills, options.seed)
        print(f"{name}: {killed} of {options.kills} killed while running, {time.monotonic() - started:.0f} s")
    sys.exit(0)


if __name__ == "__main__":
    run()
