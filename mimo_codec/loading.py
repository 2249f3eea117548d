"""Names -> codecs, by PyTorch or by ONNX Runtime, whichever a name means. Nothing of either is imported before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_codec.common.errors import MimoError

if TYPE_CHECKING:
    import torch

    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.onnx.codec.runtime import OnnxCodec


def load_codec(
    name_or_path: str | Path = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
) -> MimoCodec | OnnxCodec:
    """The codec of a name, ready to use: both kinds have the methods of `mimo_codec.codec.base.Codec`.

    name_or_path: a folder of ONNX graphs, which gives an OnnxCodec; or a shipped name ("nano"), a folder with
    config.json and safetensors, or a Hugging Face hub id, which give a MimoCodec. device: such as "cpu" or "cuda:1";
    None for CUDA where there is one. dtype, revision: see `MimoCodec.from_pretrained`; those of an exported codec were
    chosen when it was exported. Raises MimoError for what cannot be found or loaded.
    """
    if not is_export(name_or_path):
        from mimo_codec.codec.model import MimoCodec

        return MimoCodec.from_pretrained(name_or_path, device=device, dtype=dtype, revision=revision)
    if dtype is not None or revision is not None:
        raise MimoError(f"{name_or_path}: dtype and revision are chosen when a model is exported")
    from mimo_codec.onnx.codec.runtime import OnnxCodec
    from mimo_codec.onnx.session import device_provider

    return OnnxCodec(os.path.expanduser(name_or_path), None if device is None else [device_provider(str(device))])


def is_export(name_or_path: str | Path) -> bool:
    """Whether this is a folder that `mimo-codec export codec` wrote."""
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path):
        return False
    return os.path.isfile(os.path.join(os.path.expanduser(name_or_path), "encoder.onnx"))
