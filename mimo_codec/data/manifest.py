"""Manifests: JSONL files that list utterances, and others that list faults.

A manifest has one JSON object per line: `path`, which counts from the manifest's own folder, and optionally the other
fields of `Utterance` (`license` is read as `licence`). Unknown keys are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mimo_codec.common.checks import error_prefix, require, wrap_errors
from mimo_codec.common.files import atomic_path, open_regular
from mimo_codec.data.transcripts import as_utf8
from mimo_codec.data.utterance import Fault, Utterance

AnyPath = str | os.PathLike[str]
_ENCODING, _ERRORS = "utf-8", "surrogatepass"  # names of files may be any bytes


def read_manifest(path: AnyPath) -> list[Utterance]:
    """Read the rows of a manifest, without looking at their audio files; MimoError names the line that is wrong."""
    rows = []
    for number, row in _read_rows(path):
        with error_prefix(f"{path}: line {number}"):
            rows.append(_utterance(row, Path(path).parent))
    return rows


def write_manifest(path: AnyPath, utterances: Iterable[Utterance], overwrite: bool = True) -> None:
    """Write a manifest that `read_manifest` reads; the paths of files below its folder become relative to it.

    The file appears whole or not at all. MimoError when it cannot be written, or exists and `overwrite` is False.
    """
    _write_rows(path, utterances, overwrite)


def read_faults(path: AnyPath) -> list[Fault]:
    """Read what `write_faults` wrote."""
    return [
        Fault(Path(path).parent / row["path"], row["kind"], row["reason"], row.get("start", 0.0), row.get("member"))
        for _, row in _read_rows(path)
    ]


def write_faults(path: AnyPath, faults: Iterable[Fault]) -> None:
    """Write a list of what was skipped, as JSONL with the paths of `write_manifest`."""
    _write_rows(path, faults, overwrite=True)


def _utterance(row: dict[str, Any], folder: Path) -> Utterance:
    path = row.get("path")
    is_path = isinstance(path, str) and path and "\0" not in path
    require(is_path, f"path must name an audio file, not {path!r}")
    known = {field.name: row[field.name] for field in fields(Utterance) if row.get(field.name) is not None}
    if isinstance(row.get("speaker"), int):  # corpora like to number them
        known["speaker"] = str(row["speaker"])
    if "licence" not in known and "license" in row:
        known["licence"] = row["license"]
    for name in ("source", "licence"):  # other programs keep other things under these names
        if not isinstance(known.get(name), str):
            known.pop(name, None)
    return Utterance(**known | {"path": folder / row["path"]})


def _read_rows(path: AnyPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of every line that is not blank."""
    with wrap_errors(f"{path}: cannot be read", OSError, ValueError), open_regular(path) as file:
        lines = as_utf8(file.read()).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        with wrap_errors(f"{where}: is not JSON", ValueError, RecursionError):
            row = json.loads(line.decode(_ENCODING, _ERRORS))
        require(isinstance(row, dict), f'{where}: is not a JSON object, such as {{"path": "a.wav"}}')
        yield number, row


def _write_rows(path: AnyPath, rows: Iterable[Utterance | Fault], overwrite: bool) -> None:
    folder = Path(os.path.abspath(Path(path).parent))
    with atomic_path(path, overwrite) as temporary, open(temporary, "wb") as file:
        for row in rows:
            known = {key: value for key, value in asdict(row).items() if value is not None}
            absolute = Path(os.path.abspath(row.path))
            known["path"] = str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)
            if not row.start:
                del known["start"]
            file.write((json.dumps(known, ensure_ascii=False) + "\n").encode(_ENCODING, _ERRORS))
