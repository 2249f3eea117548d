"""Finding utterances: in folder trees, in manifests, and in the shards of data sets."""

from __future__ import annotations

import os
from pathlib import Path

from mimo_codec.audio.folders import find_files
from mimo_codec.audio.formats import AUDIO
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.data import arrow
from mimo_codec.data.corpus import corpus_utterances, is_corpus
from mimo_codec.data.manifest import read_manifest
from mimo_codec.data.shards import shard_utterances
from mimo_codec.data.transcripts import Transcripts
from mimo_codec.data.utterance import Fault, Utterance

SHARDS = (".tar", *arrow.SUFFIXES)
Found = tuple[list[Utterance], list[Fault]]


def find_utterances(source: str | os.PathLike[str], split: str | None = None) -> Found:
    """Find the utterances of a source, and the files and folders that cannot be read.

    source: one of

    - a folder tree of audio files. `Transcripts` says where their texts are;
    - a manifest (.jsonl);
    - a folder that `save_to_disk` of the package datasets wrote, or `mimo-codec corpus run`;
    - a shard, or a folder tree of shards (and no audio files): WebDataset (.tar), Arrow or Parquet.

    split: keep the rows of a manifest, or of a data set, of that split.

    Raises MimoError when there is no such source, nothing is in it, it has an error, or it has several splits and none
    is chosen.
    """
    source = Path(source)
    if source.is_dir():
        return _utterances_below(source, split)
    suffix = source.suffix.lower()
    if suffix in SHARDS:
        return _of_shards([source], split)
    known = "a manifest (.jsonl) or a shard (.tar, .arrow, .parquet)"
    require(suffix == ".jsonl", f"{source}: not a folder of audio files, {known}")
    utterances = [row for row in read_manifest(source) if split in (None, row.split)]
    require(utterances, f"{source}: has no rows" + (f" with split {split!r}" if split is not None else ""))
    return utterances, []


def _utterances_below(folder: Path, split: str | None) -> Found:
    if is_corpus(folder):
        require(split is None, f"{folder}: a corpus has no split {split!r}")
        return corpus_utterances(folder), []
    if arrow.is_saved_dataset(folder):
        return arrow.dataset_utterances(folder, split)
    faults: list[Fault] = []

    def keep(error: OSError) -> None:
        faults.append(Fault(Path(error.filename), "unreadable", f"cannot be read: {error.strerror}"))

    try:
        paths = find_files(folder, AUDIO, on_error=keep)
    except MimoError:  # there are none
        try:
            shards = find_files(folder, SHARDS, on_error=lambda error: None)
        except MimoError:
            shards = []
        if not shards:
            raise
        utterances, more = _of_shards(shards, split)
        return utterances, faults + more
    require(split is None, f"{folder}: a folder of audio files has no split {split!r}; manifests and data sets have")
    texts = Transcripts(folder)
    utterances = [Utterance(path, text=texts.of(path)) for path in paths]
    return utterances, faults + texts.faults


def _of_shards(paths: list[Path], split: str | None) -> Found:
    tars = [path for path in paths if path.suffix.lower() == ".tar"]
    tables = [path for path in paths if path not in tars]
    require(split is None or not tars, f"{paths[0]}: a tar file has no split {split!r}; manifests and data sets have")
    utterances, faults = arrow.file_utterances(tables, split) if tables else ([], [])
    for path in tars:
        found, bad = shard_utterances(path)
        utterances += found
        faults += bad
    require(utterances, f"{paths[0]}: there are no audio files in this shard" + (" and others" if paths[1:] else ""))
    return utterances, faults
