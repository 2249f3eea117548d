"""CodecConfig: what a codec is made of, and the released `config.json` that it reads and writes.

The released file is one flat dictionary; here it is a nested frozen dataclass. Every field names the flat key it
comes from, and its default is what the released implementation assumes when a file leaves the key out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mimo_codec.codec.choices import (
    QUANTIZERS,
    VOCODERS,
    QuantizerConfig,
    ResidualVQConfig,
    Table,
    TransformerVocoderConfig,
    VocoderConfig,
    check_heads,
    choice,
    kind_of,
)
from mimo_codec.codec.keys import (
    ARCHITECTURE,
    FLAG,
    MAX_FFT,
    MAX_LAYERS,
    MAX_MELS,
    MAX_NUMBER,
    MODEL_TYPE,
    SAMPLE_RATE,
    WINDOW,
    Rule,
    Section,
    Window,
    integer,
    is_integer,
    is_number,
    key,
    one_of,
    plain,
    require_value,
)
from mimo_codec.codec.presets import PRESETS
from mimo_codec.codec.streaming import code_frames
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json

MAX_SEGMENT = 3600
"""Seconds; a segment is in memory at once."""


@dataclass(frozen=True)
class MelConfig(Section):
    """Log-mel front end and, with the same frames, the vocoder's inverse STFT."""

    sample_rate: int = key("sampling_rate", 24000, "samples per second of the waveform", SAMPLE_RATE)
    n_fft: int = key("nfft", 1024, "FFT size in samples", integer(MAX_FFT))
    window_size: int = key("window_size", 1024, "analysis window in samples, at most n_fft", integer())
    hop_length: int = key("hop_length", 240, "samples between mel frames", integer())
    n_mels: int = key("n_mels", 80, "mel bands", integer(MAX_MELS))
    fmin: float = key("fmin", 0, "lowest band edge in Hz")
    fmax: float | None = key("fmax", None, "highest band edge in Hz; null: half the sample rate")

    def __post_init__(self) -> None:
        """Check each field, and what concerns several."""
        super().__post_init__()
        require_value(self.n_fft % 2 == 0, "nfft", self.n_fft, "an even number")
        require_value(self.window_size <= self.n_fft, "window_size", self.window_size, "at most nfft")
        require_value(self.hop_length < self.n_fft // 2, "hop_length", self.hop_length, "below nfft / 2")
        even = (self.n_fft - self.hop_length) % 2 == 0
        require_value(even, "hop_length", self.hop_length, "nfft - hop_length must be even")
        nyquist = self.sample_rate / 2
        fmax = nyquist if self.fmax is None else self.fmax
        for name, value in (("fmin", self.fmin), ("fmax", fmax)):
            require_value(is_number(value, 0, nyquist), name, value, f"0 to {nyquist:g} Hz")
        require_value(self.fmin < fmax, "fmin", self.fmin, "below fmax")


@dataclass(frozen=True)
class EncoderConfig(Section):
    """Mel -> features: two convolutions, Transformer layers, pooling convolution."""

    num_layers: int = key("encoder_layers", 8, "Transformer layers", integer(MAX_LAYERS))
    num_heads: int = key("encoder_attention_heads", 12, "attention heads", integer())
    ffn_dim: int = key("encoder_ffn_dim", 3072, "hidden width of the feed-forward layers", integer())
    skip_layer: int | None = key("encoder_skip_layer_id", None, "its output is added to the last layer's; null: none")
    causal: bool = key("encoder_causal", False, "attention sees no later frames", FLAG)
    window: Window = key("encoder_attn_window_size", (-1, -1), "attention window [left, right] in frames", WINDOW)
    hybrid: bool = key("hybrid_attention", False, "windowed and full layers alternate", FLAG)
    hybrid_period: int = key(
        "swa_per_block", 1, "layer i is full when i % period == period - 1 (hybrid only)", integer()
    )
    kernel_size: int = key("kernel_size", 3, "of both convolutions", one_of(3))
    stride: int = key("stride_size", 2, "mel frames per Transformer frame", one_of(1, 2))
    pool: int = key("avg_pooler", 1, "Transformer frames per code frame; 1: no pooling convolution", integer())

    def __post_init__(self) -> None:
        """Check each field, and what concerns several."""
        super().__post_init__()
        ok = self.skip_layer is None or is_integer(self.skip_layer, 1, self.num_layers)
        require_value(ok, "encoder_skip_layer_id", self.skip_layer, "null or 1..encoder_layers")

    def layer_windows(self) -> tuple[Window, ...]:
        """The effective [left, right] window of each layer, causality and hybrid pattern applied."""
        full = (-1, 0) if self.causal else (-1, -1)
        windowed = (self.window[0], 0 if self.causal else self.window[1])
        last = self.hybrid_period - 1
        is_full = [self.hybrid and i % self.hybrid_period == last for i in range(self.num_layers)]
        return tuple(full if f else windowed for f in is_full)


@dataclass(frozen=True)
class DecoderConfig(Section):
    """Quantized -> coarse mel: transposed convolutions around Transformer layers."""

    num_layers: int = key("decoder_layers", 8, "Transformer layers", integer(MAX_LAYERS))
    num_heads: int = key("decoder_attention_heads", 12, "attention heads", integer())
    ffn_dim: int = key("decoder_ffn_dim", 3072, "hidden width of the feed-forward layers", integer())
    causal: bool = key("decoder_causal", True, "attention sees no later frames", FLAG)
    window: Window = key("decoder_attn_window_size", (-1, -1), "attention window [left, right] in frames", WINDOW)
    kernel_size: int = key("decoder_kernel_size", 3, "of the last transposed convolution", integer())
    stride: int = key("decoder_stride_size", 2, "mel frames per Transformer frame", integer())
    conv_norm: str = key(
        "decoder_conv_norm",
        "group",
        "after the transposed convolutions: 'group', one group over channels and time of the whole sequence"
        " (released models), or 'frame', over the channels of each frame (streams exactly)",
        one_of("group", "frame"),
    )

    def __post_init__(self) -> None:
        """Check each field, and what concerns several."""
        super().__post_init__()
        ok = self.stride <= self.kernel_size <= 2 * self.stride
        require_value(ok, "decoder_kernel_size", self.kernel_size, "between one and two strides")

    def layer_windows(self) -> tuple[Window, ...]:
        """The effective [left, right] window of each layer, causality applied."""
        return ((self.window[0], 0 if self.causal else self.window[1]),) * self.num_layers


@dataclass(frozen=True)
class CodecConfig(Section):
    """A whole codec: shared widths and conventions, and one section per stage.

    `source` is the dictionary the configuration was read from: keys unknown here live on in it and are written back.
    """

    d_model: int = key("d_model", 768, "width of encoder, code vectors and decoder", integer())
    norm: str = key("ln_type", "LayerNorm", "LayerNorm or RMSNorm (eps 1e-6)", one_of("LayerNorm", "RMSNorm"))
    activation: str = key(
        "activation_function", "gelu", "of the feed-forward layers and convolutions", one_of("gelu", "relu", "silu")
    )
    rope_theta: float = key(
        "rope_theta",
        10000,
        "base of the rotary position embedding",
        Rule(lambda value: is_number(value, 1), f"a number from 1 to {MAX_NUMBER:g}"),
    )
    rope_type: str = key("rope_type", "default", "variant of the rotary position embedding", one_of("default"))
    position_embedding: str = key("position_embedding_type", "rope", "kind of position embedding", one_of("rope"))
    segment_seconds: float | None = key(
        "segment_seconds",
        60,
        "longer audio is coded in independent segments of this length; null: never (needs a streaming model)",
    )
    mel: MelConfig = MelConfig()
    encoder: EncoderConfig = EncoderConfig()
    quantizer: QuantizerConfig = choice(
        "quantizer_type", QUANTIZERS, ResidualVQConfig(), f"kind of quantizer: {', '.join(QUANTIZERS)}"
    )
    decoder: DecoderConfig = DecoderConfig()
    vocoder: VocoderConfig = choice(
        "vocoder_type", VOCODERS, TransformerVocoderConfig(), f"kind of vocoder: {', '.join(VOCODERS)}"
    )
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check each field, and what concerns several."""
        super().__post_init__()
        check_heads("encoder_attention_heads", self.d_model, self.encoder.num_heads)
        check_heads("decoder_attention_heads", self.d_model, self.decoder.num_heads)
        same = self.decoder.stride == self.encoder.stride
        require_value(same, "decoder_stride_size", self.decoder.stride, f"stride_size = {self.encoder.stride}")
        seconds = self.segment_seconds
        if seconds is None:
            streams = self.streams_encode and self.streams_decode
            require_value(streams, "segment_seconds", None, "windowed causal attention and decoder_conv_norm 'frame'")
        else:
            ok = is_number(seconds, 0, MAX_SEGMENT) and seconds > 0 and float(seconds * self.frame_rate).is_integer()
            require_value(
                ok, "segment_seconds", seconds, f"null or a whole number of code frames, at most {MAX_SEGMENT} s"
            )

    # ---- derived rates -------------------------------------------------------------------------------------------

    @property
    def samples_per_frame(self) -> int:
        """Samples per code frame."""
        return self.mel.hop_length * self.encoder.stride * self.encoder.pool

    @property
    def mels_per_frame(self) -> int:
        """Mel frames per code frame."""
        return self.encoder.stride * self.encoder.pool

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.mel.sample_rate / self.samples_per_frame

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return self.quantizer.codebook_sizes

    @property
    def quantizer_type(self) -> str:
        """The kind of quantizer, a key of `QUANTIZERS`."""
        return kind_of(QUANTIZERS, self.quantizer)

    @property
    def vocoder_type(self) -> str:
        """The kind of vocoder, a key of `VOCODERS`."""
        return kind_of(VOCODERS, self.vocoder)

    @property
    def segment_frames(self) -> int | None:
        """Code frames per independent segment, or None."""
        return None if self.segment_seconds is None else round(self.segment_seconds * self.frame_rate)

    @property
    def streams_encode(self) -> bool:
        """True when a causal encoder makes exact streaming encoding possible in bounded memory."""
        unlimited = self.segment_seconds is None
        return all(w[1] == 0 and (w[0] >= 0 or not unlimited) for w in self.encoder.layer_windows())

    @property
    def streams_decode(self) -> bool:
        """True when streaming decoding equals decoding at once, in bounded memory."""
        bounded = all(left >= 0 and right == 0 for left, right in self.decoder.layer_windows())
        return self.decoder.conv_norm == "frame" and bounded and self.vocoder.is_bounded

    def num_frames(self, num_samples: int) -> int:
        """Code frames T of a waveform of `num_samples` at the codec's rate.

        One for every frame that has begun, plus one when the last is complete (the centred STFT has a frame on the
        end).
        """
        num_mels = 1 + num_samples // self.mel.hop_length
        return code_frames(num_mels, self.encoder.stride, self.encoder.pool)

    # ---- the released config.json --------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> CodecConfig:
        """Read the released flat layout.

        Unknown keys are kept (`source`), except options of a quantizer or vocoder that is not the chosen one.
        Raises MimoError for values that are not supported.
        """
        if not isinstance(flat, Mapping):
            raise MimoError(f"config: expected a dictionary of keys, got {type(flat).__name__}")
        kind, classes = flat.get("model_type", MODEL_TYPE), flat.get("architectures") or [ARCHITECTURE]
        require_value(kind == MODEL_TYPE, "model_type", kind, f"{MODEL_TYPE!r} is the only kind known")
        require_value(classes == [ARCHITECTURE], "architectures", classes, f"[{ARCHITECTURE!r}] is the only one known")
        owners = {f.name: _section_class(f, flat) for f in fields(cls) if _is_section(f)}
        sections: dict[str, Any] = {name: owner(**_read_fields(owner, flat)) for name, owner in owners.items()}
        unused = FLAT_KEYS.keys() - _keys(cls) - {name for owner in owners.values() for name in _keys(owner)}
        source = {name: value for name, value in flat.items() if name not in unused}
        return cls(**_read_fields(cls, flat), **sections, source=source)

    def to_dict(self, defaults: bool = False) -> dict[str, Any]:
        """The released flat layout: every key of `source` in its order, then what differs from the defaults.

        defaults: then all other keys too.
        """
        known: dict[str, tuple[Any, Any]] = {}
        for f in fields(self):
            if table := f.metadata.get("choices"):
                default: Any = f.default
                known[f.metadata["key"]] = kind_of(table, getattr(self, f.name)), kind_of(table, default)
        for owner in (self, *(getattr(self, f.name) for f in fields(self) if _is_section(f))):
            for f in fields(owner):
                if "rule" in f.metadata:
                    known[f.metadata["key"]] = (getattr(owner, f.name), f.default)
        flat = {name: plain(known[name][0]) if name in known else value for name, value in self.source.items()}
        left = {name: (v, default) for name, (v, default) in known.items() if name not in flat}
        return flat | {name: plain(v) for name, (v, default) in left.items() if defaults or v != default}

    @classmethod
    def load(cls, path: str | Path) -> CodecConfig:
        """Read a config.json; MimoError names the file when it is missing or not JSON."""
        flat = read_json(path)
        try:
            return cls.from_dict(flat)
        except MimoError as error:
            raise MimoError(f"{path}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> CodecConfig:
        """A configuration from `PRESETS` by name."""
        if name not in PRESETS:
            raise MimoError(f"unknown preset {name!r}: known are {', '.join(PRESETS)}")
        return cls.from_dict(PRESETS[name])

    def replace(self, **changes: Any) -> CodecConfig:
        """A copy with flat keys changed, e.g. `replace(encoder_layers=6)`.

        Raises MimoError for unknown keys, and for options of a quantizer or vocoder that is not the chosen one.
        """
        flat = self.to_dict()
        for name in changes:
            if name not in FLAT_KEYS and name not in flat:
                raise MimoError(f"config: unknown key {name!r}")
        changed = type(self).from_dict({**flat, **changes})
        for name in changes.keys() - changed.to_dict(defaults=True).keys():
            kinds = f"quantizer_type {changed.quantizer_type!r} and vocoder_type {changed.vocoder_type!r}"
            raise MimoError(f"config: {name!r} is no option of {kinds} ({FLAT_KEYS[name]})")
        return changed


def _is_section(f: dataclasses.Field[Any]) -> bool:
    return isinstance(f.default, Section)


def _section_class(f: dataclasses.Field[Any], flat: Mapping[str, Any]) -> type[Section]:
    """The dataclass of a section; of one with several kinds, that of the kind which `flat` chooses."""
    default: Section = f.default  # type: ignore[assignment]
    table: Table | None = f.metadata.get("choices")
    if table is None:
        return type(default)
    kind = flat.get(f.metadata["key"], kind_of(table, default))
    require_value(isinstance(kind, str) and kind in table, f.metadata["key"], kind, " or ".join(table))
    return table[kind].options


def _read_fields(owner: type[Section], flat: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for f in fields(owner):
        if "rule" in f.metadata and f.metadata["key"] in flat:
            value = flat[f.metadata["key"]]
            if f.name == "codebook_size" and isinstance(value, int):
                value = (value,)
            found[f.name] = tuple(value) if isinstance(value, list) else value
    return found


def _keys(owner: type[Section]) -> dict[str, str]:
    """The keys that a section reads, with their documentation."""
    return {f.metadata["key"]: f.metadata["doc"] for f in fields(owner) if "key" in f.metadata}


_OWNERS = (
    *(CodecConfig, MelConfig, EncoderConfig, DecoderConfig),
    *(row.options for table in (QUANTIZERS, VOCODERS) for row in table.values()),
)
FLAT_KEYS: Mapping[str, str] = MappingProxyType({name: doc for owner in _OWNERS for name, doc in _keys(owner).items()})
"""Every key of config.json that has a meaning here, with its documentation."""
