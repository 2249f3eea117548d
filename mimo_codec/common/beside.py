"""Python files of a user's own, beside the YAML file that names their classes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def import_beside(files: Iterable[Path]) -> None:
    """Let classes be imported from the folders of files, after everything that is installed."""
    for folder in dict.fromkeys(str(file.absolute().parent) for file in files):
        if folder not in sys.path:
            sys.path.append(folder)
