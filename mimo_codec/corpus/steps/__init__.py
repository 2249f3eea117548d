"""Steps that describe segments, and the table that lists them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence

from mimo_codec.common.checks import check_choice, error_prefix, require, wrap_errors
from mimo_codec.corpus.config import StepOptions
from mimo_codec.corpus.schema import check_columns
from mimo_codec.corpus.steps.base import Step

STEPS: Mapping[str, str] = {
    "loudness": "mimo_codec.corpus.steps.loudness.Loudness",
    "quality": "mimo_codec.corpus.steps.quality.Quality",
    "opinion": "mimo_codec.corpus.steps.opinion.Opinion",
    "transcript": "mimo_codec.corpus.steps.transcript.Transcript",
    "speakers": "mimo_codec.corpus.steps.speakers.Speakers",
}
"""Name -> class path of a step."""


def find_step(name: str) -> type[Step]:
    """Find the class of a step by its name or class path; MimoError when there is none."""
    path = STEPS.get(name, name)
    module, _, attribute = path.rpartition(".")
    if not module:
        check_choice("describe: step", name, STEPS)
    with wrap_errors(f"describe: {name} cannot be imported", Exception):  # whatever a user's own file raises
        found = getattr(importlib.import_module(module), attribute)
    is_step = isinstance(found, type) and issubclass(found, Step)
    require(is_step, f"describe: {name} is no subclass of {Step.__module__}.Step")
    require(not inspect.isabstract(found), f"describe: {name} has no method describe")
    kind: type[Step] = found
    return kind


def check_steps(steps: Iterable[StepOptions], known: Iterable[str]) -> dict[str, str]:
    """Check that steps exist, take their arguments and find the columns that they need, without loading networks.

    known: columns that every row has. Returns the types of the columns that the steps add, by name.
    """
    added: dict[str, str] = {}
    for step in steps:
        kind = find_step(step.name)
        with error_prefix(f"describe: {step.name}"):
            with wrap_errors("arguments", TypeError):
                inspect.signature(kind).bind(**step.arguments)
            for column in kind.needs:
                require(column in added or column in known, f"needs the column {column}, which no step before it gives")
            check_columns(kind.columns)
            added |= kind.columns
    return added


def make_steps(steps: Sequence[StepOptions]) -> list[Step]:
    """Make steps, with all that they load; MimoError names the step that cannot be made."""
    made = []
    for step in steps:
        kind = find_step(step.name)
        with error_prefix(f"describe: {step.name}"), wrap_errors("cannot be made", Exception):
            made.append(kind(**step.arguments))
    return made
