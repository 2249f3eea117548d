"""A run of a suite: every question is asked once, in batches that are whole files or not there.

The same call goes on with a run that was stopped or killed, to the same report. Several processes, or Ray on one
machine or many, share the batches out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mimo_codec.audio.writer import save_audio
from mimo_codec.common.checks import check_choice, check_integer, is_number, require
from mimo_codec.common.engines import ENGINES, Resources, Task, available_cores, run_tasks
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path, make_folder, read_json, write_json
from mimo_codec.evaluation.lm.items import Example, with_texts
from mimo_codec.evaluation.lm.model import Measure
from mimo_codec.evaluation.lm.prompts import as_json
from mimo_codec.evaluation.lm.results import Results, Row, read_answers
from mimo_codec.evaluation.lm.setup import Setup, Unit, as_utf8, check_units, checksum, key_of, prepare, stamp
from mimo_codec.evaluation.lm.suite import Answer, Ask, Judged, Model
from mimo_codec.lm.instructions import INSTRUCTIONS, Instructions

ANSWERS, SPOKEN, WORK, STATE = "answers.jsonl", "spoken", "work", "state.json"
MakeModel = Callable[[], Model]
"""Loads the model, in the process that asks it."""


@dataclass(frozen=True)
class Running:
    """How the work is shared out, which changes results by rounding at most.

    Args:
        engine: "local" or "ray".
        resources: of the engine.
        batch_size: questions that are asked at once.
        threads: of PyTorch in each worker; 0: the cores of this machine are divided among the workers.
    """

    engine: str = "local"
    resources: Resources = field(default_factory=lambda: Resources(workers=1))
    batch_size: int = 8
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("engine", self.engine, ENGINES)
        check_integer("batch_size", self.batch_size, 1, 4096)
        check_integer("threads", self.threads, 0, 4096)

    @property
    def threads_of_each(self) -> int:
        """The threads of each worker."""
        return self.threads or max(available_cores() // max(self.resources.workers, 1), 1)


def evaluate(
    setup: Setup,
    make_model: MakeModel,
    folder: Path,
    *,
    model: Any = None,
    measure: Measure | None = None,
    words: Instructions = INSTRUCTIONS["en"],
    running: Running | None = None,
    begin: Callable[[dict[int, float]], None] = lambda batches: None,
    progress: Callable[[int], None] = lambda number: None,
) -> Results:
    """Ask all questions of a suite that are not answered yet, and summarize all answers.

    Args:
        setup: what is asked.
        make_model: loads the model; it must be importable from other processes if there are several.
        folder: gets answers.jsonl and spoken answers.
        model: plain values that tell the model apart from others; a run does not go on with another one.
        measure: of prompts, so that those that do not fit into the context are known before anything is generated.
        words: instructions of the prompts.
        running: how the work is shared out.
        begin: called with the number of questions of each batch, by its number.
        progress: called with the number of each batch that is answered.

    Raises:
        MimoError: for data, settings and judges that cannot be used, before the model is loaded, and for a folder with
            answers to other questions.
    """
    setup = replace(setup, data=setup.data.absolute())  # workers may be in other folders
    inside = setup.data.is_dir() and folder.resolve().is_relative_to(setup.data.resolve())
    require(not inside, f"{folder}: lies in the data {setup.data}; choose another output folder")
    prepared, running = prepare(setup), running or Running()
    lengths, bad = check_units(prepared, measure or Measure(), words)
    units = [length.unit for length in lengths]
    make_folder(folder / WORK)
    state = stamp(prepared, model, words) | {
        "questions": checksum(map(key_of, units)),
        "batch_size": running.batch_size,
    }
    _check_state(folder, state)
    firsts = range(0, len(units), running.batch_size)
    batches = {first: units[first : first + running.batch_size] for first in firsts}
    begin({first: float(len(batch)) for first, batch in batches.items()})
    todo: list[Task] = []
    for first, batch in batches.items():
        if _is_answered(_batch_path(folder, first), batch):
            progress(first)
        else:
            todo.append({"number": first, "questions": [[unit.mode, unit.shots, unit.item.id] for unit in batch]})
    make = partial(Asker, setup, make_model, words, folder.absolute(), running.threads_of_each)
    for number in run_tasks(running.engine, make, todo, running.resources):
        progress(number)
    rows = [row for first in batches for row in read_answers(_batch_path(folder, first))]
    with atomic_path(folder / ANSWERS) as temporary:
        temporary.write_text("".join(map(_line, rows)), encoding="utf-8")
    return Results.of(prepared, rows, {**prepared.bad, **bad})


def _is_answered(path: Path, units: Sequence[Unit]) -> bool:
    """Whether a file holds answers to these questions; those that failed are asked again."""
    try:
        rows = read_answers(path)
        places = [(row["mode"], row["shots"], row["id"]) for row in rows]
        scores = [value for row in rows for value in row["scores"].values()]
    except (MimoError, TypeError, KeyError, AttributeError):
        return False
    valid = all(value is None or is_number(value) for value in scores)
    return valid and places == [(unit.mode, unit.shots, unit.item.id) for unit in units]


def _batch_path(folder: Path, first: int) -> Path:
    return folder / WORK / f"{first:08d}.jsonl"


def _check_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Note what is asked here, or check that it is the same as before."""
    path, plain = folder / WORK / STATE, json.loads(json.dumps(state))
    if not path.exists() or not any((folder / WORK).glob("*.jsonl")):  # nothing is answered
        write_json(path, plain)
        return
    before = read_json(path)
    for name, value in plain.items():
        same = isinstance(before, dict) and before.get(name) == value
        require(same, f"{folder}: was begun with another {name}; choose another output folder")


