"""Classes of a user's own in recipes, which name them by class path."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def import_beside(recipes: Iterable[Path]) -> None:
    """Let classes be imported from the folders of recipes, after everything that is installed."""
    for folder in dict.fromkeys(str(recipe.absolute().parent) for recipe in recipes):
        if folder not in sys.path:
            sys.path.append(folder)


def names_data_module(recipes: Iterable[Path], arguments: Sequence[str]) -> bool:
    """Whether recipes (which are valid YAML) or arguments name a class for the data, in place of `SpeechData`."""
    import yaml

    for recipe in recipes:
        content = yaml.safe_load(recipe.read_bytes())
        data = content.get("data") if isinstance(content, Mapping) else None
        if isinstance(data, Mapping) and "class_path" in data:
            return True
    return any(argument.partition("=")[0] in ("--data", "--data.class_path") for argument in arguments)
