"""The codec and the language model as ONNX graphs, and ONNX Runtime to run them without torch.

    codec = OnnxCodec("nano-onnx")              # written by: mimo-codec export codec nano -o nano-onnx
    waveform = codec.decode(codec.encode("speech.wav"))

graphs (torch modules that export) -> export -> check; recording -> session -> runtime, which need numpy and
onnxruntime only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_codec.lazy import lazy_names

if TYPE_CHECKING:
    from mimo_codec.onnx.lm_runtime import OnnxAudioLM
    from mimo_codec.onnx.runtime import OnnxCodec

_HOMES = {"OnnxAudioLM": "lm_runtime", "OnnxCodec": "runtime"}
__all__ = ["OnnxAudioLM", "OnnxCodec"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
