"""Tasks, and the workers that do them: what a task makes is a file and a summary, whole or not there.

A worker can be killed at any time; the task is done again, by anyone, to the same bytes. A recording whose decoder ends
the process itself (a segmentation fault, for example) is known by what Python's faulthandler leaves, and is quarantined
when the task is done again.
"""

from __future__ import annotations

import faulthandler
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mimo_codec.common.engines import Task
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import make_folder, read_json, write_json
from mimo_codec.common.memory import give_back_memory
from mimo_codec.corpus.config import Pipeline
from mimo_codec.corpus.describe import Describer, refusal
from mimo_codec.corpus.recordings import Recording
from mimo_codec.corpus.schema import BASE, schema, write_rows
from mimo_codec.corpus.steps import check_steps
from mimo_codec.corpus.tokenize import Tokenizer
from mimo_codec.data.corpus import DESCRIBED, WORK
from mimo_codec.data.parquet import read_parquet

Summary = dict[str, Any]
"""What a task says of its work: rows, seconds, timing by step, quarantine."""
SHARDS = "shards"
FATAL = "Fatal Python error: "


def described_path(folder: Path, number: int) -> Path:
    """Rows of a task before codes."""
    return folder / WORK / DESCRIBED / f"{number:06d}.parquet"


def shard_path(folder: Path, number: int) -> Path:
    """A shard of the output."""
    return folder / SHARDS / f"shard-{number:06d}.parquet"


def summary_path(folder: Path, kind: str, number: int) -> Path:
    """The summary of a task, which is there when it is done."""
    return folder / WORK / kind / f"{number:06d}.json"


def rows_path(folder: Path, kind: str, number: int) -> Path:
    """Rows of a task of either kind."""
    return described_path(folder, number) if kind == DESCRIBED else shard_path(folder, number)


def is_done(folder: Path, kind: str, number: int) -> bool:
    """Whether a task has left its rows, as many bytes as it said, and its summary."""
    try:
        summary = read_json(summary_path(folder, kind, number))
        return bool(rows_path(folder, kind, number).stat().st_size == summary["bytes"])
    except (MimoError, OSError, KeyError, TypeError):
        return False


class Worker(ABC):
    """Does the tasks of one kind in one process."""

    kind: str

    def __init__(self, pipeline: Pipeline, folder: Path):
        """folder: of the output; every worker must see the same."""
        self.pipeline, self.folder = pipeline, folder
        self.columns = check_steps(pipeline.describe, BASE)

    def __call__(self, task: Task) -> int:
        """Do a task, unless it is done -> its number."""
        number: int = task["number"]
        if not is_done(self.folder, self.kind, number):
            summary = self.do(task)
            size = rows_path(self.folder, self.kind, number).stat().st_size
            write_json(summary_path(self.folder, self.kind, number), {"bytes": size, **summary})
            give_back_memory()
        return number

    @abstractmethod
    def do(self, task: Task) -> Summary:
        """Write the rows of a task."""


class DescribeWorker(Worker):
    """Recordings -> rows without codes."""

    kind = DESCRIBED

    def __init__(self, pipeline: Pipeline, folder: Path):
        """Load the networks of the steps."""
        super().__init__(pipeline, folder)
        self.describer = Describer(pipeline)

    def do(self, task: Task) -> Summary:
        """Describe the recordings of a task one after the other."""
        recordings = [Recording.from_json(value) for value in task["recordings"]]
        mark = summary_path(self.folder, self.kind, task["number"]).with_suffix(".crash")
        fatal, reason = _crashed(mark)
        sound = [recording for recording in recordings if recording.id != fatal]
        with _watched(mark) as note:
            made = self.describer(sound, note)
        made.quarantine += [refusal(r, f"reading it ended the process: {reason}") for r in recordings if r.id == fatal]
        write_rows(described_path(self.folder, task["number"]), made.rows, schema(self.columns, coded=False))
        mark.unlink(missing_ok=True)
        return {
            "rows": len(made.rows),
            "seconds": sum(row["seconds"] for row in made.rows),
            "recorded_seconds": made.recorded_seconds,
            "timing": dict(made.timing),
            "quarantine": made.quarantine,
        }


class TokenizeWorker(Worker):
    """Rows that stay -> a shard."""

    kind = SHARDS

    def __init__(self, pipeline: Pipeline, folder: Path, device: str | None = None):
        """Load the codec, if there is one."""
        super().__init__(pipeline, folder)
        self.tokenizer = None if pipeline.tokenize is None else Tokenizer(pipeline.tokenize, device)

    def do(self, task: Task) -> Summary:
        """Encode the rows of a task."""
        rows = list(self._rows(task["parts"]))
        quarantine: list[dict[str, Any]] = []
        timing: Mapping[str, float] = {}
        if self.tokenizer is not None:
            made = self.tokenizer(rows)
            rows, quarantine, timing = made.rows, made.quarantine, made.timing
        marked = [{**row, "pipeline": self.pipeline.fingerprint()} for row in rows]
        kind = schema(self.columns, coded=self.tokenizer is not None)
        digest = write_rows(shard_path(self.folder, task["number"]), marked, kind)
        return {
            "rows": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "sha256": digest,
            "timing": dict(timing),
            "quarantine": quarantine,
        }

    def _rows(self, parts: Sequence[tuple[int, Sequence[int]]]) -> Iterator[dict[str, Any]]:
        """parts: numbers of described files, with the numbers of their rows."""
        for number, chosen in parts:
            wanted = set(chosen)
            yield from (row for i, row in enumerate(read_parquet(described_path(self.folder, number))) if i in wanted)


def _crashed(mark: Path) -> tuple[str | None, str]:
    """The recording that was read when a process ended by its own fault, and how; (None, "") if none did."""
    with suppress(OSError):
        lines = mark.read_text(encoding="utf-8", errors="replace").splitlines()
        fatal = [number for number, line in enumerate(lines) if line.startswith(FATAL)]
        if fatal and fatal[0]:
            return lines[fatal[0] - 1], lines[fatal[0]].removeprefix(FATAL)
    return None, ""


@contextmanager
def _watched(mark: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that notes which recording is read; a fault of the process is noted below it.

    Where somebody else watches for faults, nothing is noted.
    """
    if faulthandler.is_enabled():
        yield lambda name: None
        return
    make_folder(mark.parent)
    with mark.open("w", encoding="utf-8") as file:
        faulthandler.enable(file, all_threads=False)

        def note(name: str) -> None:
            file.write(f"{name}\n")
            file.flush()

        try:
            yield note
        finally:
            faulthandler.disable()
