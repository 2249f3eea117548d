"""Speed of training with and without its optimizations: `python -m mimo_codec.benchmarks.training compare SPEECH`.

Every row is a short run of `mimo-codec train nano_stage1` on the CPU. The rows take turns, so that a machine whose
speed drifts does not favour any.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer

from mimo_codec.benchmarks.shared import print_table, run_app
from mimo_codec.common.errors import MimoError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__)

ONE_PROCESS = ("--trainer.devices", "1")
NO_WORKER = ("--data.num_workers", "0")
STEPS = 14
"""Steps of a run: three that are not measured, ten that are, and the last."""


class Setting(NamedTuple):
    """One row of the table."""

    name: str
    arguments: tuple[str, ...] = ()
    """Arguments that override the recipe."""
    slower: tuple[str, ...] = ()
    """Optimizations that `run` undoes: "fused attention", "Muon in every process"."""
    waiting: str = "PASSIVE"
    """Value of OMP_WAIT_POLICY."""
    busy: bool = False
    """Whether another program computes on every core at the same time."""


SETTINGS = (
    Setting(
        "one process, batches of 16, fused attention",
        (*ONE_PROCESS, *NO_WORKER, "--data.batch_size", "16"),
        ("fused attention",),
        "ACTIVE",
    ),
    Setting("batches of 32", (*ONE_PROCESS, *NO_WORKER), ("fused attention",), "ACTIVE"),
    Setting("and plain attention", (*ONE_PROCESS, *NO_WORKER), waiting="ACTIVE"),
    Setting("and a process for each core", NO_WORKER, ("Muon in every process",)),
    Setting("and Muon's work shared out", NO_WORKER),
    Setting("and a data worker: the recipe as it is"),
    Setting(
        "busy machine, as before",
        (*ONE_PROCESS, *NO_WORKER, "--data.batch_size", "16"),
        ("fused attention",),
        "ACTIVE",
        busy=True,
    ),
    Setting("busy machine, one process, active waiting", (*ONE_PROCESS, *NO_WORKER), waiting="ACTIVE", busy=True),
    Setting("busy machine, one process, passive waiting", (*ONE_PROCESS, *NO_WORKER), busy=True),
    Setting("busy machine, the recipe as it is", busy=True),
)


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command()
def compare(
    speech: Annotated[Path, typer.Argument(help="Folder or manifest to train on.")],
    rounds: Annotated[int, typer.Option(min=1, help="Number of runs of each setting.")] = 3,
) -> None:
    """Print the speed of training with one setting after the other."""
    speeds: dict[str, list[float]] = {setting.name: [] for setting in SETTINGS}
    for _ in range(rounds):
        for setting in SETTINGS:
            speeds[setting.name].append(_measure(setting, speech))
    rows = [[name, f"{median(x):.1f}", f"{min(x):.1f}", f"{max(x):.1f}"] for name, x in speeds.items()]
    print_table(["seconds of audio per second of training", "median", "least", "most"], rows)


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context, slower: Annotated[str, typer.Option()] = "") -> None:
    """Run training once, with some optimizations undone."""
    import mimo_codec.codec.transformer as transformer
    import mimo_codec.train.optimizer as optimizer
    from mimo_codec.train.run import train

    if "fused attention" in slower:
        transformer._trains_on_short_cpu_block = lambda q, num_keys: False
    if "Muon in every process" in slower:
        optimizer.num_processes = lambda: 1  # type: ignore[attr-defined]
    train("nano_stage1", context.args, all_cores=True)


def _measure(setting: Setting, speech: Path) -> float:
    """Run one setting -> seconds of audio per second."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        for _ in range((os.cpu_count() or 1) * setting.busy):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(other.wait)
            stack.callback(other.kill)
        command = [sys.executable, "-m", "mimo_codec.benchmarks.training", "run", "--slower", ",".join(setting.slower)]
        recipe = {
            "data.root": speech,
            "trainer.accelerator": "cpu",
            "trainer.max_steps": STEPS,
            "trainer.default_root_dir": folder,
            "trainer.callbacks": "[]",
            "trainer.enable_progress_bar": "false",
            "model.init_args.quantizer_start": 2,
        }
        command += [word for key, value in recipe.items() for word in (f"--{key}", str(value))]
        command += setting.arguments
        environment = {**os.environ, "OMP_WAIT_POLICY": setting.waiting}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = re.search(r"([\d.]+) seconds of audio per second", done.stdout + done.stderr)
    if found is None:
        raise MimoError(f"{setting.name}: {' '.join((done.stderr or done.stdout).strip().splitlines()[-1:])}")
    return float(found[1])


if __name__ == "__main__":
    main()
