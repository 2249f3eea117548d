"""Files that appear whole or not at all, and JSON that says what is wrong with it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.temporaries import temporary_name

MAX_JSON_BYTES = 2**26
"""The largest file that `read_json` reads; vocabularies of tokenizers and indices of shards take a tenth of it."""
JSON: TypeAlias = Any
"""What `json.loads` returns: a dictionary, a list, a string, a number, a bool or None."""


def cache_folder() -> Path:
    """Return the folder for what is made once and kept for this user; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimo-codec"


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place when the block ends well.

    The temporary file is hidden, empty, unique and has the suffix of `path`, from which writers
    may tell the format. When the block raises anything, KeyboardInterrupt included, the temporary
    file is removed and `path` stays as it was. A symbolic link is written through, not replaced;
    a file that is replaced keeps its mode and, as far as this user may do so, its owner.
    Do only the writing inside the block: an OSError raised there is reported as this file's.

    Raises MimoError when `path` is a folder or a device, when it exists and `overwrite` is False
    (of two that write it at once one succeeds), when its folder is missing or not writable, and
    when writing fails.
    """
    path = Path(path)
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    temporary = temporary_name(target.parent, target.suffix)
    try:
        with wrap_errors(f"{path}: cannot be written", OSError):
            check_target(path, overwrite)
            temporary.touch(exist_ok=False)
            yield temporary
            check_target(path, overwrite)
            _put(temporary, target, overwrite)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _put(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the finished file its name."""
    if not overwrite:
        try:
            os.link(temporary, target)  # fails where a file is, which a replacement does not
        except FileExistsError:
            check_target(target, overwrite)
        except OSError:  # the file system has no links
            pass
        else:
            return
    with suppress(OSError):  # there is no file yet, or it is another user's
        before = target.stat()
        os.chmod(temporary, before.st_mode & 0o7777)
        if hasattr(os, "chown"):
            os.chown(temporary, before.st_uid, before.st_gid)
            os.chmod(temporary, before.st_mode & 0o7777)  # chown takes bits away
    os.replace(temporary, target)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise MimoError unless a file can be made, or with `overwrite` replaced, at `path`."""
    require(not path.is_dir(), f"{path} is a folder; the name of a file is needed")
    require(path.parent.is_dir(), f"{path}: there is no folder {path.parent}")
    require(path.is_file() or not path.exists(), f"{path} is not a regular file; the name of a file is needed")
    require(overwrite or not path.exists(), f"{path} already exists; pass overwrite=True (--overwrite)")


def make_folder(path: Path) -> None:
    """Make a folder, its parents included, unless it is there; raise MimoError when it cannot be made."""
    with wrap_errors(f"{path}: cannot make this folder", OSError):
        path.mkdir(parents=True, exist_ok=True)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; raise MimoError unless it is a regular file, such as for a pipe, which may never end.

    Raises OSError, or ValueError for names that no file can have, as `open` does.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode) and not stat.S_ISDIR(os.fstat(number).st_mode):
        os.close(number)
        raise MimoError(f"{path}: cannot be read: it is not a regular file")
    return os.fdopen(number, "rb")


def read_json(path: str | os.PathLike[str]) -> JSON:
    """Return what a JSON file holds; raise MimoError, which names it, when it cannot be read or is not JSON."""
    with wrap_errors(f"{path}: cannot be read", OSError, ValueError), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        require(size <= MAX_JSON_BYTES, f"{path}: has {size} bytes; at most {MAX_JSON_BYTES} are read")
        data = file.read()
    with wrap_errors(f"{path}: not valid JSON", ValueError, RecursionError):
        return json.loads(data.decode("utf-8"))


def write_json(path: Path, content: JSON) -> None:
    """Write a JSON file, whole or not at all; MimoError, which names it, when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
