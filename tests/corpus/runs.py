"""Small pipelines and recordings for the tests of whole runs, and steps that end badly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from recordings import RATE, example, join, noise, write

if not all(map(find_spec, ("pyarrow", "silero_vad", "onnxruntime", "simpleeval", "pyloudnorm"))):
    pytest.skip("needs the corpus and onnx extras", allow_module_level=True)

from mimo_codec.corpus.config import Pipeline, make_pipeline
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step
from mimo_codec.data.parquet import read_parquet


class Fatal(Step):
    """Ends its process for recordings whose name says so, once or always."""

    columns: ClassVar = {"heard": "bool"}

    def describe(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            path = Path(segment.row["path"])
            segment.row["heard"] = True
            if path.stem == "fatal":
                os.abort()
            mark = path.with_suffix(".killed")
            if path.stem == "killed" and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


class Slow(Step):
    """Takes a while, so that it can be killed meanwhile."""

    columns: ClassVar = {"slow": "float32"}

    def describe(self, segments: Sequence[Segment]) -> None:
        time.sleep(0.1)
        for segment in segments:
            segment.row["slow"] = segment.seconds


class Endless(Step):
    """Never ends, and says in which process."""

    columns: ClassVar = {"endless": "bool"}

    def describe(self, segments: Sequence[Segment]) -> None:
        Path(f"{os.getpid()}.begun").touch()
        time.sleep(600)


def content(codec: Path, workers: int = 1, **parts: Any) -> dict[str, Any]:
    """A pipeline with small tasks and shards."""
    return {
        "segment": {"min_seconds": 0.5, "max_seconds": 8.0, "pause_seconds": 0.6},
        "describe": ["loudness", "quality"],
        "select": {"keep": {"noise": "snr_db > 5"}},
        "tokenize": {"codec": str(codec), "num_quantizers": 2},
        "engine": {"workers": workers, "task_minutes": 0.15, "shard_hours": 0.002},
        **parts,
    }


def pipeline(codec: Path, workers: int = 1, **parts: Any) -> Pipeline:
    return make_pipeline(content(codec, workers, **parts))


def make_recordings(folder: Path) -> Path:
    """Speech with pauses; a copy of one in another format, noise, silence, and files that are broken."""
    speech = example()
    pieces = [speech[start : start + 3 * RATE] for start in range(0, 12 * RATE, 3 * RATE)]
    samples, _ = join(pieces[:3], [0.8, 1.0, 1.0, 0.8])
    write(folder / "a.wav", samples)
    write(folder / "deep" / "b.flac", join(pieces[3:], [0.7, 0.7])[0])
    write(folder / "copy.ogg", samples, format="OGG", subtype="VORBIS")
    write(folder / "noise.wav", noise(4.0, 0.1))
    write(folder / "silence.wav", np.zeros(2 * RATE, np.float32))
    (folder / "broken.wav").write_bytes(b"RIFF and nothing more")
    (folder / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:120_000])
    (folder / "deep" / "b.txt").write_text("All of it.")
    return folder


def shards(folder: Path) -> dict[str, bytes]:
    """All that a run promises to be the same."""
    names = [*sorted((folder / "shards").iterdir()), folder / "manifest.json", folder / "quarantine.jsonl"]
    return {path.name: path.read_bytes() for path in names}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "shards").iterdir()) for row in read_parquet(path)]
