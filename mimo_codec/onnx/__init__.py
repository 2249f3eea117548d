"""The codec and the language model as ONNX graphs, and ONNX Runtime to run them without torch.

    codec = OnnxCodec("nano-onnx")              # written by: mimo-codec export codec nano -o nano-onnx
    waveform = codec.decode(codec.encode("speech.wav"))

In `codec/` and in `lm/`: graphs (torch modules that export) -> export -> check, and runtime, which needs numpy and
onnxruntime only, as do session and cuda_graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_codec.common.lazy import lazy_names

if TYPE_CHECKING:
    from mimo_codec.onnx.codec.runtime import OnnxCodec
    from mimo_codec.onnx.lm.runtime import OnnxAudioLM

_HOMES = {"OnnxAudioLM": "lm.runtime", "OnnxCodec": "codec.runtime"}
__all__ = ["OnnxAudioLM", "OnnxCodec"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
