"""Which files a command reads and writes: inputs and output -> jobs, with every clash found before work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_codec.audio.folders import find_files
from mimo_codec.common.errors import MimoError

CODES = (".mimo",)


@dataclass(frozen=True)
class Job:
    """One file to read and the one to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Plan:
    """What a command has to do, at least one job; `single` when one file was named rather than several or a folder."""

    jobs: tuple[Job, ...]
    single: bool


def plan_jobs(
    inputs: Sequence[str],
    output: str,
    reads: Sequence[str],
    writes: Sequence[str],
    *,
    suffix: str | None = None,
    overwrite: bool = False,
) -> Plan:
    """Files and folders -> one job per file.

    A single file is written to `output`, unless that is a folder or ends in a slash. Else `output` is a folder: files
    are written into it, folders are mirrored (IN/a/b.wav -> OUT/a/b.mimo). reads: suffixes of the files in folders that
    count. writes: those that an output may have. suffix: that of outputs in a folder, by default the first of `writes`.

    Raises MimoError for unknown suffixes, folders without files, two inputs with one output, an output that is an
    input, and, without `overwrite`, outputs that exist. Whether the inputs exist shows when they are read.
    """
    suffix = suffix or writes[0]
    if suffix not in writes:
        raise MimoError(f"format {suffix[1:]!r} is not known; {', '.join(known[1:] for known in writes)} are")
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if single and not os.path.isdir(output) and not output.endswith(("/", os.sep)):
        if Path(output).suffix.lower() not in writes:
            raise MimoError(f"{output}: an output file ends in {' '.join(writes)}; a folder that is new, in /")
        jobs = [Job(Path(inputs[0]), Path(output))]
    else:
        jobs = [job for source in inputs for job in _mirror(Path(source), Path(output), reads, suffix)]
    _check_targets(jobs)
    if not overwrite:
        check_new([job.target for job in jobs])
    return Plan(tuple(jobs), single)


def make_folders(plan: Plan) -> None:
    """Create the folders of all outputs; MimoError for those that cannot be created or written to."""
    for folder in {job.target.parent: None for job in plan.jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MimoError(f"{folder}: cannot make this folder ({error.strerror})") from None
        if not os.access(folder, os.W_OK):
            raise MimoError(f"{folder}: no permission to write to this folder")


def _mirror(source: Path, output: Path, reads: Sequence[str], suffix: str) -> Iterator[Job]:
    if not os.path.isdir(source):
        yield Job(source, output / source.with_suffix(suffix).name)
        return
    if suffix in reads and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
        raise MimoError(f"{output} is inside {source}, so outputs would be inputs: choose a folder outside of it")
    files = find_files(source, reads)
    yield from (Job(file, output / file.relative_to(source).with_suffix(suffix)) for file in files)


def _check_targets(jobs: Sequence[Job]) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    writers: dict[str, Path] = {}
    for job in jobs:
        place = os.path.realpath(job.target)
        if place in writers:
            raise MimoError(f"{writers[place]} and {job.source} would both be written to {job.target}")
        if place in sources:
            raise MimoError(f"{job.target} is an input and would be overwritten: choose another output")
        if os.path.isdir(place):
            raise MimoError(f"{job.target} is a folder, where a file is to be written")
        writers[place] = job.source


def check_new(targets: Sequence[Path]) -> None:
    """MimoError when something is at one of these paths."""
    existing = [target for target in targets if os.path.lexists(target)]
    if existing:
        others = f" and {len(existing) - 1} more of {len(targets)} outputs" if existing[1:] else ""
        raise MimoError(f"{existing[0]}{others} already there: pass --overwrite to replace what exists")
