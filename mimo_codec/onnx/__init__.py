"""The codec and the language model as ONNX graphs, and ONNX Runtime to run them without torch.

    codec = OnnxCodec("nano-onnx")              # written by: mimo-codec export codec nano -o nano-onnx
    waveform = codec.decode(codec.encode("speech.wav"))

graphs (torch modules that export) -> export -> check; session -> runtime, which needs numpy and onnxruntime only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimo_codec.onnx.lm_runtime import OnnxAudioLM
    from mimo_codec.onnx.runtime import OnnxCodec

_HOMES = {"OnnxAudioLM": "lm_runtime", "OnnxCodec": "runtime"}
__all__ = ["OnnxAudioLM", "OnnxCodec"]


def __getattr__(name: str) -> Any:
    """Imported on first use: exporting needs no ONNX Runtime, running needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
