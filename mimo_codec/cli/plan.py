"""The files that a command reads and writes: inputs and output -> jobs, with every clash found before work starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mimo_codec.audio.folders import find_files
from mimo_codec.cli.pipes import PIPE, StandardInput, standard_input
from mimo_codec.common.checks import check_choice, require
from mimo_codec.common.files import make_folder

CODES = (".mimo",)


Source: TypeAlias = "Path | StandardInput"


@dataclass(frozen=True)
class Job:
    """One file to read and the one to write."""

    source: Source
    target: Path


@dataclass(frozen=True)
class Plan:
    """The jobs of a command; `single` if one file was named, rather than several or a folder."""

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
    skip_existing: bool = False,
) -> Plan:
    """Plan one job per file.

    A single file is written to `output`, unless that is a folder or ends in a slash. Otherwise `output` is a folder:
    files are written into it, folders are mirrored (IN/a/b.wav -> OUT/a/b.mimo). Whether the inputs exist shows when
    they are read.

    Args:
        inputs: files and folders, or - alone for standard input, which needs a file for `output`.
        output: file or folder.
        reads: suffixes of the files in folders that are read.
        writes: suffixes that an output may have.
        suffix: of outputs in a folder; by default the first of `writes`.
        overwrite: whether outputs may exist.
        skip_existing: whether to leave out the jobs whose outputs exist: outputs are whole or not there, so that the
            same command goes on where it was interrupted.

    Raises:
        MimoError: for unknown suffixes, folders without files, two inputs with one output, an output that is an input,
            without `overwrite` or `skip_existing` outputs that exist, and for both of them.
    """
    require(not (overwrite and skip_existing), "--overwrite and --skip-existing exclude each other")
    require(PIPE not in inputs or len(inputs) == 1, "- for standard input stands alone, without other inputs")
    is_pipe, is_folder = list(inputs) == [PIPE], os.path.isdir(output) or output.endswith(("/", os.sep))
    require(not (is_pipe and is_folder), f"{output}: standard input has no name, so a file has to be named for it")
    suffix = suffix or writes[0]
    check_choice("format", suffix.removeprefix("."), [known.removeprefix(".") for known in writes])
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if single and not is_folder:
        has_suffix = Path(output).suffix.lower() in writes
        require(has_suffix, f"{output}: an output file ends in {' '.join(writes)}; a new folder ends in /")
        jobs = [Job(standard_input() if is_pipe else Path(inputs[0]), Path(output))]
    else:
        jobs = [job for source in inputs for job in _mirror(Path(source), Path(output), reads, suffix)]
    _check_targets(jobs)
    if skip_existing:
        jobs = [job for job in jobs if not os.path.lexists(job.target)]
    elif not overwrite:
        check_new([job.target for job in jobs], can_skip=True)
    return Plan(tuple(jobs), single)


def make_folders(plan: Plan) -> None:
    """Create the folders of all outputs; raise MimoError for those that cannot be created or written to."""
    for folder in {job.target.parent: None for job in plan.jobs}:
        make_folder(folder)
        require(os.access(folder, os.W_OK), f"{folder}: no permission to write to this folder")


def _mirror(source: Path, output: Path, reads: Sequence[str], suffix: str) -> Iterator[Job]:
    if not os.path.isdir(source):
        yield Job(source, output / source.with_suffix(suffix).name)
        return
    is_inside = suffix in reads and Path(_place(output)).is_relative_to(_place(source))
    require(not is_inside, f"{output} is inside {source}, so outputs would be inputs: choose a folder outside of it")
    files = find_files(source, reads)
    yield from (Job(file, output / file.relative_to(source).with_suffix(suffix)) for file in files)


def _check_targets(jobs: Sequence[Job]) -> None:
    sources = {_place(job.source) for job in jobs if isinstance(job.source, Path)}
    writers: dict[str, object] = {}
    for job in jobs:
        place = _place(job.target)
        other = writers.get(place)
        require(other is None, f"{other} and {job.source} would both be written to {job.target}")
        require(place not in sources, f"{job.target} is an input and would be overwritten: choose another output")
        require(not os.path.isdir(place), f"{job.target} is a folder, where a file is to be written")
        writers[place] = job.source


def check_not_read(target: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise MimoError when a file or folder that a command writes, `target`, is one that it reads."""
    place = _place(target)
    is_input = any(_place(source) == place for source in inputs)
    require(not is_input, f"{target} is an input and would be overwritten: choose another output")


def check_new(targets: Sequence[Path], can_skip: bool = False) -> None:
    """Raise MimoError when something is at one of these paths; `can_skip`: whether the command has --skip-existing."""
    existing = [str(target) for target in targets if os.path.lexists(target)]
    others = f" and {len(existing) - 1} more of {len(targets)} outputs exist" if existing[1:] else " exists"
    advice = "pass --overwrite to replace what exists" + (", or --skip-existing to keep it" if can_skip else "")
    require(not existing, f"{''.join(existing[:1])}{others}: {advice}")


def _place(name: str | os.PathLike[str]) -> str:
    """Where a file really is; of a name that no file can have, such as one with a null character, the name itself."""
    try:
        return os.path.realpath(name)
    except ValueError:
        return os.fspath(name)
