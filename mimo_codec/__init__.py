"""mimo-codec: MiMo-Audio-Tokenizer, a neural speech codec at 25 frames and 1.55 kbit/s, on any device.

    codec = MimoCodec.from_pretrained("nano")
    codes = codec.encode("speech.wav")         # AudioCodes, [8, T]
    waveform = codec.decode(codes)             # [S] at 24 kHz

Symbols, everywhere in this package: B batch, S samples, M mel frames (100 Hz), T code frames (25 Hz), Q codebooks,
D width. The files are the data flow: audio -> mel -> encoder -> quantizer -> codes -> decoder -> vocoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimo_codec.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mimo_codec.audio import load_audio, save_audio
    from mimo_codec.codec import MimoCodec
    from mimo_codec.codes import AudioCodes
    from mimo_codec.config import CodecConfig
    from mimo_codec.errors import MimoError
    from mimo_codec.resampling import resample

_HOMES = {
    "AudioCodes": "codes",
    "CodecConfig": "config",
    "MimoCodec": "codec",
    "MimoError": "errors",
    "load_audio": "audio",
    "resample": "resampling",
    "save_audio": "audio",
}
__all__ = ["AudioCodes", "CodecConfig", "MimoCodec", "MimoError", "load_audio", "resample", "save_audio"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
