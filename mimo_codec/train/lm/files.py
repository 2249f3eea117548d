"""Files of rows: JSON, JSON lines, and folders of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import open_regular, read_json

SUFFIXES = (".json", ".jsonl")
MAX_LINE_BYTES = 2**24
"""Of a row; codes of an hour take 2 MB."""


class Entry(NamedTuple):
    """A row of a file, or why it cannot be read."""

    path: Path
    """Of the file."""
    line: int
    """In it, or the number of the row in a JSON list, from 1."""
    row: Any
    fault: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.path}:{self.line}"


def find_row_files(root: str | os.PathLike[str]) -> list[Path]:
    """Return the files of rows below a folder, in order, or the file itself; MimoError when there is none."""
    path = Path(root)
    if not path.is_dir():
        require(os.path.exists(path), f"{path}: there is no such file or folder")
        require(path.suffix in SUFFIXES, f"{path}: rows are read from {' and '.join(SUFFIXES)} files")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and not p.name.startswith("."))
    require(found, f"{path}: there is no {' or '.join(SUFFIXES)} file in this folder")
    return found


def read_rows(path: Path) -> Iterator[Entry]:
    """Yield the rows of a file, bad lines among them; MimoError when the file cannot be read at all.

    A JSON file is one conversation or a list of rows; a file of JSON lines has a row on every line that is not empty.
    """
    if path.suffix == ".json":
        content = read_json(path)
        rows = content if isinstance(content, list) and not _is_conversation(content) else [content]
        yield from (Entry(path, i + 1, row) for i, row in enumerate(rows))
        return
    with wrap_errors(f"{path}: cannot be read", OSError), open_regular(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                yield Entry(path, number, None, f"the line has more than {MAX_LINE_BYTES} bytes")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
            elif line.strip():
                yield _entry(path, number, line)


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        with wrap_errors("not valid JSON", ValueError, RecursionError):
            return Entry(path, number, json.loads(line.decode("utf-8-sig")))
    except MimoError as error:
        return Entry(path, number, None, str(error))


def _is_conversation(content: list[Any]) -> bool:
    return bool(content) and all(isinstance(turn, dict) and "role" in turn for turn in content)
