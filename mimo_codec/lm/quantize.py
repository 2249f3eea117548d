"""Weights of 8 or 4 bits for the linear layers of the transformers, by torchao."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mimo_codec.common.checks import check_choice, needs_extra, require
from mimo_codec.common.errors import MimoError

KINDS = ("int8", "int4")
STACKS = ("model.layers.", "local_transformer.layers.", "input_local_transformer.layers.")
"""What is quantized; embeddings and heads are read one row at a time, or decide the tokens."""


def find_quantizer(kind: str | None) -> Callable[[nn.Module, torch.device], None] | None:
    """Return a function that quantizes a model to "int8" or "int4" and moves it, layer by layer; None for None.

    Raises MimoError for other kinds, and without torchao; from the function, where int4 has no kernel (it needs CUDA).
    """
    if kind is None:
        return None
    check_choice("quantize", kind, KINDS)
    with needs_extra("torchao", "lm,quantize"):
        from torchao import quantization
    config: Any = quantization.Int8WeightOnlyConfig() if kind == "int8" else _int4(quantization.Int4WeightOnlyConfig)

    def quantize(model: nn.Module, device: torch.device) -> None:
        works = kind != "int4" or device.type == "cuda"
        require(works, f"quantize: int4 needs a CUDA device, not {device}; int8 works here")

        def wanted(module: nn.Module, name: str) -> bool:
            return isinstance(module, nn.Linear) and name.startswith(STACKS)

        try:
            quantization.quantize_(model, config, filter_fn=wanted, device=device)
        except torch.OutOfMemoryError:
            raise
        except (ImportError, RuntimeError, NotImplementedError, AssertionError, ValueError) as error:
            raise MimoError(f"quantize: {kind} does not work on {device} ({_first_line(error)})") from None

    return quantize


def _int4(config: Callable[..., object]) -> object:
    """Make a configuration whose weights are packed for the kernel that comes with torch.

    The default of newer versions of torchao needs another package.
    """
    named = "int4_packing_format" in inspect.signature(config).parameters
    return config(int4_packing_format="tile_packed_to_4d", version=2) if named else config()


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
