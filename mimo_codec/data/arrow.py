"""Data sets of Hugging Face, saved to disk: Arrow and Parquet files whose rows hold audio files (extra `datasets`).

Arrow files keep the bytes of audio files as they are, so that an utterance is a place in the file. In Parquet files
they are compressed by groups of rows; a whole group is decompressed for one row, and the last two are kept in memory.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mimo_codec.common.checks import needs_extra, require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json
from mimo_codec.data.shards import SPEAKER_KEYS, TEXT_KEYS, text_and_speaker
from mimo_codec.data.utterance import Fault, Utterance

SUFFIXES = (".arrow", ".parquet")
STATE, SPLITS = "state.json", "dataset_dict.json"
AUDIO_COLUMN = "audio"

Rows = Iterator[dict[str, Any]]
"""Arguments of utterances but for the path; "fault" says why a row has none."""
Place = tuple[int, int]
"""Offset and number of bytes."""


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` of the package datasets writes."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def dataset_utterances(folder: Path, split: str | None) -> tuple[list[Utterance], list[Fault]]:
    """List the rows of a folder that `save_to_disk` wrote; MimoError when it has several splits and none is chosen."""
    if (folder / SPLITS).is_file():
        with wrap_errors(f"{folder / SPLITS}: does not list splits", AttributeError, KeyError, TypeError):
            splits = [str(name) for name in read_json(folder / SPLITS)["splits"]]
        return dataset_utterances(folder / _choose(folder, splits, split), None)
    require(split is None, f"{folder}: has no split {split!r}")
    with wrap_errors(f"{folder / STATE}: does not list files", AttributeError, KeyError, TypeError):
        state = read_json(folder / STATE)
        paths = [folder / str(file["filename"]) for file in state["_data_files"]]
        indices = state.get("_indices_data_files")
    require(not indices, f"{folder}: its rows are chosen by indices: save what flatten_indices() gives")
    return file_utterances(paths, None)


def file_utterances(paths: list[Path], split: str | None) -> tuple[list[Utterance], list[Fault]]:
    """List the rows of Arrow and Parquet files, those of one split if their names tell splits apart.

    Raises MimoError when the names tell several splits and none is chosen, and for files without a column of audio.
    """
    splits = {path: _split(path) for path in paths}
    names = sorted({name for name in splits.values() if name is not None})
    if names and (split is not None or len(names) > 1):
        chosen = _choose(paths[0].parent, names, split)
        paths = [path for path in paths if splits[path] == chosen]
    else:
        require(split is None, f"{paths[0].parent}: has no split {split!r}")
    utterances: list[Utterance] = []
    faults: list[Fault] = []
    for path in paths:
        rows = _arrow_rows(path) if path.suffix.lower() == ".arrow" else _parquet_rows(path)
        for row in rows:
            reason = row.pop("fault", None)
            if reason is not None:
                faults.append(Fault(path, "missing", reason, member=row["member"]))
            else:
                utterances.append(Utterance(row.pop("path", path), **row))
    return utterances, faults


def _choose(folder: Path, splits: list[str], split: str | None) -> str:
    known = ", ".join(splits)
    if split is None:
        require(len(splits) == 1, f"{folder}: has several splits, choose one ({known}) with data.split")
        return splits[0]
    require(split in splits, f"{folder}: has no split {split!r}, only {known}")
    return split


def _split(path: Path) -> str | None:
    """The split that a file's name tells, as train in train-00000-of-00002.parquet."""
    match = re.fullmatch(r"(.+)-\d+-of-\d+", path.stem)
    return match[1] if match and match[1] != "data" else None


# ---- Arrow -----------------------------------------------------------------------------------------------------------


def _arrow_rows(path: Path) -> Rows:
    """Arguments of an utterance for each row of an Arrow file, in either of its formats."""
    with needs_extra("pyarrow", "datasets"):
        import pyarrow as pa
    size = path.stat().st_size
    with (
        wrap_errors(f"{path}: not a readable Arrow file", pa.ArrowException, OSError, ValueError),
        pa.memory_map(str(path)) as file,
    ):
        start = file.read_buffer(size).address
        file.seek(0)
        try:
            batches = list(pa.ipc.open_stream(file))
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(file)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        count = 0
        for batch in batches:
            batch.validate(full=True)  # damaged offsets would end the process
            column = _audio_column(path, batch.schema)
            for place, name, about in _places(batch, column, start):
                row: dict[str, Any] = {"member": name or f"row {count}", **about}
                if place is not None:
                    is_inside = place[0] >= 0 and sum(place) <= size
                    require(is_inside, f"{path}: is compressed; save the data set without compression")
                    row |= {"offset": place[0], "num_bytes": place[1]}
                elif name:
                    row = {"path": path.parent / name, **about}
                else:
                    row["fault"] = "the row holds no audio"
                yield row
                count += 1


