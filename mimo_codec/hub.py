"""Where the weights of a model are: its safetensors files in a folder, and the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model.

    Raises MimoError when there are none, and when its index is not valid or names a file that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    require(index.is_file(), f"{folder}: there is neither {WEIGHTS} nor {INDEX} in this folder")
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise MimoError(f"{index}: not a valid index of shards")
    shards = list(dict.fromkeys(map(str, weight_map.values())))
    for shard in shards:
        is_there = Path(shard).name == shard and (folder / shard).is_file()
        require(is_there, f"{index} names {shard}, which is not in the folder")
    return [folder / shard for shard in shards]


def listed(what: str, entries: Iterable[str], most: int = 20) -> list[str]:
    """Return one line that lists the entries, for an error message; no line when there are none."""
    found = list(entries)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return [f"{what}: {', '.join(found[:most])}{more}"] if found else []


def download(repo: str, revision: str | None, *patterns: str) -> Path:
    """Fetch the files of a repository that match -> their folder in the local hub cache.

    Raises MimoError, which says whether the repository is unknown or the hub cannot be reached.
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
