"""Rows to train on -> segments, and which of them are trained.

A row is a conversation (see `conversations.py`), or a dictionary with a "task" and what belongs to it: the arguments of
a task of `mimo_codec.lm.tasks`, with the "answer" and "answer_audio" that it should give, or one of the forms of speech
and text that have no prompt.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mimo_codec.common.checks import check_choice, check_type, require
from mimo_codec.lm.audio import AudioReader
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.prompts import SPEECH, THINK, Heard, Markup, Segment, Spoken, check_text
from mimo_codec.lm.tasks import TASKS, Task
from mimo_codec.train.lm.conversations import THOUGHTS, TURN_END, conversation_parts, thoughts_segments
from mimo_codec.train.lm.interleaved import interleaved_parts
from mimo_codec.train.lm.item import Part

Row = Mapping[str, Any]
TURNS = ("turns", "messages", "conversation")
"""Keys under which a conversation may stand in a dictionary."""
SAID = {"asr": ("text", ""), "tts": ("text", "audio"), "tts_instruct": ("text", "audio")}
"""Task -> keys of the answer's text and audio where a row has no "answer"; "" for none."""
END_OF_TEXT = Markup("<|endoftext|>")
EXAMPLE_END = " \n\n"
"""What ends an answer in the format of examples."""


def row_parts(row: object, reader: AudioReader, instructions: Instructions, task: str | None = None) -> list[Part]:
    """Turn a row into segments and whether each is trained.

    Args:
        row: a conversation, or a dictionary.
        reader: of its audio.
        instructions: what prompts say.
        task: of a row that names none.

    Raises:
        MimoError: in one sentence, for everything that makes a row useless.
    """
    if isinstance(row, list):
        return conversation_parts(row, reader)
    given = check_type("row", row, dict, "a conversation or an object with a task")
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    task = fields.pop("task", task)
    named = [name for name in TURNS if name in fields] if task is None else []
    if named:
        return conversation_parts(fields[named[0]], reader)
    require(task is not None, 'has no "task" and no "turns"')
    name = check_choice("task", task, [*PLAIN, *TASKS])
    if name in PLAIN:
        return PLAIN[name](fields, reader)
    return _task_parts(TASKS[name], fields, reader, instructions)


def names_its_use(row: object) -> bool:
    """Whether a row is a conversation or names a task; others are used for the tasks of the run."""
    return not isinstance(row, dict) or any(row.get(key) is not None for key in ("task", *TURNS))


def ignored_keys(row: object, tasks: str | Sequence[str | None] = ()) -> list[str]:
    """Keys of a row that mean nothing for it, such as what else is known of a recording, or a typing mistake.

    tasks: what rows are used for that name no use; a key that one of them has a meaning for is not among the keys.
    """
    if not isinstance(row, dict):
        return []
    given = [key for key, value in row.items() if value is not None]
    if names_its_use(row):
        names = [str(row.get("task"))]
    else:
        names = [tasks] if isinstance(tasks, str) else [str(task) for task in tasks]
    known = {"task", "answer", "answer_audio", THOUGHTS}.union(*map(_known_keys, names or ["none"]))
    return sorted(str(key) for key in given if key not in known)


def _known_keys(task: str) -> set[str]:
    """Keys that have a meaning in a row of a task; where there is no such task, those of conversations."""
    if task in TASKS:
        return {*inspect.signature(TASKS[task].segments).parameters, *SAID.get(task, ())}
    return {"text", "audio", "words"} if task in PLAIN else set(TURNS)


def _task_parts(task: Task, row: dict[str, Any], reader: AudioReader, instructions: Instructions) -> list[Part]:
    """Return a prompt of a task, untrained, and the answer that it should get."""
    text, audio = _answer(task, row, reader)
    known = inspect.signature(task.segments).parameters
    arguments = {name: value for name, value in row.items() if name in known and name != "words"}
    for name, value in arguments.items():
        is_flag = isinstance(known[name].default, bool)
        require(not is_flag or isinstance(value, bool), f"{name} must be true or false, not {reprlib.repr(value)}")
    prompt = task.prompt(instructions, reader, arguments)
    beginning, prompt = _without_speech(prompt)
    thoughts = check_type(THOUGHTS, row.get(THOUGHTS, ""), str, "text")
    thought = thoughts_segments(thoughts) if beginning.endswith(THINK) else []
    end: Segment = TURN_END if task.text_end == "" else EXAMPLE_END
    answer: Segment = text if audio is None else Spoken(text, audio)
    return [*((segment, False) for segment in prompt), *((segment, True) for segment in (*thought, answer, end))]


def _answer(task: Task, row: dict[str, Any], reader: AudioReader) -> tuple[str, Any]:
    """Return text and codes of the answer, None where it is in text."""
    plain = ("answer", "answer_audio")
    text_key, audio_key = plain if "answer" in row else SAID.get(task.name, plain)
    require(text_key in row, f"{task.name}: {text_key} is missing")
    text = check_text(text_key, row[text_key])
    if not task.answers_in_speech(row):
        return text, None
    require(row.get(audio_key) is not None, f"{task.name}: {audio_key} is missing, for the answer is spoken")
    return text, reader.codes(row[audio_key], audio_key)


def _without_speech(prompt: list[Segment]) -> tuple[str, list[Segment]]:
    """Return how the answer begins, and the prompt without `<|sostm|>`, which is a part of the answer."""
    last = prompt[-1]
    if not isinstance(last, Markup):
        return "", prompt
    return last.text, [*prompt[:-1], Markup(last.text.removesuffix(SPEECH))]


# ---- forms without a prompt ------------------------------------------------------------------------------------------


def _text(row: Row, reader: AudioReader) -> list[Part]:
    """Text alone."""
    return [(check_text("text", row.get("text")), True), (END_OF_TEXT, True)]


def _speech(row: Row, reader: AudioReader) -> list[Part]:
    """Speech alone, to be continued."""
    return [(Heard(_codes(row, reader)), True), (END_OF_TEXT, True)]


def _interleaved(row: Row, reader: AudioReader) -> list[Part]:
    """Speech and text of one utterance in turn."""
    text, words = check_text("text", row.get("text")), row.get("words")
    return [*interleaved_parts(text, _codes(row, reader), words), (END_OF_TEXT, True)]


def _codes(row: Row, reader: AudioReader) -> Any:
    require(row.get("audio") is not None, "audio is missing")
    return reader.codes(row["audio"], "audio")


PLAIN: Mapping[str, Callable[[Row, AudioReader], list[Part]]] = {
    "text": _text,
    "speech": _speech,
    "interleaved": _interleaved,
}
"""Name -> form of training data for which there is no prompt."""
