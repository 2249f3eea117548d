"""A run of a pipeline from an input to shards; the same command continues one that was stopped or killed."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mimo_codec.common.checks import check_choice, require, wrap_errors
from mimo_codec.common.engines import ENGINES, Resources, Task, run_tasks
from mimo_codec.common.files import atomic_path, make_folder, read_json, write_json
from mimo_codec.corpus.config import Pipeline
from mimo_codec.corpus.recordings import Recording, as_text, find_recordings, group_by_seconds, stamp
from mimo_codec.corpus.schema import BASE, CODES, MADE
from mimo_codec.corpus.select import Selection, needed_columns, select
from mimo_codec.corpus.steps import check_steps
from mimo_codec.corpus.timing import Timing
from mimo_codec.corpus.tokenize import Tokenizer
from mimo_codec.corpus.workers import (
    SHARDS,
    DescribeWorker,
    Summary,
    TokenizeWorker,
    described_path,
    is_done,
    shard_path,
    summary_path,
)
from mimo_codec.data.corpus import DESCRIBED, FORMAT, MANIFEST, STATE, WORK
from mimo_codec.data.parquet import read_parquet
from mimo_codec.data.utterance import Fault

QUARANTINE, REPORT = "quarantine.jsonl", "report.html"

Progress = Callable[[str, int], None]
"""(which half, number of the task that is done)"""


@dataclass
class Outcome:
    """What a run made."""

    manifest: dict[str, Any]
    selection: Selection
    quarantine: list[dict[str, Any]]
    recorded_seconds: float
    described_seconds: float
    timing: Timing


@dataclass
class Run:
    """A pipeline, its input and its output.

    Args:
        pipeline: what is done.
        source: the input: a folder, shards or a manifest.
        folder: the output.
        engine: one of ENGINES.
        address: of a running cluster of Ray.
        device: of the codec.
        reselect: whether shards that another selection or codec made here are replaced; segments that are already
            described are used again.
    """

    pipeline: Pipeline
    source: str
    folder: Path
    engine: str = "local"
    address: str | None = None
    device: str | None = None
    reselect: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        check_choice("engine", self.engine, ENGINES)
        require(self.address is None or self.engine == "ray", "address: is of a cluster for the engine ray")
        self.columns = check_steps(self.pipeline.describe, BASE)
        needed_columns(self.pipeline.select, (*BASE, *self.columns))

    def __call__(
        self,
        begin: Callable[[str, dict[int, float]], None] = lambda half, seconds: None,
        progress: Progress = lambda half, number: None,
    ) -> Outcome:
        """Do what is left to do.

        begin: called with "describe" and "tokenize" and the seconds of all tasks of each; progress: with each that is
        done. Raises MimoError for an input or output that cannot be used, and when no segment stays.
        """
        recordings, faults = find_recordings(self.source, self.pipeline)
        model_id = None if self.pipeline.tokenize is None else Tokenizer(self.pipeline.tokenize, self.device).model_id
        self._check_folder(recordings)
        make_folder(self.folder / WORK)
        with self._locked():
            self._check_state(recordings, model_id)
            described = self._describe(recordings, begin, progress)
            selection, parts = self._select(described)
            shards = self._tokenize(parts, begin, progress)
            return self._finish(described, selection, shards, model_id, faults)

    # ---- the output's folder -----------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs away from the folder while this one goes on."""
        try:
            import fcntl
        except ImportError:  # there is no such lock on Windows
            yield
            return
        with open(self.folder / WORK / "lock", "w") as file:
            with suppress(OSError):  # the file system has no locks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    require(False, f"{self.folder}: another run is writing here")
            yield

    def _check_folder(self, recordings: Sequence[Recording]) -> None:
        """Refuse a folder with files of others, or which would become a part of the input."""
        inside = Path(os.path.realpath(self.folder)).is_relative_to(os.path.realpath(self.source))
        in_shards = any(recording.utterance.member is not None for recording in recordings)
        require(not (inside and in_shards), f"{self.folder}: lies in the input {self.source}, whose shards are read")
        if not (self.folder / WORK / STATE).exists():
            with wrap_errors(f"{self.folder}: cannot be read", OSError):
                names = [p.name for p in self.folder.iterdir()] if self.folder.exists() else []
            foreign = sorted(set(names) - {WORK})
            finished = f"is a finished corpus without its folder {WORK}, so that nothing can be continued"
            told = finished if MANIFEST in foreign else f"has other files, such as {foreign[:1]}"
            require(not foreign, f"{self.folder}: {told}; an empty or new folder is needed")

    def _check_state(self, recordings: Sequence[Recording], model_id: str | None) -> None:
        """Note what is done here, or check that it is the same as before."""
        state = {
            "description": self.pipeline.description_fingerprint(),
            "pipeline": self.pipeline.fingerprint(),
            "codec": model_id,
            "input": stamp(recordings),
            "recordings": len(recordings),
        }
        path = self.folder / WORK / STATE
        if any((self.folder / WORK / DESCRIBED).glob("*.json")):  # something is done
            before = read_json(path)
            known = before if isinstance(before, dict) else {}
            differ = [name for name in state if known.get(name) != state[name]]
            told = f"{self.folder}: was begun with another"
            require("input" not in differ, f"{told} input; choose another output folder")
            parts = "pipeline (read, segment, describe or task_minutes)"
            require("description" not in differ, f"{told} {parts}; choose another output folder")
            again = "choose another output folder, or replace the shards here by --reselect"
            for name, what in (("pipeline", "pipeline (select, tokenize or shard_hours)"), ("codec", "codec")):
                require(name not in differ or self.reselect, f"{told} {what}; {again}")
            if not differ:
                return
            self._remove_shards()
        write_json(path, state)

    def _remove_shards(self) -> None:
        """Remove what the second half has made; the manifest first, so that no one reads what is incomplete."""
        with wrap_errors(f"{self.folder}: cannot be emptied", OSError):
            for name in (MANIFEST, REPORT, QUARANTINE):
                (self.folder / name).unlink(missing_ok=True)
            for folder in (self.folder / WORK / SHARDS, self.folder / SHARDS):
                if folder.exists():
                    shutil.rmtree(folder)

    # ---- the two halves ----------------------------------------------------------------------------------------------

    def _describe(self, recordings: Sequence[Recording], begin: Any, progress: Progress) -> list[Summary]:
        lengths = [recording.seconds for recording in recordings]
        most = 60 * self.pipeline.engine.task_minutes
        slices = list(group_by_seconds(lengths, most))
        tasks = [
            {"number": n, "recordings": [recording.to_json() for recording in recordings[part]]}
            for n, part in enumerate(slices)
        ]
        begin("describe", {n: sum(lengths[part]) for n, part in enumerate(slices)})
        make = partial(DescribeWorker, self.pipeline, self.folder.absolute())  # workers may be in other folders
        return self._run(DESCRIBED, make, tasks, "describe", progress)

    def _select(self, described: Sequence[Summary]) -> tuple[Selection, list[list[Any]]]:
        """Return what stays, and for each row its file, its number there, and its seconds."""
        known = (*BASE, *self.columns)
        wanted = needed_columns(self.pipeline.select, known)
        places: list[tuple[int, int, float]] = []

        def rows() -> Iterator[dict[str, Any]]:
            for summary in described:
                for number, row in enumerate(read_parquet(described_path(self.folder, summary["number"]), wanted)):
                    places.append((summary["number"], number, row["seconds"]))
                    yield row

        selection = select(rows(), self.pipeline.select, known)
        kept = [places[number] for number in selection.kept]
        if not kept:
            causes = ", ".join(f"{count} by {reason}" for reason, count in selection.removed.items() if count)
            require(places, f"{self.source}: no segment of speech was found{_why(described)}")
            require(False, f"{self.source}: none of {len(places)} segments stays: {causes} were removed")
        most = 3600 * self.pipeline.engine.shard_hours
        groups = [kept[part] for part in group_by_seconds((seconds for *_, seconds in kept), most)]
        return selection, groups

    def _tokenize(self, groups: Sequence[Sequence[Any]], begin: Any, progress: Progress) -> list[Summary]:
        make_folder(self.folder / SHARDS)
        tasks = []
        for number, group in enumerate(groups):
            parts: dict[int, list[int]] = {}
            for file, row, _ in group:
                parts.setdefault(file, []).append(row)
            tasks.append({"number": number, "parts": [list(part) for part in parts.items()]})
        begin("tokenize", {n: sum(seconds for *_, seconds in group) for n, group in enumerate(groups)})
        make = partial(TokenizeWorker, self.pipeline, self.folder.absolute(), self.device)
        return self._run(SHARDS, make, tasks, "tokenize", progress)

    def _run(self, kind: str, make: Any, tasks: list[Task], half: str, progress: Progress) -> list[Summary]:
        """Do the tasks that are not done; return the summaries of all in their order."""
        make_folder(self.folder / WORK / kind)
        paths = {task["number"]: summary_path(self.folder, kind, task["number"]) for task in tasks}
        done = {number for number in paths if is_done(self.folder, kind, number)}
        todo = [task for task in tasks if task["number"] not in done]
        for number in sorted(done):
            progress(half, number)
        options = self.pipeline.engine
        resources = Resources(options.workers, options.cpus, options.gpus, self.address)
        for number in run_tasks(self.engine, make, todo, resources):
            progress(half, number)
        return [{"number": number, **read_json(path)} for number, path in paths.items()]

    # ---- what is left in the end -------------------------------------------------------------------------------------

    def _finish(
        self,
        described: Sequence[Summary],
        selection: Selection,
        shards: Sequence[Summary],
        model_id: str | None,
        faults: Sequence[Fault],
    ) -> Outcome:
        rows = sum(shard["rows"] for shard in shards)
        require(rows, f"{self.source}: no segment could be encoded{_why(shards)}")
        quarantine = [{"path": str(f.path), "reason": f"{f.kind}: {f.reason}"} for f in faults]
        quarantine += [entry for summary in (*described, *shards) for entry in summary["quarantine"]]
        with atomic_path(self.folder / QUARANTINE) as temporary:
            temporary.write_text("".join(map(_line, quarantine)), encoding="utf-8")
        timing = Timing()
        for summary in (*described, *shards):
            timing.add(summary["timing"])
        manifest = {
            "format": FORMAT,
            "version": 1,
            "pipeline": self.pipeline.fingerprint(),
            "options": {name: value for name, value in asdict(self.pipeline).items() if name != "engine"},
            "codec": model_id,
            "columns": [*BASE, *self.columns, *(CODES if model_id else ()), *MADE],
            "rows": rows,
            "seconds": sum(shard["seconds"] for shard in shards),
            "removed": selection.removed,
            "quarantined": len(quarantine),
            "shards": [
                {"name": f"{SHARDS}/{shard_path(self.folder, shard['number']).name}"}
                | {name: shard[name] for name in ("rows", "seconds", "bytes", "sha256")}
                for shard in shards
            ],
        }
        outcome = Outcome(
            manifest,
            selection,
            quarantine,
            sum(summary["recorded_seconds"] for summary in described),
            sum(summary["seconds"] for summary in described),
            timing,
        )
        write_json(self.folder / MANIFEST, manifest)
        return outcome


def _why(described: Sequence[Summary]) -> str:
    """Say what is the matter with most recordings."""
    reasons = Counter(entry["reason"] for summary in described for entry in summary["quarantine"])
    return "".join(f"; of {count} recordings: {reason}" for reason, count in reasons.most_common(1))


def _line(entry: dict[str, Any]) -> str:
    """Return an entry of the quarantine as a line; names of files that are no UTF-8 are escaped."""
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    return line if as_text(line) == line else json.dumps(entry) + "\n"