class Asker:
    """Asks a model the questions of a task, judges the answers, and leaves them in a file."""

    def __init__(self, setup: Setup, make_model: MakeModel, words: Instructions, folder: Path, threads: int = 1):
        """Load the data and the model."""
        torch.set_num_threads(threads)
        self.prepared, self.words, self.folder = prepare(setup), words, folder
        self.items = {item.id: item for item in self.prepared.items}
        self.model = make_model()

    def __call__(self, task: Task) -> int:
        """Answer the questions of a task, unless they are answered -> its number."""
        path = _batch_path(self.folder, task["number"])
        units = [Unit(mode, shots, self.items[name]) for mode, shots, name in task["questions"]]
        if not _is_answered(path, units):
            rows = self._ask(units, task["number"])
            with atomic_path(path) as temporary:
                temporary.write_text("".join(map(_line, rows)), encoding="utf-8")
        return int(task["number"])

    def _ask(self, units: Sequence[Unit], first: int) -> list[Row]:
        shown = [self._shown(unit) for unit in units]
        asks = [self._as_ask(unit, examples) for unit, (_, examples) in zip(units, shown, strict=True)]
        answers = self.model.answer(asks)
        told = f"the model gave {len(answers)} answers to {len(asks)} questions"
        require(len(answers) == len(asks), told)
        return [
            self._row(unit, names, examples, ask, answer, first + number)
            for number, (unit, (names, examples), ask, answer) in enumerate(
                zip(units, shown, asks, answers, strict=True)
            )
        ]

    def _shown(self, unit: Unit) -> tuple[list[str], list[Example]]:
        names, examples = self.prepared.shown(unit)
        suite = self.prepared.suite
        return names, with_texts(examples, suite.judges.transcribe) if suite.hears_examples(unit.mode) else examples

    def _as_ask(self, unit: Unit, examples: Sequence[Example]) -> Ask:
        suite = self.prepared.suite
        prompt = suite.prompt(unit.item, examples, unit.mode, self.words)
        options = suite.options(unit.item, unit.mode, unit.shots)
        return Ask(unit.item, unit.mode, unit.shots, prompt, options, self.prepared.seed_of(unit))

    def _row(
        self,
        unit: Unit,
        names: Sequence[str],
        examples: Sequence[Example],
        ask: Ask,
        answer: Answer | MimoError,
        number: int,
    ) -> Row:
        data = self.prepared.setup.data
        row: Row = {
            "mode": unit.mode,
            "shots": unit.shots,
            "id": unit.item.id,
            "group": unit.item.group,
            "examples": list(names),
            "prompt": as_json(ask.prompt, data if data.is_dir() else data.parent),
            "right": unit.item.answer.text,
        }
        try:
            if isinstance(answer, MimoError):
                raise answer
            judged = self.prepared.suite.judge(unit.item, examples, unit.mode, answer)
            spoken = self._save(answer, number)
        except MimoError as error:
            return row | {"error": str(error)}
        said = {"answer": answer.text, "spoken": spoken, "stop_reason": answer.stop_reason}
        return row | said | _scored(judged)

    def _save(self, answer: Answer, number: int) -> str | None:
        """Write a spoken answer -> its path in the folder."""
        if answer.spoken is None:
            return None
        waveform, rate = answer.spoken
        name = f"{SPOKEN}/{number:08d}.flac"
        make_folder(self.folder / SPOKEN)
        save_audio(self.folder / name, torch.from_numpy(waveform), rate)
        return name


def _scored(judged: Judged) -> dict[str, Any]:
    scores = {name: value if math.isfinite(value) else None for name, value in judged.scores.items()}
    return {"scores": scores, "details": dict(judged.details)}


def _line(row: Row) -> str:
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    return json.dumps(row) + "\n" if as_utf8(line) is None else line
