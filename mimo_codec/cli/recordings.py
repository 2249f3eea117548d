"""Several recordings for one language model: it is loaded once, and one that fails does not end the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from mimo_codec.cli.console import FilesFailed, counter, print_error
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


def transcribe_files(
    session: Session,
    files: Sequence[str],
    output: str | None,
    language: str | None,
    batch_size: int,
    options: TaskOptions,
) -> None:
    """Transcribe every file, each as if it were alone, into a folder or on the terminal.

    Args:
        session: which model.
        files: audio and .mimo files.
        output: folder for one text file each; None prints each text after the name of its file.
        language: that is spoken, for recognizers that are told.
        batch_size: how many are transcribed at once.
        options: of every answer.

    Raises:
        MimoError: for outputs that cannot be written, before anything is loaded; at the end, when files have failed.
    """
    targets = [Target(None, session.overwrite)] * len(files)
    if output is not None:
        plan = plan_jobs(files, output, (), WRITTEN, overwrite=session.overwrite)
        make_folders(plan)
        targets = [Target(str(job.target), session.overwrite) for job in plan.jobs]
    lm, failed = session.load(), 0
    for start in range(0, len(files), batch_size):
        batch = slice(start, start + batch_size)
        failed += _transcribe_batch(lm, files[batch], targets[batch], language, options)
    if failed:
        raise FilesFailed(f"{failed} of {len(files)} files failed")


def _transcribe_batch(
    lm: MimoAudioLM, files: Sequence[str], targets: Sequence[Target], language: str | None, options: TaskOptions
) -> int:
    """Transcribe some files at once; return how many have failed, each of which was reported."""
    prompts: dict[int, NDArray[np.int64]] = {}
    for i, file in enumerate(files):
        try:
            with error_prefix(file):
                prompts[i] = lm.prompt("asr", audio=file, language=language)
        except MimoError as error:
            print_error(error)
    if not prompts:
        return len(files)
    try:
        answers = _answers(lm, list(prompts.values()), options)
    except MimoError as error:  # a batch that does not fit into memory, or one prompt that is too long
        if len(files) > 1:
            alone = [_transcribe_batch(lm, [files[i]], [targets[i]], language, options) for i in prompts]
            return len(files) - len(prompts) + sum(alone)
        print_error(f"{files[0]}: {error}")
        return 1
    for i, answer in zip(prompts, answers, strict=True):
        if targets[i].output is None:
            print(f"{files[i]}: ", end="")
        targets[i].save(answer)
    return len(files) - len(prompts)


def _answers(lm: MimoAudioLM, prompts: list[NDArray[np.int64]], options: TaskOptions) -> list[Answer]:
    """Answer every prompt with the same seed, so that each gives what it gives alone."""
    seed = options.get("seed")
    same: TaskOptions = {**options, "seed": None if seed is None else [cast(int, seed)] * len(prompts)}
    with counter("positions") as counted:
        filled: TaskOptions = {**lm.task_options("asr", **same), "progress": counted}
        return lm.generate(prompts, **filled)
