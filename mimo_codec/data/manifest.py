"""Utterances to train on or to evaluate with: found in folder trees, read from and written to JSONL manifests.

A manifest has one JSON object per line: `path`, which counts from the manifest's own folder, and optionally the other
fields of `Utterance`. Unknown keys are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mimo_codec.audio.folders import find_files
from mimo_codec.audio.formats import AUDIO
from mimo_codec.common.checks import check_integer, check_number, error_prefix, require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path, open_regular

AnyPath = str | os.PathLike[str]
Identity = tuple[str, float, float | None]
"""Absolute path, start and end: tells utterances apart."""

_ENCODING, _ERRORS = "utf-8", "surrogatepass"  # names of files may be any bytes
FIGURES = ("seconds", "sample_rate", "peak", "clipped", "silence")
"""The fields of an utterance that are measured."""

_MAX_SECONDS = 1e9
CHARACTERS_PER_SECOND = 50
"""No speech has more: twice what the fastest speakers say in any alphabet."""
_WORDS = ("text", "speaker", "split")
_BOUNDS = {
    "start": _MAX_SECONDS,
    "end": _MAX_SECONDS,
    "seconds": _MAX_SECONDS,
    "peak": 1e38,
    "clipped": 1,
    "silence": 1,
}


@dataclass(frozen=True, slots=True)  # there may be millions
class Utterance:
    """An audio file, or what lies from `start` to `end` in it. None: not known, or none.

    Args:
        path: of the audio file.
        start, end: in seconds from the file's beginning; no end: to the file's end.
        text: transcript.
        speaker: any name of the speaker.
        split: which part of a corpus this belongs to, such as "train".
        seconds: duration, from `start` to `end`.
        sample_rate: of the file, in Hz.
        peak: largest magnitude, 1.0 for full scale.
        clipped: share of the samples at full scale or beyond.
        silence: share of silent blocks of 20 ms.

    Raises MimoError, which names the field, for other types and values.
    """

    path: Path
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    speaker: str | None = None
    split: str | None = None
    seconds: float | None = None
    sample_rate: int | None = None
    peak: float | None = None
    clipped: float | None = None
    silence: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        for name in _WORDS:
            value = getattr(self, name)
            require(value is None or isinstance(value, str), f"{name} must be text, not {value!r}")
        for name, high in _BOUNDS.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, high)
        if self.sample_rate is not None:
            check_integer("sample_rate", self.sample_rate, 1)
        if self.end is not None:
            require(self.end > self.start, f"end must be later than start ({self.start:g}), not {self.end:g}")

    @property
    def name(self) -> str:
        """The path, and the start in the file if it is a part; for messages."""
        return place(self.path, self.start)

    @property
    def identity(self) -> Identity:
        """What tells this utterance apart from all others."""
        return os.path.abspath(self.path), self.start, self.end


@dataclass(frozen=True)
class Fault:
    """Why an utterance is not used.

    kind: missing, unreadable (no audio by its first bytes), damaged (further on), bad range, too short, silent,
    clipped; or bad text, where the audio is used without its text.
    """

    path: Path
    kind: str
    reason: str
    start: float = 0.0

    @property
    def name(self) -> str:
        """The name of the utterance."""
        return place(self.path, self.start)

    def __str__(self) -> str:
        """Say everything on one line."""
        return f"{self.name}: {self.kind}: {self.reason}"


def place(path: Path, start: float) -> str:
    """Return how messages name what starts at `start` seconds in a file."""
    return f"{path} @ {start:g}" if start else str(path)


# ---- finding ---------------------------------------------------------------------------------------------------------


def find_utterances(source: AnyPath, split: str | None = None) -> tuple[list[Utterance], list[Fault]]:
    """Find the utterances of a folder tree or of a manifest (.jsonl), and the files and folders that cannot be read.

    In a folder every audio file is one, and a.txt beside a.wav its text. `split` keeps a manifest's rows of that split.

    Raises MimoError when there is no such folder or manifest, none is in it, or the manifest has an error.
    """
    source = Path(source)
    if source.is_dir():
        require(split is None, f"{source}: a folder has no split {split!r}; manifests (.jsonl) have")
        return _utterances_below(source)
    require(source.suffix.lower() == ".jsonl", f"{source}: not a folder of audio files, nor a manifest (.jsonl)")
    utterances = [row for row in read_manifest(source) if split in (None, row.split)]
    require(utterances, f"{source}: has no rows" + (f" with split {split!r}" if split is not None else ""))
    return utterances, []


def _utterances_below(folder: Path) -> tuple[list[Utterance], list[Fault]]:
    faults: list[Fault] = []

    def keep(error: OSError) -> None:
        faults.append(Fault(Path(error.filename), "unreadable", f"cannot be read: {error.strerror}"))

    utterances = []
    for path in find_files(folder, AUDIO, on_error=keep):
        text = None
        try:
            with open_regular(path.with_suffix(".txt")) as file:
                text = " ".join(file.read().decode("utf-8").split()) or None
        except FileNotFoundError:
            pass
        except (OSError, MimoError, UnicodeDecodeError) as error:
            faults.append(Fault(path.with_suffix(".txt"), "bad text", f"cannot be read as UTF-8 ({error})"))
        utterances.append(Utterance(path, text=text))
    return utterances, faults


def drop_long_texts(utterances: Iterable[Utterance]) -> tuple[list[Utterance], list[Fault]]:
    """Take away texts that nobody can say in the time: they are no transcripts, and long ones would stall training.

    Returns all utterances, and one fault for each text that is not used.
    """
    kept, faults = [], []
    for utterance in utterances:
        most = round(CHARACTERS_PER_SECOND * (1 + (utterance.seconds or 0.0)))
        if utterance.text and len(utterance.text) > most:
            reason = f"{len(utterance.text)} characters of text are too many for {utterance.seconds or 0.0:g} s"
            faults.append(Fault(utterance.path, "bad text", reason, utterance.start))
            utterance = replace(utterance, text=None)
        kept.append(utterance)
    return kept, faults


# ---- files -----------------------------------------------------------------------------------------------------------


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
        Fault(Path(path).parent / row["path"], row["kind"], row["reason"], row.get("start", 0.0))
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
    return Utterance(**known | {"path": folder / row["path"]})


def _read_rows(path: AnyPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of every line that is not blank."""
    with wrap_errors(f"{path}: cannot be read", OSError, ValueError), open_regular(path) as file:
        lines = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
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
