"""Columns of the rows, and Parquet files of them that are whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_codec.common.checks import check_type, needs_extra, require, wrap_errors
from mimo_codec.common.files import atomic_path

if TYPE_CHECKING:
    from pyarrow import DataType, Schema

PLACE = {
    "id": "string",
    "recording": "string",
    "source": "string",
    "licence": "string",
    "path": "string",
    "member": "string",
    "offset": "int64",
    "num_bytes": "int64",
    "row": "int64",
    "column": "string",
    "start": "float64",
    "end": "float64",
    "seconds": "float64",
    "sample_rate": "int32",
}
"""Where a segment comes from: ids of the segment and its recording, the file (in a shard: what it is called there, and
its place), start and end in seconds, and the rate of the recording in Hz."""
SAID = {"text": "string", "words": "words", "language": "string", "speaker": "string"}
"""What is said: `words` are the times in seconds from the segment's start."""
SOUND = {"fingerprint": "binary", "samples_sha256": "string"}
"""By which duplicates are found: up to 32 unsigned integers of 4 bytes, and a hash of the samples in 16 bits."""
CODES = {"codes": "binary", "codec": "string", "codes_sha256": "string"}
"""Content of a .mimo file, in which codes are packed integers of fixed width; name and fingerprint of the codec; a
hash."""
MADE = {"pipeline": "string"}
"""Fingerprint of the pipeline."""
BASE: Mapping[str, str] = {**PLACE, **SAID, **SOUND}
FIXED = frozenset({**PLACE, **SOUND, **CODES, **MADE})
"""Columns that are not a step's."""
ROWS_AT_ONCE = 1024


def schema(steps: Mapping[str, str], coded: bool) -> Schema:
    """Return the pyarrow schema of rows with the columns of these steps; coded: with those of codes."""
    with needs_extra("pyarrow", "corpus"):
        import pyarrow as pa
    columns = {**BASE, **steps, **(CODES if coded else {}), **MADE}
    return pa.schema([(name, _type(kind)) for name, kind in columns.items()])


def check_columns(columns: object) -> None:
    """Raise MimoError unless these are columns that a step can add: name -> type."""
    with needs_extra("pyarrow", "corpus"):
        import pyarrow  # noqa: F401
    for name, kind in check_type("columns", columns, dict, "a dictionary of names and types").items():
        check_type("columns: name", name, str, "text")
        check_type(f"columns: {name}", kind, str, "a type such as 'float32'")
        require(name not in FIXED, f"columns: {name} is a column of every row, which no step gives")
        with wrap_errors(f"columns: {name}", ValueError):
            _type(kind)
        require(kind == SAID.get(name, kind), f"columns: {name} has the type {SAID.get(name)}, not {kind}")


def _type(kind: str) -> DataType:
    import pyarrow as pa

    if kind == "words":
        return pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("word", pa.string())]))
    return pa.large_binary() if kind == "binary" else pa.type_for_alias(kind)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], kind: Schema) -> str:
    """Write rows as Parquet of a schema -> SHA-256 of the file; its bytes depend on the rows alone.

    MimoError when the file cannot be written, or when a row has values of other types.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = []
    for column in kind:
        wrong = f"{path}: a step gave {column.name} a value that is no {column.type}"
        with wrap_errors(wrong, pa.ArrowException, ValueError, TypeError, OverflowError):
            arrays.append(pa.array([row.get(column.name) for row in rows], column.type))
    table = pa.Table.from_arrays(arrays, schema=kind)
    with atomic_path(path) as temporary, wrap_errors(f"{path}: cannot be written", OSError):
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_AT_ONCE)
        return hashlib.sha256(temporary.read_bytes()).hexdigest()
