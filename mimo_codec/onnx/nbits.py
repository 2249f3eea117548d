"""Matrices of 4 bits: products of a traced graph become MatMulNBits of ONNX Runtime, packed from torch's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.common.rounding import ceil_div

BITS = 4
BLOCK_SIZE = 32
"""Inputs of an output that share a scale and a zero point."""
INT8_PRODUCTS = 4
"""MatMulNBits' accuracy level: inputs are rounded to 8 bits where the provider has such a kernel."""
DOMAIN = "com.microsoft"


def pack(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[out, in] -> entries uint8 [out, blocks, 16], scales float32 [out * blocks], zero points uint8 [out * ...].

    Two entries share a byte, the first in its low half; a weight is (entry - zero point) * scale of its block.
    """
    padded = F.pad(weight.float(), (0, -weight.shape[1] % BLOCK_SIZE))
    blocks = padded.unflatten(1, (-1, BLOCK_SIZE))
    low, high = blocks.amin(2, keepdim=True).clamp(max=0), blocks.amax(2, keepdim=True).clamp(min=0)
    scales = (high - low) / (2**BITS - 1)
    scales = torch.where(scales > 0, scales, 1.0)
    zeros = (-low / scales).round()
    entries = (blocks / scales + zeros).round().clamp(0, 2**BITS - 1)
    return _bytes(entries), scales.flatten(), _bytes(zeros[..., 0]).flatten()


def _bytes(entries: Tensor) -> Tensor:
    """Pack numbers [..., n] of 0..15 -> uint8 [..., ceil(n / 2)]."""
    low, high = F.pad(entries.to(torch.uint8), (0, entries.shape[-1] % 2)).unflatten(-1, (-1, 2)).unbind(-1)
    return low | high << BITS


def pack_products(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Let products with the weights of these names, [in, out] each, be of 4 bits; packed when the model is written."""
    import onnx_ir as ir

    graph = model.graph
    model.opset_imports[DOMAIN] = 1
    for name, weight in weights.items():
        [(node, _)] = graph.initializers[name].uses()
        (num_in, num_out), packed = weight.shape, []
        num_blocks = ceil_div(num_in, BLOCK_SIZE)
        shapes = (num_out, num_blocks, BLOCK_SIZE // 2), (num_out * num_blocks,), (num_out * ceil_div(num_blocks, 2),)
        for i, (part, shape) in enumerate(zip(("entries", "scales", "zeros"), shapes, strict=True)):
            kind = ir.DataType.FLOAT if part == "scales" else ir.DataType.UINT8

            def part_of(weight: Tensor = weight, i: int = i) -> Any:
                return ir.tensor(pack(weight.T.cpu())[i].numpy())

            tensor = ir.LazyTensor(part_of, dtype=kind, shape=ir.Shape(shape), name=f"{name}.{part}")
            packed.append(ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(kind), const_value=tensor))
            graph.register_initializer(packed[-1])
        sizes = {"K": num_in, "N": num_out, "bits": BITS, "block_size": BLOCK_SIZE, "accuracy_level": INT8_PRODUCTS}
        product = ir.node("MatMulNBits", [node.inputs[0], *packed], sizes, domain=DOMAIN, name=node.name)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [product], node.outputs, product.outputs)
        del graph.initializers[name]
