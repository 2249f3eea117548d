"""Export of a MimoAudioLM as a folder of ONNX files."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimo_codec import __version__
from mimo_codec.common.checks import check_choice, check_integer, require
from mimo_codec.common.files import atomic_path, write_json
from mimo_codec.hub import CONFIG
from mimo_codec.lm.instructions import PROMPTS
from mimo_codec.lm.pipeline import MimoAudioLM
from mimo_codec.onnx.codec.export import OPSET, Check, Graph, new_folder, require_exporter, write_graph
from mimo_codec.onnx.lm.graphs import BackboneGraph, PatchStepGraph, State
from mimo_codec.onnx.nbits import pack_products
from mimo_codec.onnx.session import PAST

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int4": torch.float32}
"""Types that can be asked for, and the type of what is not quantized."""
QUANTIZED = "stack.layers."
"""Scope of the matrices of 4 bits: embeddings, heads and the patch encoder decide too much for their size."""


def export_lm(
    lm: MimoAudioLM,
    folder: str | Path,
    *,
    dtype: str = "float32",
    opset: int = OPSET,
    overwrite: bool = False,
    check: Check | None = None,
) -> list[Path]:
    """Write backbone.onnx and patch_step.onnx, and what is needed beside them: tokenizer, config and instructions.

    Weights are converted one at a time.

    Args:
        lm: the model.
        folder: to write.
        dtype: float32; float16, sums, norms and softmax still in float32; or int4: weights of the backbone's layers of
            4 bits, each block of 32 with a scale and a zero point, everything else float32.
        opset: of ONNX.
        overwrite: replace an export that exists.
        check: gets the folder before anything shows at its place; what it raises leaves nothing behind.

    Returns:
        The files.

    Raises:
        MimoError: for an existing folder without `overwrite`, for bad values, and for models whose weights are
            quantized or not in memory.
    """
    require_exporter()
    folder = Path(folder)
    check_integer("opset", opset, 18, 25)
    check_choice("dtype", dtype, DTYPES)
    in_memory = not lm.model.is_quantized and not any(parameter.is_meta for parameter in lm.model.parameters())
    need = "load the model without quantize, device_map"
    require(in_memory, f"export: the weights are quantized or not in memory; {need}")
    with new_folder(folder, overwrite, GRAPHS) as temporary:
        metadata = describe(lm, dtype)
        for name, make in GRAPHS.items():
            packed = QUANTIZED if dtype == "int4" and name == "backbone" else None
            graph, weights = _converted(make(lm, DTYPES[dtype]), DTYPES[dtype], packed)
            path = temporary / f"{name}.onnx"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of names of sizes, which several inputs share
                fill = partial(_fill, weights=weights, packed=packed)
                write_graph(graph, path, {"graph": name, **metadata}, opset, fill)
            del graph, weights, fill
        write_json(temporary / CONFIG, lm.config.to_dict())
        lm.instructions.save(temporary / PROMPTS)
        with atomic_path(temporary / "tokenizer.json") as file:
            file.write_text(lm.tokenizer.tokenizer.to_str(), encoding="utf-8")
        if check is not None:
            check(temporary)
        names = sorted(path.name for path in temporary.iterdir())
    return [folder / name for name in names]


def describe(lm: MimoAudioLM, dtype: str) -> dict[str, Any]:
    """Return what every file says of itself; `export_id` tells which files belong together."""
    digest = hashlib.sha256(json.dumps([dtype, lm.config.to_dict()]).encode())
    for name, value in lm.model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "version": __version__,
        "export_id": digest.hexdigest()[:16],
        "config": lm.config.to_dict(),
        "dtype": dtype,
        "graphs": list(GRAPHS),
        "licence": lm.config.extra.get("license", "that of the weights"),
    }


# ---- graphs ----------------------------------------------------------------------------------------------------------


def _backbone(lm: MimoAudioLM, dtype: torch.dtype) -> Graph:
    module, c = BackboneGraph(lm.model), lm.config
    patches = torch.zeros(2, 3, c.audio_channels, c.group_size, dtype=torch.int64)
    inputs = {"tokens": patches[:, :, 0, 0].clone(), "patches": patches, "pads": torch.tensor([0, 1])}
    batch, new = "batch", "new"
    free = {"tokens": {0: batch, 1: new}, "patches": {0: batch, 1: new}, "pads": {0: batch}}
    state = module.initial_state(2, 5, dtype)
    return Graph(module, {**inputs, "state": state}, {**free, "state": _free(state)}, ("logits", "seeds"))


def _patch_step(lm: MimoAudioLM, dtype: torch.dtype) -> Graph:
    module, c = PatchStepGraph(lm.model), lm.config
    inputs = {"seeds": torch.zeros(2, c.local_dim), "codes": torch.zeros(2, c.audio_channels, dtype=torch.int64)}
    free = {"seeds": {0: "batch"}, "codes": {0: "batch"}}
    state = module.initial_state(2, 5, dtype)
    return Graph(module, {**inputs, "state": state}, {**free, "state": _free(state)}, ("logits",))


def _free(state: State) -> dict[str, Any]:
    return {name: {0: "batch", 2: PAST} for name in state}


GRAPHS: Mapping[str, Callable[[MimoAudioLM, torch.dtype], Graph]] = {"backbone": _backbone, "patch_step": _patch_step}


# ---- weights ---------------------------------------------------------------------------------------------------------


def _converted(graph: Graph, dtype: torch.dtype, packed: str | None) -> tuple[Graph, dict[str, Tensor]]:
    """Give the graph weights of another type, on the CPU, without ever making a copy of the model.

    Of matrices to convert, or (below scope `packed`) to pack, it holds type and shape only; the originals, by name, are
    returned beside it.
    """
    waiting = {}
    for name, parameter in list(graph.module.named_parameters()):
        ready = parameter.dtype == dtype and parameter.device.type == "cpu" and not _is_packed(name, parameter, packed)
        if name.endswith("norm.weight") or ready:
            replaced = parameter.detach().cpu()
        elif parameter.ndim < 2:
            replaced = parameter.detach().to("cpu", dtype)
        else:
            waiting[name] = parameter.detach()
            number = torch.tensor(1 / len(waiting), dtype=dtype)  # of each another, lest they be taken for one
            replaced = number.expand(parameter.shape)
        owner, _, leaf = name.rpartition(".")
        setattr(graph.module.get_submodule(owner), leaf, nn.Parameter(replaced, requires_grad=False))
    return graph, waiting


def _is_packed(name: str, weight: Tensor, scope: str | None) -> bool:
    return scope is not None and name.startswith(scope) and weight.ndim == 2


def _fill(model: Any, weights: Mapping[str, Tensor], packed: str | None) -> None:
    """Put the weights of `_converted` into a traced model; they are converted one at a time when it is written."""
    import onnx_ir

    small = {name: source for name, source in weights.items() if _is_packed(name, source, packed)}
    pack_products(model, small)
    for name in weights.keys() - small.keys():
        value = model.graph.initializers[name]
        kind, shape = value.const_value.dtype, value.const_value.shape

        def converted(source: Tensor = weights[name], kind: Any = kind) -> Any:
            dtype = torch.float16 if kind == onnx_ir.DataType.FLOAT16 else torch.float32
            return onnx_ir.tensor(source.to("cpu", dtype).contiguous().numpy())

        value.const_value = onnx_ir.LazyTensor(converted, dtype=kind, shape=shape, name=name)
