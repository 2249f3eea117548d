"""Items to compare: audio files, folders and manifests -> originals, with decoded files where there are any."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mimo_codec.audio.files import load_audio
from mimo_codec.audio.folders import find_files
from mimo_codec.audio.formats import AUDIO
from mimo_codec.common.checks import require
from mimo_codec.data.manifest import read_manifest
from mimo_codec.data.utterance import Utterance

NAMED_FILES = 3
"""Files that a message names when there are many."""


@dataclass(frozen=True)
class Item:
    """An original, and what is known about it."""

    name: str
    """Its path in the folder or manifest it comes from, and its start if it is a part of a file."""
    path: Path
    text: str | None = None
    """The words that are said."""
    speaker: str | None = None
    """The name of the speaker."""
    decoded: Path | None = None
    """A decoded file to compare it with."""
    start: float = 0.0
    """Seconds from the file's beginning."""
    end: float | None = None
    """Seconds from the file's beginning; None for the file's end."""

    def load(self) -> tuple[Tensor, int]:
        """Read the original -> (waveform [S], sample rate in Hz); raise what `load_audio` raises."""
        return load_audio(self.path, self.start, self.end)


def find_items(reference: str | Path, decoded: str | Path | None = None) -> tuple[list[Item], list[str]]:
    """Find the items of an audio file, a folder or a manifest -> (items, notes).

    Args:
        reference: the originals. A manifest is a .jsonl file: on each line an object with "path", which counts from the
            manifest's folder, and perhaps "text", "speaker" and, in seconds, "start" and "end".
        decoded: a folder (or file) of decoded audio. Files of the same path but for the suffix belong together, and a
            note lists those that have no partner.

    Raises:
        MimoError: when there is nothing to read, two files have one name, none has a partner, or parts of files are to
            have one.
    """
    originals = _read_manifest(Path(reference)) if Path(reference).suffix == ".jsonl" else _list_files(Path(reference))
    if decoded is None:
        return originals, []
    require(os.path.exists(decoded), f"{decoded}: there is no such file or folder")
    parts = [item.name for item in originals if item.start or item.end is not None]
    require(not parts, f"{reference}: has parts of files, which have no decoded files of their own: {_some(parts)}")
    if os.path.isfile(decoded) and len(originals) == 1:
        return [replace(originals[0], decoded=Path(decoded))], []
    partners = {stem: item.path for stem, item in _by_stem(_list_files(Path(decoded))).items()}
    stems = _by_stem(originals)
    items = [replace(item, decoded=partners[stem]) for stem, item in stems.items() if stem in partners]
    require(items, f"no file of {reference} has a partner in {decoded}, of the same path but for the suffix")
    lonely = [str(item.path) for stem, item in stems.items() if stem not in partners]
    lonely += [str(path) for stem, path in partners.items() if stem not in stems]
    return items, [f"left out, without a partner: {_some(lonely)}"] if lonely else []


def _list_files(source: Path) -> list[Item]:
    if not os.path.isdir(source):
        return [Item(source.name, source)]
    return [Item(str(path.relative_to(source)), path) for path in find_files(source, AUDIO)]


def _read_manifest(manifest: Path) -> list[Item]:
    items = [_item(utterance, manifest.parent) for utterance in read_manifest(manifest)]
    require(items, f"{manifest}: lists no files")
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    require(not twice, f"{manifest}: lists twice: {_some(twice)}")
    return items


def _item(utterance: Utterance, folder: Path) -> Item:
    path = utterance.path
    require(utterance.member is None, f"{utterance.name}: lies in a shard; files of their own are needed")
    name = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    name += f" @ {utterance.start:g}" if utterance.start else ""
    return Item(name, path, utterance.text, utterance.speaker, None, utterance.start, utterance.end)


def _by_stem(items: Iterable[Item]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in items:
        stem = str(Path(item.name).with_suffix(""))
        other = found.setdefault(stem, item)
        require(other is item, f"{other.path} and {item.path} differ in the suffix alone: which one is meant?")
    return found


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_FILES
    return ", ".join(names[:NAMED_FILES]) + (f" and {more} more" if more > 0 else "")
