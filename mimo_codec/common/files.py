"""Files that appear whole or not at all, and JSON that says what is wrong with it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mimo_codec.common.errors import MimoError


def cache_folder() -> Path:
    """Where things that were made once are kept for this user; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimo-codec"


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place when the block ends well.

    The temporary file is hidden, empty, unique and has the suffix of `path`, from which writers
    may tell the format. When the block raises anything, KeyboardInterrupt included, the temporary
    file is removed and `path` stays as it was. A symbolic link is written through, not replaced.
    Do only the writing inside the block: an OSError raised there is reported as this file's.

    Raises MimoError when `path` is a folder or a device, when it exists and `overwrite` is False
    (looked at again at the end, so that a file made meanwhile survives), when its folder is
    missing or not writable, and when writing fails.
    """
    path = Path(path)
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    temporary = target.parent / f".mimo-codec-{secrets.token_hex(8)}{target.suffix}"
    try:
        check_target(path, overwrite)
        temporary.touch(exist_ok=False)
        yield temporary
        check_target(path, overwrite)
        os.replace(temporary, target)
    except OSError as error:
        raise MimoError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_target(path: Path, overwrite: bool) -> None:
    """MimoError unless a file can be made, or with `overwrite` replaced, at `path`."""
    if path.is_dir():
        raise MimoError(f"{path} is a folder; the name of a file is needed")
    if not path.parent.is_dir():
        raise MimoError(f"{path}: there is no folder {path.parent}")
    if path.exists():
        if not path.is_file():
            raise MimoError(f"{path} is not a regular file; the name of a file is needed")
        if not overwrite:
            raise MimoError(f"{path} already exists; pass overwrite=True (--overwrite)")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds; MimoError, naming it, when it cannot be read or is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MimoError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise MimoError(f"{path}: not valid JSON ({error})") from None
