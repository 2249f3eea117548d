"""Classes of a user's own in recipes, which name them by class path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def names_data_module(recipes: Iterable[Path], arguments: Sequence[str]) -> bool:
    """Whether recipes (which are valid YAML) or arguments name a class for the data, in place of `SpeechData`."""
    import yaml

    for recipe in recipes:
        content = yaml.safe_load(recipe.read_bytes())
        data = content.get("data") if isinstance(content, Mapping) else None
        if isinstance(data, Mapping) and "class_path" in data:
            return True
    return any(argument.partition("=")[0] in ("--data", "--data.class_path") for argument in arguments)
