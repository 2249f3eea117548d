"""Folders and hub ids -> language models, and back: config.json, sharded safetensors and tokenizer, as released."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mimo_codec.common.arrays import is_finite
from mimo_codec.common.checks import needs_extra, require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path, make_folder, write_json
from mimo_codec.common.weights import write_weights
from mimo_codec.hub import CONFIG, INDEX, WEIGHTS, download, listed, weight_files
from mimo_codec.lm.adapters import has_adapter
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.model import SpeechLanguageModel, rebuild_rotary
from mimo_codec.lm.quantize import STACKS, find_quantizer
from mimo_codec.lm.tokenizer import TextTokenizer

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "prompts.json",
)
SHARD_BYTES = 5 * 10**9
DeviceMap = str | Mapping[str, str | int | torch.device]
"""As accelerate's: "auto", or a device for each module; "disk" is one too. Only `model.layers.*` may be apart."""


def find_config(name_or_path: str | Path, revision: str | None = None) -> LMConfig:
    """Read the configuration of what `find_language_model` would find, and download nothing else."""
    return LMConfig.load(_find(name_or_path, revision, CONFIG) / CONFIG)


def find_language_model(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Find a model by its folder or its hub id OWNER/NAME; MimoError says what was looked for."""
    find_config(name_or_path, revision)  # refuses other models before gigabytes come down
    return _find(name_or_path, revision, CONFIG, "*.safetensors", INDEX, *TEXT_FILES)


def find_description(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Find configuration and tokenizer of what `find_language_model` would find; weights are not downloaded."""
    return _find(name_or_path, revision, CONFIG, *TEXT_FILES)


def _find(name_or_path: str | Path, revision: str | None, *patterns: str) -> Path:
    """Return the folder, with the files that match `patterns` if it is the hub's."""
    name = str(name_or_path)
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        require((path / CONFIG).is_file(), f"{path}: there is no {CONFIG} in this folder, so it is not a model")
        return path
    require(not os.path.exists(path), f"{path} is a file; a model is a folder with {CONFIG} and {WEIGHTS}")
    if isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return download(name, revision, *patterns)
    raise MimoError(f"unknown language model {name!r}: neither a folder nor a hub id OWNER/NAME")


def load_language_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
    device_map: DeviceMap | None = None,
) -> tuple[SpeechLanguageModel, TextTokenizer]:
    """Load the networks, in evaluation mode, and the tokenizer.

    Tensors go one by one from the file to the device, so that the weights never exist twice; quantized ones go through
    the memory of the CPU.

    Args:
        folder: with config.json, weights and tokenizer.
        device: to put the networks on.
        dtype: of the weights; None keeps that of the files.
        quantize: "int8" or "int4".
        device_map: puts layers on several devices instead of one.

    Raises:
        MimoError: names whatever does not fit, and says what would fit when memory does not suffice.
    """
    config, tokenizer = LMConfig.load(folder / CONFIG), TextTokenizer.load(folder)
    count = len(tokenizer)
    require(count <= config.vocab_size, f"{folder}: the tokenizer has {count} tokens, the model {config.vocab_size}")
    with torch.device("meta"):
        model = SpeechLanguageModel(config, tokenizer.special.empty)
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    if device_map is not None:
        require(quantize is None, "device_map and quantize exclude each other")
        return _spread(folder, model, device_map, dtype, expected), tokenizer
    quantizer = find_quantizer(quantize)
    target, device = device, torch.device("cpu") if quantizer else device
    with _enough_memory(folder, model, device):
        tensors = dict(_read(folder, expected, device, dtype))
    if config.tie_word_embeddings and "lm_head.weight" not in tensors and "model.embed_tokens.weight" in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    _check_complete(folder, tensors, expected)
    model.load_state_dict(tensors, assign=True)
    if config.tie_word_embeddings:
        tied = torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
        require(tied, f"{folder}: tie_word_embeddings, but lm_head.weight is not model.embed_tokens.weight")
        model.lm_head.weight = model.model.embed_tokens.weight
    rebuild_rotary(model, device)
    with _enough_memory(folder, model, target):
        if quantizer:
            quantizer(model, target)
            model.is_quantized = True
        return model.to(target).eval(), tokenizer


