"""Files of rows: JSON, JSON lines, Parquet shards of codes, and folders of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mimo_codec.codes import AudioCodes
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import open_regular, read_json
from mimo_codec.data.corpus import corpus_shards, is_corpus
from mimo_codec.data.parquet import column_names, read_parquet

SUFFIXES = (".json", ".jsonl", ".parquet")
WRITTEN = ("skipped.jsonl", "names.jsonl")
"""Files that training itself writes."""
MAX_LINE_BYTES = 2**24
"""Of a row; codes of an hour take 2 MB."""
TRAINED = ("codes", "text", "words")
"""Columns of a shard of the corpus pipeline that training reads."""


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
    if path.is_dir() and is_corpus(path):
        return corpus_shards(path)
    if not path.is_dir():
        require(os.path.exists(path), f"{path}: there is no such file or folder")
        require(path.suffix in SUFFIXES, f"{path}: rows are read from {', '.join(SUFFIXES)} files")
        return [path]
    read = (p for p in path.rglob("*") if p.suffix in SUFFIXES and p.name not in WRITTEN and p.is_file())
    found = sorted(p for p in read if not p.name.startswith("."))
    require(found, f"{path}: there is no {', '.join(SUFFIXES)} file in this folder")
    return found


def read_rows(path: Path) -> Iterator[Entry]:
    """Yield the rows of a file, bad lines among them; MimoError when the file cannot be read at all.

    A JSON file is one conversation or a list of rows; a file of JSON lines has a row on every line that is not empty. A
    Parquet file has a row in every row: its column "codes" holds the content of a .mimo file, and stands for "audio".
    """
    if path.suffix == ".parquet":
        yield from _read_shard(path)
        return
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


def _read_shard(path: Path) -> Iterator[Entry]:
    """Yield the rows of a Parquet file, a few in memory at a time."""
    names = column_names(path)
    is_ours = "samples_sha256" in names  # of the corpus pipeline, whose other columns are no parts of a row
    columns = [name for name in TRAINED if name in names] if is_ours else None
    for number, row in enumerate(read_parquet(path, columns), start=1):
        yield _with_codes(path, number, {name: value for name, value in row.items() if value is not None})


def _with_codes(path: Path, number: int, row: dict[str, Any]) -> Entry:
    """Decode the column "codes" as "audio"."""
    content = row.pop("codes", None)
    if content is None:
        return Entry(path, number, row)
    if not isinstance(content, bytes):
        return Entry(path, number, None, f"codes must be bytes, not {type(content).__name__}")
    try:
        return Entry(path, number, {"audio": AudioCodes.from_bytes(content, "codes"), **row})
    except MimoError as error:
        return Entry(path, number, None, str(error))


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        with wrap_errors("not valid JSON", ValueError, RecursionError):
            return Entry(path, number, json.loads(line.decode("utf-8-sig")))
    except MimoError as error:
        return Entry(path, number, None, str(error))


def _is_conversation(content: list[Any]) -> bool:
    return bool(content) and all(isinstance(turn, dict) and "role" in turn for turn in content)
