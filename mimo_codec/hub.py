"""Where the weights of a model are: its safetensors files, and the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mimo_codec.common.errors import MimoError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model; MimoError when there are none or its index names what is not there."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise MimoError(f"{folder}: there is neither {WEIGHTS} nor {INDEX} in this folder")
    try:
        shards = list(dict.fromkeys(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise MimoError(f"{folder / INDEX}: not a valid index of shards") from None
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or not (folder / shard).is_file():
            raise MimoError(f"{folder / INDEX} names {shard}, which is not in the folder")
    return [folder / shard for shard in shards]


def listed(what: str, entries: Iterable[str], most: int = 20) -> list[str]:
    """No entries -> nothing; else one line that lists them, for an error message."""
    found = list(entries)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return [f"{what}: {', '.join(found[:most])}{more}"] if found else []


def download(repo: str, revision: str | None, *patterns: str) -> Path:
    """The folder in the local hub cache with the files of a repository that match, fetched where they are missing.

    MimoError says whether the repository is unknown or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise MimoError(f"{repo}{at}: there is no such model on the Hugging Face hub, or it needs a login") from None
    except Exception as error:  # whatever the HTTP stack raises without a network
        reason = type(error).__name__
        raise MimoError(
            f"{repo}{at} is not in the hub cache and could not be downloaded ({reason}): download its {CONFIG} and"
            f" *.safetensors on another machine, put them in one folder and pass that folder's path"
        ) from error
