"""CodecFacts: what a codec is, whatever computes it: its rates, codebooks and latencies. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.streaming import mel_look_ahead
from mimo_codec.common.checks import check_count
from mimo_codec.common.errors import MimoError

NUM_QUANTIZERS = 8
"""Codebooks that are used unless another number is asked for: those of the published language model."""


class CodecFacts(ABC):
    """What `MimoCodec` and `OnnxCodec` say of themselves."""

    config: CodecConfig
    name: str

    # ---- what a backend says -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Mark of the codes of this model: "name@fingerprint", where the fingerprint names its codebooks."""

    @property
    @abstractmethod
    def num_quantizers(self) -> int:
        """Number of codebooks."""

    @property
    @abstractmethod
    def decode_delay(self) -> int | None:
        """Samples by which the output of `decode_chunk` lags behind its input; None without a decoder."""

    @property
    @abstractmethod
    def encodes_streams(self) -> bool:
        """Whether `encode_chunk` is possible: it needs a causal encoder."""

    @property
    @abstractmethod
    def decodes_streams(self) -> bool:
        """Whether `decode_chunk` is possible: it needs a decoder that sees a limited future."""

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms it works on."""
        return self.config.mel.sample_rate

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.config.frame_rate

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of entries of each codebook."""
        return self.config.codebook_sizes[: self.num_quantizers]

    @property
    def encode_latency(self) -> float:
        """Seconds from the first sample of a frame to its code: the frame itself and the front end's look-ahead.

        Codecs that do not encode streams need a whole segment (`segment_seconds`).
        """
        c = self.config
        if not self.encodes_streams:
            return float(c.segment_seconds or 0)
        look_ahead = (mel_look_ahead(c.encoder.stride) - 1) * c.mel.hop_length + c.mel.n_fft // 2
        return (c.samples_per_frame + look_ahead) / self.sample_rate

    @property
    def decode_latency(self) -> float:
        """Seconds from the start of a code frame to the last of its samples that `decode_chunk` can return at once.

        These are the frame itself, the vocoder's look-ahead and the overlap of the inverse STFT. Raises MimoError
        without a decoder.
        """
        return (self.config.samples_per_frame + self._delay()) / self.sample_rate

    def check_num_quantizers(self, num_quantizers: int | None) -> int:
        """The number of codebooks that is meant: None for 8, or all there are if fewer; MimoError for too many."""
        if num_quantizers is None:
            return min(NUM_QUANTIZERS, self.num_quantizers)
        check_count(num_quantizers, self.num_quantizers)
        return int(num_quantizers)

    def check_decodes(self) -> None:
        """MimoError for a model that has no decoder."""
        self._delay()

    def _delay(self) -> int:
        if (delay := self.decode_delay) is None:
            raise MimoError(f"{self.name}: this model is an encoder only, without a decoder: it cannot decode")
        return delay
