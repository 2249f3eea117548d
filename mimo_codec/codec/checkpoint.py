"""Names -> folders (shipped, local, Hugging Face hub), and safetensors <-> state dicts in the released key layout."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.keys import MODEL_TYPE
from mimo_codec.common.arrays import is_finite
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json, write_json
from mimo_codec.common.weights import write_weights
from mimo_codec.hub import CONFIG, INDEX, WEIGHTS, TensorHeader, download, listed, weight_files

NESTED = "audio_tokenizer"
"""Folder in which the family's later models carry their codec."""
HUB_MODELS = ("XiaomiMiMo/MiMo-Audio-Tokenizer",)
TRAINING_STATE = ("embed_avg", "cluster_size", "initted")
"""Buffers of a codebook that only training needs; a checkpoint may leave them out."""


class Checkpoint(NamedTuple):
    """Where a model was found: its folder, and the name that its codes carry."""

    folder: Path
    name: str


def shipped_root() -> Path:
    """The folder of the models that come with the package: inside an installed wheel, or in the repository."""
    installed = Path(__file__).parents[1] / "pretrained"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "pretrained"


def shipped_models() -> dict[str, Path]:
    """Name -> folder of every shipped model."""
    root = shipped_root()
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{CONFIG}"))} if root.is_dir() else {}


def find_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Checkpoint:
    """A shipped name, a local folder or a hub id, in this order -> Checkpoint.

    MimoError says what was looked for when nothing is found, and how to place a model by hand when the hub cannot be
    reached.
    """
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path):
        raise MimoError(f"model {name_or_path!r}: a name, a folder or a hub id is needed")
    name, path = str(name_or_path), Path(os.path.expanduser(name_or_path))
    shipped = shipped_models()
    if name in shipped and not isinstance(name_or_path, Path):
        return Checkpoint(shipped[name], name)
    if os.path.isdir(path):  # unlike Path.is_dir, False for names that no file can have
        return Checkpoint(_codec_folder(path), path.resolve().name)
    if os.path.exists(path):
        raise MimoError(f"{path} is a file; a model is a folder with {CONFIG} and {WEIGHTS}")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not isinstance(name_or_path, Path):
        return Checkpoint(_download(name, revision), name.split("/")[1])
    known = ", ".join([*shipped, *HUB_MODELS])
    raise MimoError(f"unknown model {name!r}: neither a folder nor a known name ({known}) nor a hub id OWNER/NAME")


def _codec_folder(folder: Path) -> Path:
    """The folder itself, or the codec inside a later model of the family."""
    if (folder / NESTED / CONFIG).is_file():
        return folder / NESTED
    if (folder / CONFIG).is_file():
        return folder
    if (folder / "encoder.onnx").is_file():
        raise MimoError(f"{folder}: holds an exported model, and a model in PyTorch is needed here")
    raise MimoError(f"{folder}: there is no {CONFIG} in this folder, so it is not a model (nor is there encoder.onnx)")


def _download(repo: str, revision: str | None) -> Path:
    folder = download(repo, revision, CONFIG, f"{NESTED}/*.json", f"{NESTED}/*.safetensors")
    if not (folder / NESTED / CONFIG).is_file():
        CodecConfig.load(_codec_folder(folder) / CONFIG)  # refuses other models before gigabytes come down
        folder = download(repo, revision, CONFIG, "*.safetensors", INDEX)
    return _codec_folder(folder)