def _places(batch: Any, column: str, start: int) -> Iterator[tuple[Place | None, str | None, dict[str, str]]]:
    """For each row of a batch: where its audio's bytes are in the file, what the audio is called, text and speaker."""
    import pyarrow as pa

    if not len(batch):
        return
    audio = batch.column(column)
    values, names = audio, [None] * len(batch)
    if pa.types.is_struct(audio.type):
        parts = dict(zip((field.name for field in audio.type), audio.flatten(), strict=True))
        values = parts["bytes"]
        names = parts["path"].to_pylist() if "path" in parts else names
    _, offsets, data = values.buffers()
    kind = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    ends = np.frombuffer(offsets, kind)[values.offset : values.offset + len(values) + 1]
    known = values.is_valid().to_pylist()
    about = batch.select([name for name in batch.schema.names if name in (*TEXT_KEYS, *SPEAKER_KEYS)]).to_pylist()
    for row in range(len(batch)):
        place = None
        if known[row] and ends[row + 1] > ends[row]:
            place = data.address - start + int(ends[row]), int(ends[row + 1] - ends[row])
        yield place, names[row], text_and_speaker(about[row] if about else {})


def _audio_column(path: Path, schema: Any) -> str:
    """The column that holds audio files: the one called audio, or the first of the right type."""
    import pyarrow as pa

    def holds_audio(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            names = {field.name: field.type for field in kind}
            return "bytes" in names and holds_audio(names["bytes"])
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found = [field.name for field in schema if holds_audio(field.type)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    require(found, f"{path}: has no column with the bytes of audio files, only {columns}")
    return AUDIO_COLUMN if AUDIO_COLUMN in found else str(found[0])


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet_rows(path: Path) -> Rows:
    """Arguments of an utterance for each row of a Parquet file."""
    with needs_extra("pyarrow", "datasets"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    with (
        wrap_errors(f"{path}: not a readable Parquet file", pa.ArrowException, OSError, ValueError),
        pq.ParquetFile(path) as file,
    ):
        schema = file.schema_arrow
        column = _audio_column(path, schema)
        kind = schema.field(column).type
        has_name = pa.types.is_struct(kind) and "path" in {field.name for field in kind}
        columns = [name for name in schema.names if name in (*TEXT_KEYS, *SPEAKER_KEYS)]
        columns += [f"{column}.path"] if has_name else []
        count = 0
        for group in range(file.num_row_groups):
            number = file.metadata.row_group(group).num_rows
            table = file.read_row_group(group, columns=columns, use_threads=False).to_pylist() if columns else []
            for about in table or [{}] * number:
                name = (about.get(column) or {}).get("path") if has_name else None
                yield {"member": name or f"row {count}", "row": count, "column": column, **text_and_speaker(about)}
                count += 1


def row_bytes(path: Path, stamp: int, column: str, row: int) -> bytes:
    """Read the audio file in a row of a Parquet file; stamp: anything that differs once the file has changed."""
    starts = _group_starts(path, stamp)
    require(row < starts[-1], f"{path}: has no row {row}, only {starts[-1]} rows")
    group = bisect_right(starts, row) - 1
    value = _group(path, stamp, column, group)[row - starts[group]].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise MimoError(f"{path}: row {row} holds no audio")
    return bytes(data)


@functools.lru_cache(maxsize=256)
def _group_starts(path: Path, stamp: int) -> list[int]:
    """The first row of each group, and the number of rows."""
    with needs_extra("pyarrow", "datasets"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    with wrap_errors(f"{path}: not a readable Parquet file", pa.ArrowException, OSError, ValueError):
        about = pq.read_metadata(path)
    sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    return [0, *np.cumsum(sizes).tolist()]


@functools.lru_cache(maxsize=2)
def _group(path: Path, stamp: int, column: str, group: int) -> Any:
    """The audio of a group of rows, as an array of pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with wrap_errors(f"{path}: not a readable Parquet file", pa.ArrowException, OSError, ValueError, KeyError):
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=[column], use_threads=False)
        require(table.num_columns, f"{path}: has no column {column}")
        return table.column(0).combine_chunks()
