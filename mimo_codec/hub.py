"""Where the weights of a model are: its safetensors files in a folder, and the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


class TensorHeader(NamedTuple):
    """What the header of a safetensors file says of a tensor."""

    path: Path
    dtype: str
    """As the format writes it: F32, BF16, I64."""
    shape: list[int]


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model.

    Raises MimoError when there are none, and where `weight_headers` does.
    """
    return list(dict.fromkeys(header.path for header in weight_headers(folder).values()))


def weight_headers(folder: Path) -> dict[str, TensorHeader]:
    """Read the headers of all safetensors files of a model -> name of a tensor -> where and what it is.

    Raises MimoError when there are none, when a file is not valid, and when the index of shards is not valid, names a
    file that is not in the folder, or does not say of each tensor in which file it is.
    """
    if os.path.isfile(folder / WEIGHTS):
        return read_header(folder / WEIGHTS)
    index = folder / INDEX
    require(os.path.lexists(index), f"{folder}: there is neither {WEIGHTS} nor {INDEX} in this folder")
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise MimoError(f"{index}: not a valid index of shards")
    shards = list(dict.fromkeys(map(str, weight_map.values())))
    for shard in shards:
        is_there = Path(shard).name == shard and os.path.isfile(folder / shard)
        require(is_there, f"{index} names {repr(shard[:200])[1:-1]}, which is not in the folder")
    found: dict[str, TensorHeader] = {}
    for shard in shards:
        header = read_header(folder / shard)
        others = listed("in several shards", found.keys() & header.keys())
        others += listed(f"in {shard}, but not by the index", (k for k in header if weight_map.get(k) != shard))
        require(not others, f"{index}: tensors are {'; '.join(others)}")
        found |= header
    missing = listed("in no shard", (repr(key[:200])[1:-1] for key in weight_map if key not in found))
    require(not missing, f"{index}: tensors are {'; '.join(missing)}")
    return found


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Read what a safetensors file says of its tensors, by name; MimoError for what is no such file."""
    from safetensors import SafetensorError, safe_open

    unreadable = wrap_errors(f"{path}: not a readable safetensors file", SafetensorError, OSError, ValueError)
    with unreadable, safe_open(path, framework="np") as file:
        parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        return {key: TensorHeader(path, str(part.get_dtype()), part.get_shape()) for key, part in parts.items()}


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
