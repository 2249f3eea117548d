"""A checkpoint of a run in a quarter of its size, to go on with the run on another machine.

    python recipes/carry_run.py pack runs/nano_stage1/checkpoints/last.ckpt carried
    python recipes/carry_run.py unpack carried runs/nano_stage1/checkpoints/last.ckpt

Weights are stored with 16 bits, and averages of squared gradients too; averages of gradients begin anew at zero, which
they forget within some fifty steps. Everything else, such as the order of the data and the schedule, is kept exactly.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mimo_codec.common.files import write_json
from mimo_codec.common.weights import write_weights
from mimo_codec.train.checkpoints import WholeCheckpoints, read_checkpoint

FORGOTTEN = ("momentum_buffer", "exp_avg")
SMALL = 4096
"""Tensors of so few values keep their type."""


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a part of a checkpoint into JSON; tensors go into `tensors` by their names."""
    if isinstance(value, Tensor):
        if name.rpartition("/")[2] in FORGOTTEN:
            return {"zeros": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        narrow = torch.bfloat16 if name.endswith("exp_avg_sq") else torch.float16
        is_large = value.dtype == torch.float32 and value.numel() > SMALL
        tensors[name] = (value.to(narrow) if is_large else value).contiguous()
        return {"tensor": name, "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, dict):
        return {"items": [[key, pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise SystemExit(f"{name}: a {type(value).__name__} cannot be carried")


def unpack(packed: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Undo `pack`."""
    if "zeros" in packed:
        return torch.zeros(packed["zeros"], dtype=getattr(torch, packed["dtype"]))
    if "tensor" in packed:
        return tensors[packed["tensor"]].to(getattr(torch, packed["dtype"]))
    if "items" in packed:
        return {key: unpack(item, tensors) for key, item in packed["items"]}
    for kind in (list, tuple):
        if kind.__name__ in packed:
            return kind(unpack(item, tensors) for item in packed[kind.__name__])
    return packed["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    if options.action == "pack":
        tensors: dict[str, Tensor] = {}
        packed = pack(read_checkpoint(options.source), "", tensors)
        options.target.mkdir(parents=True, exist_ok=True)
        write_weights(options.target / "run.safetensors", {name: value.clone() for name, value in tensors.items()})
        write_json(options.target / "run.json", packed)
    else:
        packed = json.loads((options.source / "run.json").read_text(encoding="utf-8"))
        options.target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = unpack(packed, load_file(options.source / "run.safetensors"))
        WholeCheckpoints().save_checkpoint(checkpoint, options.target)


if __name__ == "__main__":
    main()