def _read(
    folder: Path, expected: Mapping[str, list[int]], device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in _checked_names(path, file, expected):
                value = file.get_tensor(name).to(device=device, dtype=dtype)
                _check_finite(path, name, value)
                yield name, value


def cast_weights(model: SpeechLanguageModel, dtype: torch.dtype, where: Path) -> None:
    """Give all weights another type, in place; MimoError, which names `where`, when they are too large for it."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype)
        _check_finite(where, name, parameter.data)


def _check_finite(where: Path, name: str, value: Tensor) -> None:
    damaged = f"{where}: damaged, or too large for {value.dtype}: {name} has NaN or infinite values"
    require(value.is_meta or is_finite(value), damaged)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    unreadable = wrap_errors(f"{path}: not a readable safetensors file", SafetensorError, OSError)
    with unreadable, safe_open(path, framework="pt") as file:
        yield file


def _checked_names(path: Path, file: Any, expected: Mapping[str, list[int]]) -> list[str]:
    """Return the names of the tensors in a file; MimoError lists all that are unexpected or of a wrong shape."""
    shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    problems = [
        *listed("unexpected", (name for name in shapes if name not in expected)),
        *listed(
            "of a wrong shape",
            (
                f"{name} {shape} instead of {expected[name]}"
                for name, shape in shapes.items()
                if shape != expected.get(name, shape)
            ),
        ),
    ]
    require(not problems, f"{path}: the weights do not fit the configuration: {'; '.join(problems)}")
    return list(shapes)


def _check_complete(folder: Path, found: Iterable[str], expected: Mapping[str, list[int]]) -> None:
    present = set(found)
    missing = listed("missing", (name for name in expected if name not in present))
    require(not missing, f"{folder}: the weights do not fit the configuration: {'; '.join(missing)}")


def _spread(
    folder: Path,
    model: SpeechLanguageModel,
    device_map: DeviceMap,
    dtype: torch.dtype | None,
    expected: Mapping[str, list[int]],
) -> SpeechLanguageModel:
    """Load the model with its layers where a device map says, by accelerate."""
    with needs_extra("accelerate", "lm"):
        from accelerate import load_checkpoint_and_dispatch
    found: list[str] = []
    for path in weight_files(folder):
        with _opened(path) as file:
            found += _checked_names(path, file, expected)
    tied = ["lm_head.weight"] if model.config.tie_word_embeddings else []
    _check_complete(folder, [*found, *tied], expected)
    with _opened(weight_files(folder)[0]) as file:
        dtype = dtype or file.get_tensor(found[0]).dtype
    model.to(dtype)  # on the meta device: what is placed takes the type of what it replaces
    rebuild_rotary(model, torch.device("cpu"))
    index = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)  # never a pickle beside them
    offload = TemporaryDirectory(prefix="mimo-codec-")  # for layers on "disk", as long as the model lives
    try:
        with _enough_memory(folder, model, torch.device("cpu")):
            model = load_checkpoint_and_dispatch(
                model.eval(),
                str(index),
                device_map=_places(model, device_map),
                dtype=dtype,
                offload_folder=offload.name,
                no_split_module_classes=["Qwen2DecoderLayer"],
            )
    except MimoError:
        raise
    except (ValueError, KeyError, RuntimeError) as error:
        raise MimoError(f"device_map: {str(error).splitlines()[0]}") from None
    for name, value in model.state_dict().items():  # but for layers on the disk, which are not read now
        _check_finite(folder, name, value)
    model.offload = offload  # type: ignore[assignment]
    return model


def _places(model: SpeechLanguageModel, device_map: DeviceMap) -> Mapping[str, Any]:
    """Return a device for each module; "auto" spreads the backbone's layers evenly, the first device has the rest."""
    if not isinstance(device_map, str):
        return device_map
    known = device_map == "auto"
    require(known, f'device_map: {device_map!r} is not known; there is "auto", or a device for each module')
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    layers, memory = model.model.layers, get_max_memory()
    first = next(iter(memory))
    size, of_layers = (sum(p.nbytes for p in module.parameters()) for module in (model, layers))
    memory[first] = max(0, memory[first] - (size - of_layers))
    memory = get_balanced_memory(layers, memory, no_split_module_classes=["Qwen2DecoderLayer"])
    spread = infer_auto_device_map(layers, memory, no_split_module_classes=["Qwen2DecoderLayer"])
    names = [name for name, _ in model.named_children() if name != "model"]
    names += [f"model.{name}" for name, _ in model.model.named_children() if name != "layers"]
    return {
        **dict.fromkeys(names, first),
        **{f"model.layers.{name}".rstrip("."): place for name, place in spread.items()},
    }


@contextmanager
def _enough_memory(folder: Path, model: SpeechLanguageModel, device: torch.device) -> Iterator[None]:
    """Turn an error for lack of memory into a MimoError that says what would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "memory" not in str(error).lower():
            raise
        raise MimoError(_what_would_fit(folder, model.config, device, str(error))) from None


def _what_would_fit(folder: Path, config: LMConfig, device: torch.device, reason: str) -> str:
    with torch.device("meta"):
        shapes = SpeechLanguageModel(config, 0).named_parameters()
    sizes = {name: p.numel() for name, p in shapes}
    count, packed = sum(sizes.values()), sum(size for name, size in sizes.items() if name.startswith(STACKS))
    # what is not packed stays bfloat16; 4 bits come with scales and zero points, 0.6 bytes a weight
    kinds = {"float32": 4 * count, "bfloat16": 2 * count, "int8": 2 * count - packed, "int4": 2 * count - 1.4 * packed}
    wanted = ", ".join(f"{size / 2**30:.1f} GiB as {name}" for name, size in kinds.items())
    return (
        f"{folder}: not enough memory on {device} for {count / 1e9:.1f} B weights ({wanted}): choose a narrower dtype,"
        f" quantize, another device, or device_map (Python) ({reason.splitlines()[0] if reason else 'out of memory'})"
    )


def save_language_model(
    folder: str | Path,
    model: SpeechLanguageModel,
    tokenizer: TextTokenizer,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, safetensors (in shards of 5 GB, with their index) and tokenizer.json.

    state: the weights, where they are not those in the model (of another type, or put together from shards).
    """
    folder = Path(folder)
    require(not model.is_quantized, f"{folder}: a quantized model cannot be saved; load it without quantize")
    require(not has_adapter(model), f"{folder}: a model with an adapter cannot be saved whole; merge the adapter first")
    make_folder(folder)
    state = dict(model.state_dict() if state is None else state)
    is_whole = not any(value.is_meta for value in state.values())
    require(is_whole, f"{folder}: layers of this model are on the disk; load it on one device to save it")
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    _write_weights(folder, state)
    config = model.config.to_dict()
    for name in ("torch_dtype", "dtype"):
        if name in config:
            config[name] = str(state["speech_group_downcast.weight"].dtype).removeprefix("torch.")
    write_json(folder / CONFIG, config)
    _write_tokenizer(folder, tokenizer)


def _write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    shards = _shards(state)
    names = (
        [WEIGHTS]
        if len(shards) == 1
        else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    for name, shard in zip(names, shards, strict=True):
        write_weights(folder / name, {key: state[key] for key in shard})
    _remove_others(folder, names)
    if len(shards) > 1:
        total = sum(value.nbytes for value in state.values())
        placed = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def _write_tokenizer(folder: Path, tokenizer: TextTokenizer) -> None:
    with atomic_path(folder / "tokenizer.json") as temporary:
        temporary.write_text(tokenizer.tokenizer.to_str(pretty=True), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # for those who read the folder by other means
        if not (tokenizer.source / name).is_file():
            (folder / name).unlink(missing_ok=True)  # of another model
            continue
        content = (tokenizer.source / name).read_bytes()
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Remove weights of a model that was in this folder before; they would be read instead of the new ones."""
    for path in (folder / WEIGHTS, folder / INDEX, *folder.glob("model-*-of-*.safetensors")):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _shards(state: Mapping[str, Tensor]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, value in state.items():
        if shards[-1] and size + value.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += value.nbytes
    return shards
