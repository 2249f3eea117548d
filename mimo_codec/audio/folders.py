"""Finding audio in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
"""Suffixes of the files in folders that count as audio."""


def _refuse(error: OSError) -> None:
    raise MimoError(f"{error.filename}: cannot be read: {error.strerror}") from None


def find_files(
    source: str | Path, suffixes: Sequence[str], on_error: Callable[[OSError], None] = _refuse
) -> list[Path]:
    """List the files of a folder tree that have one of these suffixes, in order; a file is listed as it is.

    Links to folders are followed, but no folder is read twice; hidden files and folders are left out. Raises MimoError
    when a folder holds no such file, and for folders in it that cannot be read, unless `on_error` handles them.
    """
    source = Path(source)
    if not os.path.isdir(source):
        return [source]
    files = list(_walk(source, suffixes, on_error))
    require(files, f"{source}: there are no files to read ({' '.join(suffixes)}) in this folder or below")
    return files


def _walk(folder: Path, suffixes: Sequence[str], on_error: Callable[[OSError], None]) -> Iterator[Path]:
    visited: set[str] = set()  # links may lead back
    for root, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        place = os.path.realpath(root)
        if place in visited:
            folders.clear()
            continue
        visited.add(place)
        folders[:] = _shown(folders)
        yield from (Path(root, name) for name in _shown(names) if Path(name).suffix.lower() in suffixes)


def _shown(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))
