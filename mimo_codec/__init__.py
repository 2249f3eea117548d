"""mimo-codec: MiMo-Audio-Tokenizer, a neural speech codec at 25 frames and 1.55 kbit/s, on any device.

    codec = MimoCodec.from_pretrained("nano")
    codes = codec.encode("speech.wav")         # AudioCodes, [8, T]
    waveform = codec.decode(codes)             # [S] at 24 kHz

Symbols, everywhere in this package: B batch, S samples, M mel frames (100 Hz), T code frames (25 Hz), Q codebooks,
D width. The folders are rooms, each of which may use those before it: common; audio, bitstream, hub; codes; codec; data
and metrics; train and evaluation. lm and onnx stand on codes and codec, loading on codec and onnx, cli and benchmarks
on all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_codec.common.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mimo_codec.audio.files import load_audio, save_audio
    from mimo_codec.audio.resampling import resample
    from mimo_codec.codec.config import CodecConfig
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.codes import AudioCodes
    from mimo_codec.common.errors import MimoError
    from mimo_codec.loading import load_codec

_HOMES = {
    "AudioCodes": "codes",
    "CodecConfig": "codec.config",
    "MimoCodec": "codec.model",
    "MimoError": "common.errors",
    "load_audio": "audio.files",
    "load_codec": "loading",
    "resample": "audio.resampling",
    "save_audio": "audio.files",
}
__all__ = ["AudioCodes", "CodecConfig", "MimoCodec", "MimoError", "load_audio", "load_codec", "resample", "save_audio"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
