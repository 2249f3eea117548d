"""Low-rank adapters of a language model (LoRA, arXiv 2106.09685), by peft: added, saved, loaded and merged.

A folder with an adapter has what peft writes, adapter_config.json and adapter_model.safetensors, and base.json, which
says which model it was trained for.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Collection, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mimo_codec.common.checks import (
    check_integer,
    check_number,
    check_type,
    error_prefix,
    needs_extra,
    require,
    wrap_errors,
)
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import make_folder, open_regular, read_json, write_json
from mimo_codec.common.weights import write_weights
from mimo_codec.hub import TensorHeader, read_header
from mimo_codec.lm.model import SpeechLanguageModel

ADAPTER, ADAPTER_CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
STACKS = {
    "backbone": "model",
    "patch_encoder": "input_local_transformer",
    "patch_decoder": "local_transformer",
}
"""Part of a model -> its Transformer."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
PREFIX = "base_model.model."
"""With what peft's names of weights begin."""
MAX_RANK = 4096
FLOATS = ("F32", "BF16", "F16", "F64")
"""Types of an adapter's weights, as safetensors calls them."""


def add_adapter(
    model: SpeechLanguageModel,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    parts: Collection[str] = tuple(STACKS),
) -> None:
    """Put adapters that change nothing yet on q, k, v and o of the Transformers of these parts, in place.

    Args:
        model: its weights no longer get gradients; those of the adapters do.
        rank: of each adapter.
        alpha: what it adds is multiplied by alpha / rank.
        dropout: share of its inputs that are left out in training.
        parts: names of STACKS.
    """
    _inject(model, rank, alpha, dropout, _targets(parts))


def _targets(parts: Collection[str]) -> str:
    """Return an expression of the names of the layers that adapters are put on."""
    stacks = "|".join(STACKS[part] for part in STACKS if part in parts)
    return rf"({stacks})\.layers\.\d+\.self_attn\.({'|'.join(PROJECTIONS)})"


def _inject(model: SpeechLanguageModel, rank: int, alpha: float, dropout: float, targets: str) -> None:
    with needs_extra("peft", "lora"):
        from peft import LoraConfig, inject_adapter_in_model
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)  # type: ignore[arg-type]
    model.requires_grad_(False)
    inject_adapter_in_model(config, model)
    model.adapter_config = config
    for module in adapters_of(model):
        module.to(model.device)


def adapters_of(model: nn.Module) -> list[Any]:
    """Return the layers that have an adapter."""
    with needs_extra("peft", "lora"):
        from peft.tuners.lora import LoraLayer
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def has_adapter(model: SpeechLanguageModel) -> bool:
    """Whether adapters have been put on a model and not merged."""
    return model.adapter_config is not None


def adapter_weights(model: SpeechLanguageModel) -> dict[str, Tensor]:
    """Return the weights of the adapters by the names that peft's files have."""
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(model)
    return {name if name.startswith(PREFIX) else PREFIX + name: value for name, value in found.items()}


# ---- files -----------------------------------------------------------------------------------------------------------


def save_adapter(
    folder: str | Path,
    model: SpeechLanguageModel,
    name: str,
    weights: dict[str, Tensor] | None = None,
    base: str | None = None,
) -> None:
    """Write the adapters of a model.

    Args:
        folder: is made if need be.
        model: has adapters.
        name: of the model they are for, which errors and peft's own file mention.
        weights: as `adapter_weights` gives them, where they are not those in the model.
        base: the model's `fingerprint`, where its weights are not whole.
    """
    folder = Path(folder)
    require(has_adapter(model), f"{folder}: this model has no adapter")
    make_folder(folder)
    weights = adapter_weights(model) if weights is None else weights
    write_weights(folder / ADAPTER, weights)
    settings = model.adapter_config.to_dict().items()
    content = {k: sorted(v) if isinstance(v, set) else getattr(v, "value", v) for k, v in settings}
    write_json(folder / ADAPTER_CONFIG, {**content, "base_model_name_or_path": name, "inference_mode": True})
    write_json(folder / BASE, {"name": name, "fingerprint": base or fingerprint(model)})


