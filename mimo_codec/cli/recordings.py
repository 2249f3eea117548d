"""Several recordings for one language model: it is loaded once, and one that fails does not end the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mimo_codec.cli.console import FilesFailed, counter, print_error, printable
from mimo_codec.cli.pipes import PIPE
from mimo_codec.cli.plan import make_folders, plan_jobs
from mimo_codec.cli.session import Session, Target
from mimo_codec.common.checks import error_prefix
from mimo_codec.common.errors import MimoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mimo_codec.cli.session import Answer
    from mimo_codec.lm import MimoAudioLM
    from mimo_codec.lm.request import TaskOptions

WRITTEN = (".txt", ".md")
"""Suffixes of files that hold text."""


def answer_files(
    session: Session,
    task: str,
    files: Sequence[str],
    output: str | None,
    arguments: Mapping[str, Any],
    batch_size: int,
    options: TaskOptions,
) -> None:
    """Answer in text about every file, each as if it were alone, into a folder or on the terminal.

    Args:
        session: which model.
        task: name in `TASKS` of one that hears `audio`.
        files: audio and .mimo files.
        output: folder for one text file each; None or - prints each text after the name of its file.
        arguments: of the task, the same for all files.
        batch_size: how many files are answered at once.
        options: of every answer.

    Raises:
        MimoError: for outputs that cannot be written, before anything is loaded; at the end, when files have failed.
    """
    targets = [Target(None, session.overwrite)] * len(files)
    if output not in (None, PIPE):
        plan = plan_jobs(files, output, (), WRITTEN, overwrite=session.overwrite)
        make_folders(plan)
        targets = [Target(str(job.target), session.overwrite) for job in plan.jobs]
    asked, failed = _Asked(session.load(), task, arguments, options), 0
    for start in range(0, len(files), batch_size):
        batch = slice(start, start + batch_size)
        failed += _answer_batch(asked, files[batch], targets[batch])
    if failed:
        raise FilesFailed(f"{failed} of {len(files)} files failed")


class _Asked(NamedTuple):
    """What is asked about every file, and of whom."""

    lm: MimoAudioLM
    task: str
    arguments: Mapping[str, Any]
    options: TaskOptions


def _answer_batch(asked: _Asked, files: Sequence[str], targets: Sequence[Target]) -> int:
    """Answer about some files at once; return how many have failed, each of which was reported."""
    prompts: dict[int, NDArray[np.int64]] = {}
    for i, file in enumerate(files):
        try:
            with error_prefix(file):
                prompts[i] = asked.lm.prompt(asked.task, audio=file, **asked.arguments)
        except MimoError as error:
            print_error(error)
    if not prompts:
        return len(files)
    try:
        answers = _answers(asked, list(prompts.values()))
    except MimoError as error:  # a batch that does not fit into memory, or one prompt that is too long
        if len(files) > 1:
            alone = [_answer_batch(asked, [files[i]], [targets[i]]) for i in prompts]
            return len(files) - len(prompts) + sum(alone)
        print_error(f"{files[0]}: {error}")
        return 1
    for i, answer in zip(prompts, answers, strict=True):
        if targets[i].output is None:
            print(f"{printable(files[i])}: ", end="")
        targets[i].save(answer)
    return len(files) - len(prompts)


def _answers(asked: _Asked, prompts: list[NDArray[np.int64]]) -> list[Answer]:
    """Answer every prompt with the same seed, so that each gives what it gives alone."""
    seed = asked.options.get("seed")
    same: TaskOptions = {**asked.options, "seed": None if seed is None else [cast(int, seed)] * len(prompts)}
    with counter("positions") as counted:
        filled: TaskOptions = {**asked.lm.task_options(asked.task, **same), "progress": counted}
        return asked.lm.generate(prompts, **filled)
