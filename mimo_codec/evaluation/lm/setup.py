"""What is evaluated, all checked before a model is loaded: items, examples, prompts and judges."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mimo_codec.common.checks import check_choice, check_integer, require
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.lm.items import Example, Examples, Item, check_sounds, fault_of, stamp_of
from mimo_codec.evaluation.lm.judges import Judges
from mimo_codec.evaluation.lm.model import Measure
from mimo_codec.evaluation.lm.prompts import Piece, paths_of
from mimo_codec.evaluation.lm.suite import Suite
from mimo_codec.evaluation.lm.suites import find_suite
from mimo_codec.lm.instructions import Instructions


@dataclass(frozen=True)
class Setup:
    """What is asked. It holds plain values, so that it can be sent to other processes.

    Args:
        suite: name in `SUITES`.
        data: folder of the set, or a file that the suite reads.
        shots: numbers of examples; (): those of the published evaluation.
        modes: ways to ask; (): all that the suite has.
        judges: of the answers.
        seed: of the draw of examples and of answers.
        limit: so many items are asked, the same ones for every model; None: all.
    """

    suite: str
    data: Path
    shots: tuple[int, ...] = ()
    modes: tuple[str, ...] = ()
    judges: Judges = field(default_factory=Judges)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        kind = find_suite(self.suite)
        for number in self.shots:
            check_integer("shots", number, 0, 10_000)
        for mode in self.modes:
            require(tuple(kind.modes) != ("",), f"modes: {self.suite} has one way to ask only, not {mode!r}")
            check_choice("modes", mode, kind.modes)
        check_integer("seed", self.seed, 0, 2**31)
        if self.limit is not None:
            check_integer("limit", self.limit, 1)

    def make_suite(self) -> Suite:
        """Return the suite."""
        return find_suite(self.suite)(self.judges)


class Unit(NamedTuple):
    """One question to the model."""

    mode: str
    shots: int
    item: Item


@dataclass
class Prepared:
    """A suite with its items and their examples."""

    setup: Setup
    suite: Suite
    items: list[Item]
    """All, also those that are left out."""
    bad: dict[str, str]
    """Name of an item, or of a row that is none -> why it is left out."""

    def __post_init__(self) -> None:
        """Draw examples among all items that can be used, those beyond the limit included."""
        self.examples = Examples([item for item in self.items if item.id not in self.bad], self.setup.seed)

    @property
    def modes(self) -> Sequence[str]:
        """The ways to ask, each once."""
        return tuple(dict.fromkeys(self.setup.modes or self.suite.modes_for(self.items)))

    @property
    def shots(self) -> Sequence[int]:
        """The numbers of examples, each once."""
        return tuple(dict.fromkeys(self.setup.shots or self.suite.shots))

    def asked(self) -> list[Item]:
        """Return the items that are asked: all, or so many that lie evenly among them."""
        count = min(self.setup.limit or len(self.items), len(self.items))
        return [self.items[i * len(self.items) // count] for i in range(count)]

    def shown(self, unit: Unit) -> tuple[list[str], list[Example]]:
        """Return names and contents of the examples before a question."""
        pairs = self.examples.of(unit.item, unit.shots)
        return [name for name, _ in pairs], [shown for _, shown in pairs]

    def seed_of(self, unit: Unit) -> int:
        """Return the seed by which an answer is drawn."""
        return zlib.crc32(f"{self.setup.seed}/{unit.mode}/{unit.shots}/{unit.item.id}".encode())


def prepare(setup: Setup, judged: bool = True) -> Prepared:
    """Read the data; MimoError for another layout, when no item is left, and for judges that are not installed.

    Items whose sounds are missing or damaged are left out. judged: whether judges are needed.
    """
    suite = setup.make_suite()
    require(setup.data.exists(), f"{setup.data}: there is no such file or folder; {suite.name} reads {suite.layout}")
    try:
        found = suite.load(setup.data)
    except MimoError as error:
        raise MimoError(f"{error}; {suite.name} reads {suite.layout}") from None
    twice = [name for name, count in Counter(item.id for item in found).items() if count > 1]
    require(not twice, f"{setup.data}: has {len(twice)} items twice, such as {twice[:1]}")
    for item in found:
        valid = as_utf8(_content(item)) is not None
        require(valid, f"{setup.data}: item {item.id!a} has a name or a text that is no valid Unicode")
    bad = check_sounds([item for item in found if item.examples is None])
    reason = next(iter(bad.values()), "")
    require(len(bad) < len(found), f"{setup.data}: all {len(bad)} items are left out; the first: {reason}")
    prepared = Prepared(setup, suite, found, {**suite.faults, **bad})
    for mode in prepared.modes if judged else ():
        setup.judges.check(suite.needs(mode))
        if suite.hears_examples(mode) and max(prepared.shots) > 0:
            setup.judges.check(("recogniser",) if _lacks_texts(found) else ())
    return prepared


def _lacks_texts(items: Sequence[Item]) -> bool:
    sides = [item.answer for item in items] + [one.answer for item in items for one in item.examples or ()]
    return any(side.audio is not None and side.text is None for side in sides)


class Length(NamedTuple):
    """A question, and how many positions its prompt has."""

    unit: Unit
    positions: int


def check_units(prepared: Prepared, measure: Measure, words: Instructions) -> tuple[list[Length], dict[str, str]]:
    """Build every prompt, of names of files -> (questions that can be asked, question -> why it cannot).

    A question cannot be asked when there are fewer examples than shots, when its prompt does not fit into the context,
    and when a sound is missing. Raises MimoError when none can be asked with some number of examples.
    """
    lengths, bad = list[Length](), dict[str, str]()
    for mode in prepared.modes:
        for shots in prepared.shots:
            units = [Unit(mode, shots, item) for item in prepared.asked() if item.id not in prepared.bad]
            reasons = []
            for unit in units:
                try:
                    most = prepared.examples.most(unit.item)
                    require(shots <= most, f"{shots} examples were asked for, and there are {most}")
                    prompt = prepared.suite.prompt(unit.item, prepared.shown(unit)[1], mode, words)
                    target = unit.item.answer.audio
                    _check_sounds([*paths_of(prompt), *([] if target is None else [target])])
                    lengths.append(Length(unit, _check_length(prompt, measure)))
                except MimoError as error:
                    reasons.append(str(error))
                    bad[key_of(unit)] = str(error)
            what = f"{prepared.suite.name} {mode}".strip()
            told = f"{what} with {shots} examples: none of {len(units)} questions can be asked; the first"
            require(len(reasons) < len(units), f"{told}: {reasons[0]}" if reasons else f"{told} item is left out")
    return lengths, bad


def _check_sounds(paths: Sequence[Path]) -> None:
    for path in paths:
        fault = fault_of(path)
        require(not fault, fault)


def _check_length(prompt: Sequence[Piece], measure: Measure) -> int:
    positions, context = measure.positions(prompt), measure.context
    fits = context is None or positions < context
    require(fits, f"the prompt has {positions} positions, and the context {context}: use fewer examples")
    return positions


def key_of(unit: Unit) -> str:
    """Return the name of a question."""
    return " ".join(part for part in (unit.mode, f"{unit.shots} examples", unit.item.id) if part)


def checksum(lines: Iterable[str]) -> int:
    """Return the CRC-32 of lines of text."""
    return zlib.crc32("\n".join(lines).encode("utf-8", "surrogatepass"))


def as_utf8(text: str) -> bytes | None:
    """Return a text as bytes; None for one that is no valid Unicode."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _content(item: Item) -> str:
    """Return all texts of an item."""
    sides = [item.question, item.answer]
    sides += [side for one in item.examples or () for side in (one.question, one.answer)]
    texts = [side.text for side in sides if side.text is not None]
    return "\n".join([item.id, item.group, item.pool, *texts, *item.choices])


def _stamps(item: Item) -> str:
    """Return what changes when an item, or one of its sounds, does."""
    return repr([item, [stamp_of(path) for path in item.sounds()]])


def stamp(prepared: Prepared, model: Any, words: Instructions) -> dict[str, Any]:
    """Return what has to be the same when a run goes on."""
    setup = prepared.setup
    return {
        "suite": setup.suite,
        "items": checksum(map(_stamps, prepared.items)),
        "instructions": vars(words),
        "settings": [list(prepared.shots), list(prepared.modes), setup.seed, setup.limit],
        "judges": vars(setup.judges),
        "model": model,
    }