def load_adapter(folder: str | Path, model: SpeechLanguageModel, name: str) -> None:
    """Put the adapter of a folder on a model, in place.

    Raises MimoError when it cannot be read, does not fit, or was trained for another model than this one, which is
    called `name`.
    """
    folder = Path(folder)
    config, base = read_json(folder / ADAPTER_CONFIG), read_json(folder / BASE)
    with error_prefix(folder / BASE):
        check_type("content", base, dict, "an object")
        ours = fingerprint(model)
        theirs, trained_for = base.get("fingerprint"), reprlib.repr(base.get("name"))
        message = f"this adapter is for {trained_for} ({reprlib.repr(theirs)}), not for {name!r} ({ours})"
        require(theirs == ours, message)
    with error_prefix(folder / ADAPTER_CONFIG):
        settings = _read_settings(check_type("content", config, dict, "an object"))
    with wrap_errors(f"{folder / ADAPTER}: not a readable safetensors file", SafetensorError, OSError):
        open_regular(folder / ADAPTER).close()
        _check_weights(folder / ADAPTER, read_header(folder / ADAPTER), _shapes(model, *settings))
        weights = load_file(folder / ADAPTER)
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    require(not broken, f"{folder / ADAPTER}: {broken[:1]} is not finite")
    _inject(model, *settings)
    from peft import set_peft_model_state_dict

    dtype = model.dtype
    set_peft_model_state_dict(model, {k.removeprefix(PREFIX): v.to(dtype) for k, v in weights.items()})
    for module in adapters_of(model):
        module.to(dtype=dtype)
    model.requires_grad_(False)


def _read_settings(config: dict[str, Any]) -> tuple[int, float, float, str]:
    """Rank, alpha, dropout and targets of an adapter_config.json; MimoError for kinds that are not supported."""
    kind = config.get("peft_type")
    require(kind == "LORA", f"peft_type {reprlib.repr(kind)} is not supported; LORA is")
    for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        require(not config.get(key), f"{key} is not supported")
    rank = check_integer("r", config.get("r"), 1, MAX_RANK)
    alpha = check_number("lora_alpha", config.get("lora_alpha"), 0, 1e6)
    dropout = check_number("lora_dropout", config.get("lora_dropout", 0.0), 0, 0.99)
    targets = check_type("target_modules", config.get("target_modules"), str, "an expression of names")
    possible = {_targets(parts) for n in range(len(STACKS)) for parts in combinations(STACKS, n + 1)}
    require(targets in possible, f"target_modules {reprlib.repr(targets)} are not q, k, v and o of this model's stacks")
    return rank, alpha, dropout, targets


def _shapes(model: SpeechLanguageModel, rank: int, alpha: float, dropout: float, targets: str) -> dict[str, list[int]]:
    """Return the shapes of the weights that `_inject` makes of these arguments, by the names that files have."""
    found: dict[str, list[int]] = {}
    for name, layer in model.named_modules():
        if re.fullmatch(targets, name):
            sizes: Any = layer
            found[f"{PREFIX}{name}.lora_A.weight"] = [rank, sizes.in_features]
            found[f"{PREFIX}{name}.lora_B.weight"] = [sizes.out_features, rank]
    return found


def _check_weights(path: Path, found: dict[str, TensorHeader], wanted: dict[str, list[int]]) -> None:
    """Raise MimoError, before anything is allocated, when a file has other weights than these shapes."""
    shapes = {name: header.shape for name, header in found.items()}
    wrong = [name for name in sorted(shapes.keys() | wanted.keys()) if shapes.get(name) != wanted.get(name)]
    if wrong:
        name = wrong[0]
        needed = wanted.get(name) or "no such weight"
        raise MimoError(f"{path}: {name[:200]} is {shapes.get(name) or 'missing'}, this model needs {needed}")
    other = [name for name, header in found.items() if header.dtype not in FLOATS]
    require(not other, f"{path}: {other[:1]} is not one of {', '.join(FLOATS)}")


# ---- merging ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def merge_adapter(model: SpeechLanguageModel) -> None:
    """Add what the adapters add to the weights, in place: the model is then one like others."""
    require(has_adapter(model), "merge: this model has no adapter")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            adapted: Any = child
            if hasattr(child, "base_layer") and hasattr(child, "merge"):
                adapted.merge()
                setattr(parent, name, adapted.get_base_layer())
    model.adapter_config = None


def fingerprint(model: SpeechLanguageModel) -> str:
    """Name a model by its shape and some of its weights, whatever type they have; adapters do not count."""
    digest = hashlib.sha256()
    shape = [(name, value) for name, value in model.config.to_dict().items() if name not in _NO_SHAPE]
    digest.update(json.dumps(sorted(shape, key=lambda item: item[0]), default=str).encode())
    for weight in _telling_weights(model):
        digest.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:12]


_NO_SHAPE = ("codec", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
"""Keys of a config.json that do not make another model."""
_ROWS = 16


def _telling_weights(model: SpeechLanguageModel) -> Iterator[Tensor]:
    """Yield weights that every kind of training changes, and merging too: of the first and the last layers."""
    yield model.lm_head.weight[:_ROWS]
    stacks: Any = [getattr(model, name) for name in STACKS.values()]
    for stack in stacks:
        for layer in (stack.layers[0], stack.layers[-1]):
            for projection in (layer.self_attn.q_proj, layer.self_attn.o_proj):
                yield getattr(projection, "base_layer", projection).weight
