"""The weights of discriminators beside an exported codec: a safetensors file, and JSON that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.files import read_json, write_json
from mimo_codec.common.weights import write_weights
from mimo_codec.train.codec.discriminators import Discriminators

WEIGHTS, ABOUT = "discriminators.safetensors", "discriminators.json"


def describe(discriminators: nn.Module) -> dict[str, Any]:
    """Say what discriminators are, as JSON: their class and, of those of this package, their sizes."""
    kind = type(discriminators)
    sizes = discriminators.sizes if isinstance(discriminators, Discriminators) else {}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": sizes}


def save_discriminators(folder: Path, discriminators: nn.Module, write: bool = True) -> None:
    """Write the weights of discriminators into a folder; each file appears whole or not at all.

    write: whether this process writes; all take part, because this is where shards are put together.
    """
    state = {name: _whole(value) for name, value in discriminators.state_dict().items()}
    if not write:
        return
    write_weights(folder / WEIGHTS, state)
    write_json(folder / ABOUT, describe(discriminators))


def load_discriminators(folder: str | Path, discriminators: nn.Module) -> None:
    """Give discriminators the weights that `save_discriminators` wrote.

    Raises MimoError when they are not there, damaged, or of another class or other sizes.
    """
    folder = Path(folder)
    where = folder / WEIGHTS
    require(where.is_file(), f"discriminators_from: {folder} has no {WEIGHTS}; stage 2 writes it beside its codec")
    found, wanted = read_json(folder / ABOUT), describe(discriminators)
    require(isinstance(found, Mapping), f"{folder / ABOUT}: is not a JSON object")
    own = discriminators.state_dict()
    state: dict[str, Tensor] = {}
    unreadable = wrap_errors(f"{where}: not a readable safetensors file", SafetensorError, OSError)
    with unreadable, safe_open(where, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        fits = shapes == {name: tuple(value.shape) for name, value in own.items()}
        require(fits, f"{where}: {_difference(found, wanted, shapes.keys(), own.keys())}")
        state = {name: file.get_tensor(name) for name in shapes}
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    require(not bad, f"{where}: damaged: NaN or infinite values in {', '.join(bad[:9])}")
    with torch.no_grad():
        discriminators.load_state_dict(state)


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], names: Any, own: Any) -> str:
    """Say how the discriminators of a file differ from those that the options describe."""
    if found.get("class_path") != wanted["class_path"]:
        return f"are the weights of {found.get('class_path')}, not of {wanted['class_path']}"
    sizes = found.get("init_args")
    sizes = sizes if isinstance(sizes, Mapping) else {}
    other = [f"{name} {value}" for name, value in sizes.items() if value != wanted["init_args"].get(name)]
    if other:
        return f"the discriminators have other sizes: set {', '.join(other)}"
    other = sorted(own ^ names)[:9]
    return f"the weights do not fit the discriminators ({', '.join(other) or 'other shapes'})"


def _whole(value: Tensor) -> Tensor:
    """A tensor that may be sharded -> all of it, on the CPU."""
    whole: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole.detach().cpu().contiguous()
