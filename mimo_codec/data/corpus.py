"""The output of `mimo-codec corpus run` as training data: its shards, and the recordings that they were made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json
from mimo_codec.data.parquet import read_parquet
from mimo_codec.data.utterance import Utterance

FORMAT, MANIFEST = "mimo-codec corpus", "manifest.json"
WORK, STATE, DESCRIBED = "work", "state.json", "described"
"""The folder with what is needed to go on, and what a run that has begun has there."""
FIELDS = ("member", "offset", "num_bytes", "row", "column", "start", "end", "seconds")
ABOUT = ("text", "speaker", "language", "source", "licence")
"""Columns that are fields of an utterance, beside the path."""


def is_corpus(folder: Path) -> bool:
    """Whether a folder is what `mimo-codec corpus run` wrote; MimoError for one that is not finished."""
    if not (folder / MANIFEST).is_file():
        begun = (folder / WORK / STATE).is_file() and (folder / WORK / DESCRIBED).is_dir()
        require(not begun, f"{folder}: this corpus is not finished; the same command `mimo-codec corpus run` goes on")
        return False
    try:
        content = read_json(folder / MANIFEST)
    except MimoError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def corpus_shards(folder: Path) -> list[Path]:
    """List the shards of a corpus in their order; MimoError when one is missing or the manifest is damaged."""
    content = read_json(folder / MANIFEST)
    with wrap_errors(f"{folder / MANIFEST}: does not list shards", AttributeError, KeyError, TypeError):
        names = [str(shard["name"]) for shard in content["shards"]]
    paths = [folder / name for name in names]
    for name, path in zip(names, paths, strict=True):
        inside = ".." not in Path(name).parts and not Path(name).is_absolute()
        require(inside and path.is_file(), f"{folder}: the shard {name} is missing")
    return paths


def corpus_utterances(folder: Path) -> list[Utterance]:
    """List the segments of a corpus as pieces of the recordings that they were made of."""
    return [utterance for path in corpus_shards(folder) for utterance in _utterances(path)]


def _utterances(path: Path) -> Iterator[Utterance]:
    for row in read_parquet(path, ["path", *FIELDS, *ABOUT]):
        known = {name: value for name, value in row.items() if value is not None}
        require("path" in known, f"{path}: a row has no path")
        yield Utterance(**known | {"path": Path(known["path"])})
