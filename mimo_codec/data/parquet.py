"""Rows of Parquet files, a few of them in memory at a time (extra `datasets`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mimo_codec.common.checks import needs_extra, require, wrap_errors
from mimo_codec.common.files import open_regular

ROWS_AT_ONCE = 256


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file; MimoError for what is no such file."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, by names of columns.

    Args:
        path: of the file.
        columns: that are read; None: all.

    Raises:
        MimoError: for what is no such file, is damaged, or lacks one of the columns.
    """
    with _opened(path) as file:
        missing = [name for name in columns or () if name not in file.schema_arrow.names]
        require(not missing, f"{path}: has no column {', '.join(missing)}")
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
            yield from batch.to_pylist()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with needs_extra("pyarrow", "datasets"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    unreadable = wrap_errors(f"{path}: not a readable Parquet file", OSError, ValueError, pa.ArrowException)
    with unreadable, open_regular(path) as file:
        yield pq.ParquetFile(file)
