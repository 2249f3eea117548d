"""Names for temporary files and folders, and the removal of those that killed processes left behind."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

PREFIX = ".mimo-codec-"
_NAME = re.compile(re.escape(PREFIX) + r"([0-9a-f]{8})-([0-9]+)-[0-9a-f]{16}")


def temporary_name(folder: Path, suffix: str = "") -> Path:
    """Return the path of a new hidden file or folder in `folder`, which nothing has made yet.

    The first call of a process for a folder removes what killed processes of this machine left there.
    """
    _sweep_once(folder, os.getpid())
    return folder / f"{PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(8)}{suffix}"


@cache
def _sweep_once(folder: Path, process: int) -> None:
    if os.name != "posix":  # elsewhere os.kill would not ask but act
        return
    with suppress(OSError):
        for path in list(folder.iterdir()):
            found = _NAME.match(path.name)
            if found and found[1] == _machine() and not _is_alive(int(found[2])):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@cache
def _machine() -> str:
    """Return a name for the processes that this one can see: a container may see others than its host."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to another user, or is no process at all
        return True
    return True
