"""What there is to read: an input -> recordings with ids, and the tasks in which they are described."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mimo_codec.audio.files import audio_info
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.corpus.config import Pipeline
from mimo_codec.data.corpus import ABOUT
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.find import find_utterances
from mimo_codec.data.utterance import Fault, Utterance

BYTES_PER_SECOND = 16_000
"""Of files whose header does not say how long they are; only the size of tasks depends on it."""
HEADERS_AT_ONCE = 16


@dataclass(frozen=True)
class Recording:
    """An utterance, which may be hours long, and its name in the corpus."""

    id: str
    utterance: Utterance
    seconds: float
    """As the header says."""
    there: bool = False
    """Whether its file was there when it was found."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        known = {name: value for name, value in asdict(self.utterance).items() if value is not None}
        utterance = known | {"path": os.fspath(self.utterance.path)}
        return {"id": self.id, "seconds": self.seconds, "there": self.there, "utterance": utterance}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Recording:
        """Undo `to_json`."""
        given = value["utterance"]
        utterance = Utterance(
            **{f.name: given[f.name] for f in fields(Utterance) if f.name in given} | {"path": Path(given["path"])}
        )
        return cls(value["id"], utterance, value["seconds"], value["there"])


def find_recordings(source: str, pipeline: Pipeline) -> tuple[list[Recording], list[Fault]]:
    """Find the recordings of an input that `find_utterances` knows, in order, and what of it cannot be read.

    Their paths are absolute, so that a corpus is of use in any folder. Where the pipeline does not say their source and
    licence, those of a manifest or of a corpus are kept; the source is otherwise called like the input.

    Raises MimoError when there is nothing to read.
    """
    listed, faults = find_utterances(source, pipeline.read.split)
    read, name = pipeline.read, as_text(Path(os.path.abspath(source)).name)
    utterances = [
        replace(
            utterance,
            path=Path(os.path.abspath(utterance.path)),
            source=read.source or utterance.source or name,
            licence=read.licence or utterance.licence,
        )
        for utterance in listed
    ]
    root = os.path.abspath(source if os.path.isdir(source) else os.path.dirname(os.path.abspath(source)))
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        lengths = list(pool.map(_seconds, utterances))
        there = list(pool.map(os.path.exists, (u.path for u in utterances)))
    facts = zip(utterances, lengths, there, strict=True)
    recordings = [Recording(_name(u, root), u, length, is_there) for u, length, is_there in facts]
    seen: dict[str, Recording] = {}
    for recording in recordings:
        twin = seen.setdefault(recording.id, recording)
        require(twin is recording, f"{source}: names {recording.utterance.name} twice")
    return recordings, faults


def as_text(name: str) -> str:
    """Return a name or text, in which surrogates may stand for any bytes, with what is no UTF-8 replaced."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


def check_text(utterance: Utterance) -> None:
    """Raise MimoError for an utterance that no table can name, because its path or a text is no UTF-8."""
    u = utterance
    said = {name: getattr(u, name) for name in ("member", *ABOUT)}
    for what, value in {"path": str(u.path), **said}.items():
        require(value is None or as_text(value) == value, f"its {what} is not valid UTF-8, which Parquet needs")


def check_not_gone(path: Path) -> None:
    """Raise MimoError when a file is not there any more, as on a disk that was taken away: its rows would be lost."""
    require(os.path.exists(path), f"{path}: is gone since the run began; the same command goes on when it is back")


def _name(utterance: Utterance, root: str) -> str:
    """Sixteen hex digits of where it is below the input, so that they are the same wherever the input lies."""
    path, start, end, inside = utterance.identity
    place = json.dumps([os.path.relpath(path, root), start, end, inside])
    return hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _seconds(utterance: Utterance) -> float:
    if utterance.seconds is not None:
        return utterance.seconds
    try:
        with audio_file(utterance) as path:
            info = audio_info(path)
            samples = info.num_samples
            seconds = os.stat(path).st_size / BYTES_PER_SECOND if samples is None else samples / info.sample_rate
    except (MimoError, OSError):  # describing it says why
        return 0.0
    end = seconds if utterance.end is None else min(utterance.end, seconds)
    return max(end - utterance.start, 0.0)


def stamp(recordings: Iterable[Recording]) -> str:
    """Hash of all recordings, with the sizes and times of their files: an input that has changed has another one."""
    digest, known = hashlib.sha256(), dict[Path, tuple[int, int]]()
    for recording in recordings:
        path = recording.utterance.path
        if path not in known:
            try:
                about = os.stat(path)
                known[path] = about.st_size, about.st_mtime_ns
            except OSError:
                known[path] = 0, 0
        digest.update(json.dumps([recording.to_json(), known[path]], sort_keys=True).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def group_by_seconds(lengths: Iterable[float], most: float) -> Iterator[slice]:
    """Group consecutive items of these lengths into slices of at most `most` seconds, or of one longer item."""
    begin, total, number = 0, 0.0, -1
    for number, length in enumerate(lengths):
        if number > begin and total + length > most:
            yield slice(begin, number)
            begin, total = number, 0.0
        total += length
    if number >= begin:
        yield slice(begin, number + 1)
