"""Speed and memory of the corpus pipeline: `python -m mimo_codec.benchmarks.corpus RECORDING`.

A recording is used again and again, each time from a little later on, until there are enough hours. Every row is a run
of its own in a new process; runs of equally many hours must give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import typer
import yaml

from mimo_codec.audio.files import audio_info
from mimo_codec.benchmarks.shared import parse_numbers, print_table, run_app
from mimo_codec.common.checks import check_choice, require
from mimo_codec.common.engines import ENGINES
from mimo_codec.corpus.config import find_pipeline

STEP_SECONDS = 0.01
"""So much later a recording begins each time that it is used, so that every piece has an id of its own."""
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one of ru_maxrss

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def measure(
    recording: Annotated[str, typer.Argument(help="Audio file of speech, best of half an hour or so.")],
    hours: Annotated[str, typer.Option(help="Hours of recordings, separated by commas.")] = "0.5",
    engines: Annotated[str, typer.Option(help="Engines, separated by commas: local, ray.")] = "local",
    workers: Annotated[str, typer.Option(help="Numbers of workers, separated by commas.")] = "1,2",
    config: Annotated[str, typer.Option(help="Pipeline. Duplicates stay, for all that is used is alike.")] = "speech",
) -> None:
    """Print time, speed and peak memory of runs with every engine, number of workers, and length."""
    chosen = [check_choice("--engines", name, ENGINES) for name in engines.split(",")]
    rows, hashes = [], dict[float, str]()
    for length, engine, count in product(
        parse_numbers("--hours", hours), chosen, map(int, parse_numbers("--workers", workers))
    ):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            write_manifest(root / "input.jsonl", recording, length)
            write_pipeline(root / "pipeline.yaml", config, count)
            seconds, peak = run(root, engine)
            found = hash_shards(root / "out")
            require(hashes.setdefault(length, found) == found, f"{engine}, {count} workers: other shards than before")
        speed = f"{3600 * length / seconds:.0f}"
        rows.append((f"{length:g} h", engine, str(count), f"{seconds:.1f}", speed, f"{peak / 1e6:.0f}"))
    print_table(("recordings", "engine", "workers", "seconds", "times realtime", "peak MB of a process"), rows)


def write_manifest(path: Path, recording: str, hours: float) -> None:
    """List pieces of a recording, each of nearly its whole length, of so many hours together."""
    info = audio_info(recording)
    require(info.num_samples, f"{recording}: its header does not say how long it is")
    assert info.num_samples is not None
    whole, left = info.num_samples / info.sample_rate, 3600 * hours

    def lines() -> Iterator[str]:
        nonlocal left
        number = 0
        while left > 0:
            start = STEP_SECONDS * number
            end = min(whole, start + left)
            require(end > start, f"{recording}: is too short for {hours:g} hours")
            yield json.dumps({"path": os.path.abspath(recording), "start": start, "end": end}) + "\n"
            left -= end - start
            number += 1

    path.write_text("".join(lines()), encoding="utf-8")


def write_pipeline(path: Path, config: str, workers: int) -> None:
    """Write a pipeline that keeps duplicates, for so many workers."""
    content = yaml.safe_load(find_pipeline(config).read_text(encoding="utf-8"))
    selection = {**content.get("select", {}), "exact_duplicates": False, "near_duplicates": False}
    content |= {"select": selection, "engine": {**content.get("engine", {}), "workers": workers}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def run(root: Path, engine: str) -> tuple[float, int]:
    """Run the command -> seconds, and the peak memory in bytes of the largest of its processes."""
    command = [sys.executable, "-m", "mimo_codec", "corpus", "run", "pipeline.yaml", "--input", "input.jsonl"]
    start = perf_counter()
    process = subprocess.Popen(
        [*command, "--output", "out", "--engine", engine], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    require(status == 0, f"{engine}: {errors.strip().splitlines()[-1] if errors.strip() else 'it failed'}")
    return perf_counter() - start, used.ru_maxrss * RSS_UNIT


def hash_shards(folder: Path) -> str:
    """Hash all shards of a run."""
    digest = hashlib.sha256()
    for path in sorted((folder / "shards").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
