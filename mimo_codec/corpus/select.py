"""Which segments stay, once all of the corpus have been described: duplicates, expressions, a sample.

Everything is decided by the rows in their order, so it does not depend on who described them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mimo_codec.common.checks import error_prefix
from mimo_codec.corpus.config import SelectOptions
from mimo_codec.corpus.expressions import Condition
from mimo_codec.corpus.fingerprint import MOMENT, near_duplicates

EXACT, NEAR, SAMPLE = "exact duplicates", "near duplicates", "sample"
ALWAYS = ("id", "seconds", "samples_sha256", "fingerprint")
"""Columns that are needed whatever is selected."""


@dataclass
class Selection:
    """The numbers of the rows that stay, and what took the others."""

    kept: list[int] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)
    """Reason -> rows."""
    removed_seconds: dict[str, float] = field(default_factory=dict)


def select(rows: Iterable[Mapping[str, Any]], options: SelectOptions, columns: Iterable[str]) -> Selection:
    """Select rows.

    Args:
        rows: with `needed_columns`. They are read once.
        options: what to remove.
        columns: that rows may have.

    Raises:
        MimoError: for an expression that names no column, or that cannot be computed.
    """
    conditions = _conditions(options, columns)
    causes = (EXACT, NEAR, *conditions, SAMPLE)
    found = Selection(removed=dict.fromkeys(causes, 0), removed_seconds=dict.fromkeys(causes, 0.0))
    ids: list[str] = []
    fingerprints, seconds, reasons = [], [], []
    seen: set[str] = set()
    for row in rows:
        ids.append(row["id"])
        seconds.append(row["seconds"])
        fingerprints.append(np.frombuffer(row["fingerprint"] or b"", MOMENT))
        is_first = not options.exact_duplicates or row["samples_sha256"] not in seen
        seen.add(row["samples_sha256"])
        reasons.append(_refused(row, conditions) if is_first else EXACT)
    if options.near_duplicates:
        unique = [number for number, reason in enumerate(reasons) if reason is None]
        for twin in near_duplicates([fingerprints[number] for number in unique], options.similarity):
            reasons[unique[twin]] = NEAR
    for number, reason in enumerate(reasons):
        if reason is None and _draw(ids[number]) >= options.share:
            reason = SAMPLE
        if reason is None:
            found.kept.append(number)
        else:
            found.removed[reason] += 1
            found.removed_seconds[reason] += seconds[number]
    return found


def needed_columns(options: SelectOptions, columns: Iterable[str]) -> list[str]:
    """Return which of these columns `select` looks at; MimoError as there."""
    conditions = _conditions(options, columns).values()
    return list(dict.fromkeys((*ALWAYS, *sorted(name for c in conditions for name in c.columns))))


def _conditions(options: SelectOptions, columns: Iterable[str]) -> dict[str, Condition]:
    known, conditions = list(columns), {}
    for name, expression in options.keep.items():
        with error_prefix(f"select: keep: {name}"):
            conditions[name] = Condition(expression, known)
    return conditions


def _refused(row: Mapping[str, Any], conditions: Mapping[str, Condition]) -> str | None:
    """Return the name of the first expression that is not true."""
    for name, condition in conditions.items():
        with error_prefix(f"select: keep: {name}: {row['id']}"):
            if not condition.holds(row):
                return name
    return None


def _draw(name: str) -> float:
    """Return a number in 0..1 that depends on a name alone."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
