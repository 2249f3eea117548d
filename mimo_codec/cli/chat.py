"""A conversation on the terminal: lines in, answers out, with what was said before in mind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_codec.cli.console import print_error, print_line
from mimo_codec.cli.pipes import PIPE
from mimo_codec.cli.plan import check_new, check_not_read
from mimo_codec.cli.session import Session, Target, warn_if_cut
from mimo_codec.common.checks import require
from mimo_codec.common.errors import ContextError, MimoError
from mimo_codec.common.files import make_folder

if TYPE_CHECKING:
    from mimo_codec.audio.sources import AnyPath
    from mimo_codec.cli.session import Answer
    from mimo_codec.lm import MimoAudioLM
    from mimo_codec.lm.request import TaskOptions

Turns = list[dict[str, Any]]


def talk(
    session: Session, output: str | None, system: str | None, voice: str | None, thinking: bool, options: TaskOptions
) -> None:
    """Answer every line of standard input until one is empty or the input ends.

    Args:
        session: which model.
        output: folder for spoken answers, 1.wav and so on; None for answers in text, printed as they come.
        system: how to answer.
        voice: sample of the voice to answer with.
        thinking: think before an answer in text.
        options: of every answer.
    """
    if output is not None:
        require(output != PIPE, "chat: spoken answers are files in a folder, and standard output is none")
        make_folder(Path(output))
        if not session.overwrite:
            check_new(sorted(Path(output).glob("[0-9]*.wav")))
        if voice is not None:
            _refuse_as_answer(output, voice, 1)
    lm = session.load(codec=output is not None)

    def reply(turns: Turns) -> Answer:
        if output is None:
            return _print_answer(lm, turns, system, thinking, options)
        return lm.chat(turns, system, voice, **options)

    options = {**options, "keep_cache": True}
    turns: Turns = []
    number = 1
    while line := _read_line():
        try:
            said = {"role": "user", **_said(session, lm, line, output, number)}
            answer, asked = _within_context(reply, [*turns, said])
            if output is not None:
                Target(str(Path(output) / f"{number}.wav"), session.overwrite).save(answer)
        except MimoError as error:  # the conversation goes on without this turn
            print_error(error)
            continue
        if output is None:
            warn_if_cut(answer)
        turns = [*asked, {"role": "assistant", "text": answer.text or "...", "audio": answer.codes}]
        number += 1


def _within_context(reply: Callable[[Turns], Answer], turns: Turns) -> tuple[Answer, Turns]:
    """Return the answer to the last turn and the turns it is based on: the latest for which the context has room."""
    try:
        return reply(turns), turns
    except ContextError:
        if len(turns) == 1:
            raise
    print_line("answering without the two oldest turns, for which the model's context has no room")
    return _within_context(reply, turns[2:])


def _said(session: Session, lm: MimoAudioLM, line: str, output: str | None, number: int) -> dict[str, Any]:
    """Return what a line says: text, or the codes of an audio file after @, which is encoded once.

    The first audio file loads the codec, if none is there. MimoError when it is what this answer, number `number`, or a
    later one would be written to.
    """
    if not line.startswith("@"):
        return {"text": line}
    file = line[1:].strip()
    if output is not None:
        _refuse_as_answer(output, file, number)
    if lm.codec is None:
        session.load_codec(lm)
    return {"audio": lm.encode(file)}


def _refuse_as_answer(output: str, file: AnyPath, first: int) -> None:
    """Raise MimoError when an answer from number `first` on would replace a file that is heard."""
    for answer in Path(output).glob("[0-9]*.wav"):
        if answer.stem.isdecimal() and int(answer.stem) >= first:
            check_not_read(answer, [file])


def _read_line() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise MimoError("standard input: a line is not UTF-8") from None


def _print_answer(lm: MimoAudioLM, turns: Turns, system: str | None, thinking: bool, options: TaskOptions) -> Answer:
    """Print the answer to the last turn in text as it comes, thoughts to stderr, and return it."""
    found = None
    for piece in lm.streaming.chat(turns, system, thinking=thinking, speak=False, **options):
        print(piece.thoughts, end="", file=sys.stderr, flush=True)
        print(piece.text, end="" if piece.generation is None else "\n", flush=True)
        found = piece.generation
    assert found is not None  # the last piece has it
    return found
