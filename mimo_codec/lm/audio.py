"""Audio that callers give to a language model, in whatever form, as codes of its codec. Torch is not needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.files import audio_info
from mimo_codec.audio.sources import AnyAudio, AnyPath, as_source
from mimo_codec.codes import AudioCodes, begins_as_codes
from mimo_codec.common.arrays import is_array, to_numpy
from mimo_codec.common.checks import is_number, require
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.config import FRAME_RATE, SAMPLE_RATE, LMConfig
from mimo_codec.lm.layout import Codes, Layout

if TYPE_CHECKING:
    from mimo_codec.codec.base import Codec

SpeechCodec: TypeAlias = "Codec[Any]"
"""The codec that a language model listens and speaks with, of either backend."""
Audio: TypeAlias = "AnyAudio | AudioCodes"
"""A file of sound or codes, codes, or a waveform with its sample rate: (waveform, Hz). Bare arrays are codes [Q, T]."""
MIN_VOICE_SECONDS = 0.2
"""Shortest sample of a voice."""


class AudioReader:
    """Turns audio in any form of `Audio` into the codes that a language model reads."""

    def __init__(self, config: LMConfig, layout: Layout, codec: SpeechCodec | None, attach_codec: str):
        """Check that the codec is the one whose codes the model reads, or raise MimoError.

        Args:
            config: of the language model.
            layout: of its grids.
            codec: encodes files and waveforms; with None only codes can be read.
            attach_codec: how to get a model with a codec, for the error that says so.
        """
        self.config, self.layout, self.codec, self.attach_codec = config, layout, codec, attach_codec
        if codec is not None:
            self._check_codec(codec)

    def _check_codec(self, codec: SpeechCodec) -> None:
        wanted, sizes = self.config.codebook_sizes, tuple(codec.codebook_sizes[: self.config.audio_channels])
        fits = (sizes, codec.frame_rate, codec.sample_rate) == (wanted, FRAME_RATE, SAMPLE_RATE)
        require(
            fits,
            f"codec: {codec.model_id.rpartition('@')[0]} has codebooks of {list(sizes)} at {codec.frame_rate:g} Hz;"
            f" this language model reads {list(wanted)} at {FRAME_RATE:g} Hz",
        )
        recorded = self.config.codec
        message = f"codec: {codec.model_id} is not the one whose codes this model reads, {recorded}"
        require(_same_codec(codec.model_id, recorded), message)

    def encode(self, audio: Audio, where: str = "audio") -> AudioCodes | NDArray[Any]:
        """Encode audio by the codec that is attached; codes are returned as they are.

        Raises MimoError, which calls it `where`, for audio that cannot be read or is longer than the context, and for
        codes of another codec.
        """
        if isinstance(audio, AudioCodes):
            return self._check_codes(audio, where)
        if isinstance(audio, list):  # codes, as JSON has them
            try:
                audio = np.asarray(audio)
            except ValueError:  # numpy says it in several sentences
                raise MimoError(f"{where}: codes must be rows of one length, one for each codebook") from None
        source, rate = as_source(audio, None, where)
        if isinstance(source, (str, os.PathLike)):
            return self._encode_file(source, where)
        need = "a file, codes or a waveform with its sample rate, (waveform, Hz), is needed"
        require(is_array(source), f"{where}: is a {type(source).__name__}; {need}")
        if rate is None:
            array = to_numpy(source)
            is_code = array.dtype.kind != "f"
            require(is_code, f"{where}: a waveform needs its sample rate, (waveform, Hz); bare arrays are codes")
            return array
        codec = self._require_codec(where)
        self._check_seconds(tuple(source.shape)[-1:], rate, where)
        return codec.encode(source, rate, num_quantizers=self.config.audio_channels)

    def _encode_file(self, path: AnyPath, where: str) -> AudioCodes:
        if str(path).lower().endswith(".mimo") or begins_as_codes(path):
            return self._check_codes(AudioCodes.load(path), where)
        codec, info = self._require_codec(where), audio_info(path)
        self._check_seconds((info.num_samples or 0,), info.sample_rate, where)
        return codec.encode(path, num_quantizers=self.config.audio_channels)

    def _require_codec(self, where: str) -> SpeechCodec:
        if self.codec is None:
            raise MimoError(f"{where}: only codes can be read without a codec: {self.attach_codec}")
        return self.codec

    def _check_codes(self, codes: AudioCodes, where: str) -> AudioCodes:
        reads = self.config.codec if self.codec is None else self.codec.model_id
        message = f"{where}: codes of {codes.model}; this model's codec is {reads}"
        require(_same_codec(codes.model, reads), message)
        return codes

    def _check_seconds(self, num_samples: tuple[int, ...], sample_rate: object, where: str) -> None:
        """Refuse audio that cannot fit into the context, before it is encoded; the codec checks the values."""
        if not num_samples or not is_number(sample_rate) or sample_rate <= 0:
            return
        positions = self.config.max_position_embeddings
        seconds, most = num_samples[0] / sample_rate, positions * self.config.group_size / FRAME_RATE
        excess = f"{seconds:.0f} s of audio, {seconds - most:.0f} more than the context of {positions} positions holds"
        require(seconds <= most, f"{where}: {excess}")

    def codes(self, audio: Audio, where: str = "audio") -> Codes:
        """Read audio as codes [C, T]; MimoError for what `encode` refuses, and for codes of another shape or range."""
        return self.layout.check_codes(self.encode(audio, where), where)

    def patches(self, audio: Audio, where: str = "audio") -> Codes:
        """Read audio as codes [C, T] of whole patches; frames after the last of them are left out."""
        codes = self.codes(audio, where)
        whole = codes.shape[1] // self.layout.group_size * self.layout.group_size
        require(whole, f"{where}: shorter than a patch of {self.layout.group_size / FRAME_RATE} s")
        return codes[:, :whole]

    def voice(self, audio: Audio, where: str = "voice") -> Codes:
        """Read a sample of a voice as codes [C, T]; MimoError when it is too short to show the voice."""
        encoded = self.encode(audio, where)
        codes = self.layout.check_codes(encoded, where)
        seconds = encoded.duration if isinstance(encoded, AudioCodes) else codes.shape[1] / FRAME_RATE
        long_enough = seconds >= MIN_VOICE_SECONDS
        require(long_enough, f"{where}: {seconds:.2f} s is too short for a sample; at least {MIN_VOICE_SECONDS} s")
        return codes


def _same_codec(model_id: str | None, recorded: str | None) -> bool:
    """Whether two names "name@fingerprint" can be of one codec: unless both have a fingerprint nothing contradicts."""
    if not model_id or not recorded or "@" not in recorded:
        return True
    return model_id.rpartition("@")[2] == recorded.rpartition("@")[2]
