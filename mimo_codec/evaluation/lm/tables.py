"""Tables of public sets: JSON lines, columns between tabs, and lists of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.files import open_regular


def read_text(path: Path) -> str:
    """Read a text file in UTF-8; MimoError when it is none."""
    with wrap_errors(f"{path}: cannot be read", OSError, UnicodeDecodeError), open_regular(path) as file:
        return file.read().decode("utf-8-sig")


def read_content(path: Path) -> Any:
    """Read a JSON file; MimoError when it is none."""
    with wrap_errors(f"{path}: not valid JSON", ValueError, RecursionError):
        return json.loads(read_text(path))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file; MimoError names the line that is wrong."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            with wrap_errors(f"{path}: line {number}: is not JSON", ValueError, RecursionError):
                row = json.loads(line)
            require(isinstance(row, dict), f"{path}: line {number}: is not a JSON object")
            rows.append(row)
    require(rows, f"{path}: has no rows")
    return rows


def read_columns(path: Path, *needed: str) -> list[dict[str, str]]:
    """Read a table with a line of names and columns between tabs; MimoError when a column is missing."""
    lines = [line.rstrip("\r").split("\t") for line in read_text(path).split("\n") if line.strip()]
    names = lines[0] if lines else []
    missing = [name for name in needed if name not in names]
    require(not missing, f"{path}: has no column {', '.join(missing)}")
    rows = [dict.fromkeys(names, "") | dict(zip(names, line, strict=False)) for line in lines[1:]]
    require(rows, f"{path}: has no rows")
    return rows


def read_fields(path: Path, separator: str, counts: tuple[int, ...], form: str) -> list[list[str]]:
    """Read lines of fields between separators; counts: numbers of fields that a line may have, which `form` shows."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            row = [part.strip() for part in line.split(separator)]
            require(len(row) in counts and all(row), f"{path}: line {number}: is not {form}")
            rows.append(row)
    require(rows, f"{path}: is empty")
    return rows