def cached_models() -> dict[str, Path]:
    """Hub id -> folder of every codec found in the local hub cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return {}
    found = {}
    for repo in repos:
        for revision in sorted(repo.revisions, key=lambda r: r.last_modified):
            for config in (revision.snapshot_path / CONFIG, revision.snapshot_path / NESTED / CONFIG):
                if config.is_file() and is_codec_config(config) and any(config.parent.glob("*.safetensors")):
                    found[repo.repo_id] = config.parent
    return dict(sorted(found.items()))


def is_codec_config(path: Path) -> bool:
    """True when a config.json describes a codec rather than some other model."""
    try:
        flat = read_json(path)
    except MimoError:
        return False
    return isinstance(flat, dict) and "encoder_layers" in flat and "num_quantizers" in flat


# ---- tensors ---------------------------------------------------------------------------------------------------------


def read_tensors(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards its index names, under this project's names.

    Floating-point tensors of encoder and decoder become `dtype`, those of the quantizer float32.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    name, value = _from_released(key, file.get_tensor(key))
                    wanted = torch.float32 if name.startswith(_QUANTIZER) else dtype
                    tensors[name] = value.to(wanted) if value.is_floating_point() else value
                    if not is_finite(tensors[name]):
                        raise MimoError(f"{path}: damaged, or too large for {wanted}: {key} has NaN or infinite values")
        except (SafetensorError, OSError) as error:
            raise MimoError(f"{path}: not a readable safetensors file ({error})") from None
    return tensors


_RELEASED_QUANTIZER, _QUANTIZER, _CODEBOOK = "encoder.quantizer.", "quantizer.", "._codebook."


def _from_released(key: str, value: Tensor) -> tuple[str, Tensor]:
    """A tensor of a file -> its name and value here.

    The released checkpoints hold the quantizer inside the encoder, codebooks without a leading dimension of one and
    the flag `inited` as a float.
    """
    if not key.startswith(_RELEASED_QUANTIZER):
        return key, value
    key = _QUANTIZER + key.removeprefix(_RELEASED_QUANTIZER)
    if key.endswith(".inited"):
        flag = value != 0
        return key.removesuffix("inited") + "initted", flag.reshape(()) if flag.numel() == 1 else flag
    return key, value[None] if _CODEBOOK in key else value


def _to_released(name: str, value: Tensor) -> tuple[str, Tensor]:
    if not name.startswith(_QUANTIZER):
        return name, value
    key = _RELEASED_QUANTIZER + name.removeprefix(_QUANTIZER)
    if key.endswith(".initted"):
        return key.removesuffix("initted") + "inited", value.float().reshape(-1)
    return key, value[0] if _CODEBOOK in key else value


def check_sizes(config: CodecConfig, headers: Mapping[str, TensorHeader], folder: Path) -> None:
    """MimoError for a configuration with more layers than the weights can have, before a model of it is made."""
    parts = [config.encoder.num_layers, config.quantizer.num_quantizers if config.quantizer_type == "rvq" else 0]
    if any(key.startswith("decoder.") for key in headers):
        parts += [config.decoder.num_layers, config.vocoder.num_layers]
    if sum(parts) > len(headers):
        raise MimoError(
            f"{folder}: the weights do not fit the configuration: it has {sum(parts)} layers and codebooks, the weights"
            f" are {len(headers)} tensors"
        )


def check_shapes(module: nn.Module, headers: Mapping[str, TensorHeader], folder: Path) -> None:
    """MimoError unless the weights that these headers describe fit a model, which may be on the meta device."""
    found = {key: (header.shape, header.dtype[0] in "FB" and header.dtype != "BOOL") for key, header in headers.items()}
    _check_fit(found, _released(module.state_dict()), folder)


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Give `module` these tensors; MimoError names all that are missing, unexpected or of a wrong shape."""
    own = module.state_dict()
    tensors = dict(tensors)
    for name, value in own.items():
        if name not in tensors and _is_training_state(name):
            embed = tensors.get(f"{name.rpartition('.')[0]}.embed")
            tensors[name] = torch.ones_like(value) if embed is None or not name.endswith("embed_avg") else embed.clone()
    _check_fit(_released(tensors), _released(own), source)
    module.load_state_dict(tensors, assign=True)


Kinds: TypeAlias = "dict[str, tuple[list[int], bool]]"
"""Key of a file -> shape, and whether the values are floating-point."""


def _is_training_state(key: str) -> bool:
    return key.startswith((_QUANTIZER, _RELEASED_QUANTIZER)) and key.endswith((*TRAINING_STATE, "inited"))


def _released(tensors: Mapping[str, Tensor]) -> Kinds:
    """Shapes under the names that the files use."""
    pairs = (_to_released(name, value) for name, value in tensors.items())
    return {key: (list(value.shape), value.is_floating_point()) for key, value in pairs}


def _check_fit(found: Kinds, expected: Kinds, source: str | Path) -> None:
    shapes = {key: (found[key][0], expected[key][0]) for key in found if key in expected}
    problems = [
        *listed("missing", (key for key in expected if key not in found and not _is_training_state(key))),
        *listed("unexpected", (key for key in found if key not in expected)),
        *listed("of a wrong shape", (f"{key} {a} instead of {b}" for key, (a, b) in shapes.items() if a != b)),
        *listed("not floating-point", (key for key in shapes if expected[key][1] > found[key][1])),
    ]
    if problems:
        raise MimoError(f"{source}: the weights do not fit the configuration: {'; '.join(problems)}")


def save_checkpoint(folder: str | Path, config: CodecConfig, state: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors in the released layout; each file appears whole or not at all."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MimoError(f"{folder}: cannot make this folder ({error.strerror})") from None
    tensors = dict(_to_released(name, value.detach().cpu()) for name, value in state.items())
    write_weights(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, {"model_type": MODEL_TYPE, **config.to_dict()})
