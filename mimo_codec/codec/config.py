"""CodecConfig: what a codec is made of, its presets, and the released `config.json` it reads and writes.

The released file is one flat dictionary; here it is a nested frozen dataclass. Every field names the flat key it
comes from, and its default is what the released implementation assumes when a file leaves the key out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json

MODEL_TYPE, ARCHITECTURE = "mimo_audio_tokenizer", "MiMoAudioTokenizer"

Window = tuple[int, int]
"""[left, right] frames that a frame attends to besides itself; -1 means unlimited."""


def _key(name: str, default: Any, doc: str) -> Any:
    return field(default=default, metadata={"key": name, "doc": doc})


def _require(condition: bool, key: str, value: object, need: str) -> None:
    if not condition:
        raise MimoError(f"config: {key} = {_plain(value)!r} is not supported: {need}")


MAX_COUNT = 2**20  # beyond any real width or rate; keeps a damaged file from asking for absurd sizes
MAX_LAYERS, MAX_QUANTIZERS = 1024, 256


def _is_count(value: object, least: int = 1, most: int = MAX_COUNT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_counts(section: object, names: tuple[str, ...], most: int = MAX_COUNT) -> None:
    for f in fields(section):  # type: ignore[arg-type]
        if f.name in names:
            value = getattr(section, f.name)
            _require(_is_count(value, 1, most), f.metadata["key"], value, f"an integer from 1 to {most}")


def _check_flags(section: object, names: tuple[str, ...]) -> None:
    for f in fields(section):  # type: ignore[arg-type]
        if f.name in names:
            value = getattr(section, f.name)
            _require(isinstance(value, bool), f.metadata["key"], value, "true or false")


def _check_window(key: str, window: object) -> None:
    ok = isinstance(window, tuple) and len(window) == 2 and all(_is_count(w, -1) for w in window)
    _require(ok, key, window, "two integers [left, right], each >= 0 or -1 for unlimited")


@dataclass(frozen=True)
class MelConfig:
    """Log-mel front end and, with the same frames, the vocoder's inverse STFT."""

    sample_rate: int = _key("sampling_rate", 24000, "samples per second of the waveform")
    n_fft: int = _key("nfft", 1024, "FFT size in samples")
    window_size: int = _key("window_size", 1024, "analysis window in samples, at most n_fft")
    hop_length: int = _key("hop_length", 240, "samples between mel frames")
    n_mels: int = _key("n_mels", 80, "mel bands")
    fmin: float = _key("fmin", 0, "lowest band edge in Hz")
    fmax: float | None = _key("fmax", None, "highest band edge in Hz; null: half the sample rate")

    def __post_init__(self) -> None:
        _check_counts(self, ("sample_rate", "n_fft", "window_size", "hop_length", "n_mels"))
        _require(self.n_fft % 2 == 0, "nfft", self.n_fft, "an even number")
        _require(self.window_size <= self.n_fft, "window_size", self.window_size, "at most nfft")
        _require(self.hop_length < self.n_fft // 2, "hop_length", self.hop_length, "below nfft / 2")
        even = (self.n_fft - self.hop_length) % 2 == 0
        _require(even, "hop_length", self.hop_length, "nfft - hop_length must be even")
        nyquist = self.sample_rate / 2
        fmax = nyquist if self.fmax is None else self.fmax
        for key, value in (("fmin", self.fmin), ("fmax", fmax)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _require(number and 0 <= value <= nyquist, key, value, f"0 to {nyquist:g} Hz")
        _require(self.fmin < fmax, "fmin", self.fmin, "below fmax")


@dataclass(frozen=True)
class EncoderConfig:
    """Mel -> features: two convolutions, Transformer layers, pooling convolution."""

    num_layers: int = _key("encoder_layers", 8, "Transformer layers")
    num_heads: int = _key("encoder_attention_heads", 12, "attention heads")
    ffn_dim: int = _key("encoder_ffn_dim", 3072, "hidden width of the feed-forward layers")
    skip_layer: int | None = _key("encoder_skip_layer_id", None, "its output is added to the last layer's; null: none")
    causal: bool = _key("encoder_causal", False, "attention sees no later frames")
    window: Window = _key("encoder_attn_window_size", (-1, -1), "attention window [left, right] in frames")
    hybrid: bool = _key("hybrid_attention", False, "windowed and full layers alternate")
    hybrid_period: int = _key("swa_per_block", 1, "layer i is full when i % period == period - 1 (hybrid only)")
    kernel_size: int = _key("kernel_size", 3, "of both convolutions")
    stride: int = _key("stride_size", 2, "mel frames per Transformer frame")
    pool: int = _key("avg_pooler", 1, "Transformer frames per code frame; 1: no pooling convolution")

    def __post_init__(self) -> None:
        _check_counts(self, ("num_heads", "ffn_dim", "hybrid_period", "stride", "pool"))
        _check_counts(self, ("num_layers",), MAX_LAYERS)
        _check_flags(self, ("causal", "hybrid"))
        _check_window("encoder_attn_window_size", self.window)
        _require(self.kernel_size == 3, "kernel_size", self.kernel_size, "3 is the only size known")
        _require(self.stride in (1, 2), "stride_size", self.stride, "1 or 2")
        if self.skip_layer is not None:
            ok = _is_count(self.skip_layer) and self.skip_layer <= self.num_layers
            _require(ok, "encoder_skip_layer_id", self.skip_layer, "null or 1..encoder_layers")

    def layer_windows(self) -> tuple[Window, ...]:
        """The effective [left, right] window of each layer, causality and hybrid pattern applied."""
        full = (-1, 0) if self.causal else (-1, -1)
        windowed = (self.window[0], 0 if self.causal else self.window[1])
        last = self.hybrid_period - 1
        is_full = [self.hybrid and i % self.hybrid_period == last for i in range(self.num_layers)]
        return tuple(full if f else windowed for f in is_full)


@dataclass(frozen=True)
class QuantizerConfig:
    """Residual vector quantizer."""

    num_quantizers: int = _key("num_quantizers", 12, "codebooks")
    codebook_size: tuple[int, ...] = _key(
        "codebook_size", (1024,), "entries per codebook; a short list repeats its last entry, a long one is cut"
    )
    threshold_ema_dead_code: float = _key(
        "threshold_ema_dead_code", 10, "training: entries whose moving count of uses is lower are revived"
    )

    def __post_init__(self) -> None:
        _check_counts(self, ("num_quantizers",), MAX_QUANTIZERS)
        ok = isinstance(self.codebook_size, tuple) and bool(self.codebook_size)
        ok = ok and all(_is_count(size) and size <= 65536 for size in self.codebook_size)
        _require(ok, "codebook_size", self.codebook_size, "a list of integers in 1..65536")
        dead = self.threshold_ema_dead_code
        _require(isinstance(dead, (int, float)) and dead >= 0, "threshold_ema_dead_code", dead, "a number >= 0")

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, one number per quantizer."""
        missing = self.num_quantizers - len(self.codebook_size)
        return (self.codebook_size + self.codebook_size[-1:] * max(missing, 0))[: self.num_quantizers]


@dataclass(frozen=True)
class DecoderConfig:
    """Quantized -> coarse mel: transposed convolutions around Transformer layers."""

    num_layers: int = _key("decoder_layers", 8, "Transformer layers")
    num_heads: int = _key("decoder_attention_heads", 12, "attention heads")
    ffn_dim: int = _key("decoder_ffn_dim", 3072, "hidden width of the feed-forward layers")
    causal: bool = _key("decoder_causal", True, "attention sees no later frames")
    window: Window = _key("decoder_attn_window_size", (-1, -1), "attention window [left, right] in frames")
    kernel_size: int = _key("decoder_kernel_size", 3, "of the last transposed convolution")
    stride: int = _key("decoder_stride_size", 2, "mel frames per Transformer frame")
    conv_norm: str = _key(
        "decoder_conv_norm",
        "group",
        "after the transposed convolutions: 'group', one group over channels and time of the whole sequence"
        " (released models), or 'frame', over the channels of each frame (streams exactly)",
    )

    def __post_init__(self) -> None:
        _check_counts(self, ("num_heads", "ffn_dim", "kernel_size", "stride"))
        _check_counts(self, ("num_layers",), MAX_LAYERS)
        _check_flags(self, ("causal",))
        _check_window("decoder_attn_window_size", self.window)
        ok = self.stride <= self.kernel_size <= 2 * self.stride
        _require(ok, "decoder_kernel_size", self.kernel_size, "between one and two strides")
        _require(self.conv_norm in ("group", "frame"), "decoder_conv_norm", self.conv_norm, "'group' or 'frame'")

    def layer_windows(self) -> tuple[Window, ...]:
        """The effective [left, right] window of each layer, causality applied."""
        return ((self.window[0], 0 if self.causal else self.window[1]),) * self.num_layers


@dataclass(frozen=True)
class VocoderConfig:
    """Coarse mel -> waveform: Transformer layers and an inverse STFT."""

    dim: int = _key("vocoder_dim", 512, "width")
    num_layers: int = _key("vocoder_num_layers", 30, "Transformer layers")
    num_heads: int = _key("vocoder_attention_heads", 4, "attention heads")
    ffn_dim: int = _key("vocoder_intermediate_dim", 4096, "hidden width of the feed-forward layers")
    window: Window = _key("vocoder_attn_window_size", (40, 10), "attention window [left, right] in mel frames")
    padding: str = _key("vocoder_padding", "same", "of the inverse STFT")

    def __post_init__(self) -> None:
        _check_counts(self, ("dim", "num_heads", "ffn_dim"))
        _check_counts(self, ("num_layers",), MAX_LAYERS)
        _check_window("vocoder_attn_window_size", self.window)
        _require(self.padding == "same", "vocoder_padding", self.padding, "'same' is the only padding known")


@dataclass(frozen=True)
class CodecConfig:
    """A whole codec: shared widths and conventions, and one section per stage.

    `source` is the dictionary the configuration was read from: keys unknown here live on in it and are written back.
    """

    d_model: int = _key("d_model", 768, "width of encoder, code vectors and decoder")
    norm: str = _key("ln_type", "LayerNorm", "LayerNorm or RMSNorm (eps 1e-6)")
    activation: str = _key("activation_function", "gelu", "of the feed-forward layers and convolutions")
    rope_theta: float = _key("rope_theta", 10000, "base of the rotary position embedding")
    rope_type: str = _key("rope_type", "default", "variant of the rotary position embedding")
    position_embedding: str = _key("position_embedding_type", "rope", "kind of position embedding")
    segment_seconds: float | None = _key(
        "segment_seconds",
        60,
        "longer audio is coded in independent segments of this length; null: never (needs a streaming model)",
    )
    mel: MelConfig = MelConfig()
    encoder: EncoderConfig = EncoderConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    decoder: DecoderConfig = DecoderConfig()
    vocoder: VocoderConfig = VocoderConfig()
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_counts(self, ("d_model",))
        _require(self.norm in ("LayerNorm", "RMSNorm"), "ln_type", self.norm, "LayerNorm or RMSNorm")
        _require(
            self.activation in ("gelu", "relu", "silu"), "activation_function", self.activation, "gelu, relu or silu"
        )
        theta = self.rope_theta
        finite = isinstance(theta, (int, float)) and not isinstance(theta, bool) and 0 < theta < math.inf
        _require(finite, "rope_theta", theta, "a number above 0")
        _require(self.rope_type == "default", "rope_type", self.rope_type, "'default'")
        _require(self.position_embedding == "rope", "position_embedding_type", self.position_embedding, "'rope'")
        self._check_heads("encoder_attention_heads", self.d_model, self.encoder.num_heads)
        self._check_heads("decoder_attention_heads", self.d_model, self.decoder.num_heads)
        self._check_heads("vocoder_attention_heads", self.vocoder.dim, self.vocoder.num_heads)
        _require(
            self.decoder.stride == self.encoder.stride,
            "decoder_stride_size",
            self.decoder.stride,
            f"stride_size = {self.encoder.stride}",
        )
        if self.segment_seconds is None:
            streams = self.streams_encode and self.streams_decode
            _require(streams, "segment_seconds", None, "windowed causal attention and decoder_conv_norm 'frame'")
        else:
            seconds = self.segment_seconds
            ok = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            ok = ok and seconds > 0 and float(seconds * self.frame_rate).is_integer()
            _require(ok, "segment_seconds", seconds, "null or a whole number of code frames")

    @staticmethod
    def _check_heads(key: str, dim: int, heads: int) -> None:
        ok = dim % heads == 0 and (dim // heads) % 2 == 0
        _require(ok, key, heads, f"the width {dim} must split into heads of an even size")

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
        return self.decoder.conv_norm == "frame" and bounded and min(self.vocoder.window) >= 0

    def num_frames(self, num_samples: int) -> int:
        """Code frames T of a waveform of `num_samples` at the codec's rate: one for every begun frame, plus one
        when the last is complete (the centred STFT has a frame on the end)."""
        num_mels = 1 + num_samples // self.mel.hop_length
        return -(-((num_mels - 1) // self.encoder.stride + 1) // self.encoder.pool)

    # ---- the released config.json --------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> CodecConfig:
        """Read the released flat layout. Unknown keys are kept (`source`); unsupported values raise MimoError."""
        if not isinstance(flat, Mapping):
            raise MimoError(f"config: expected a dictionary of keys, got {type(flat).__name__}")
        kind, classes = flat.get("model_type", MODEL_TYPE), flat.get("architectures") or [ARCHITECTURE]
        _require(kind == MODEL_TYPE, "model_type", kind, f"{MODEL_TYPE!r} is the only kind known")
        _require(classes == [ARCHITECTURE], "architectures", classes, f"[{ARCHITECTURE!r}] is the only one known")
        sections = {f.name: _read_section(type(f.default), flat) for f in fields(cls) if _is_section(f)}
        return cls(**_read_fields(cls, flat), **sections, source=dict(flat))

    def to_dict(self, defaults: bool = False) -> dict[str, Any]:
        """The released flat layout: every key of `source` in its order, then what differs from the defaults, or, with
        `defaults`, all that is left."""
        known: dict[str, tuple[Any, Any]] = {}
        for owner in (self, *(getattr(self, f.name) for f in fields(self) if _is_section(f))):
            for f in fields(owner):
                if "key" in f.metadata:
                    known[f.metadata["key"]] = (getattr(owner, f.name), f.default)
        flat = {key: _plain(known[key][0]) if key in known else value for key, value in self.source.items()}
        left = {key: (v, default) for key, (v, default) in known.items() if key not in flat}
        return flat | {key: _plain(v) for key, (v, default) in left.items() if defaults or v != default}

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
        """A copy with flat keys changed, e.g. `replace(encoder_layers=6)`; an unknown key raises MimoError."""
        flat = self.to_dict()
        for key in changes:
            if key not in FLAT_KEYS and key not in flat:
                raise MimoError(f"config: unknown key {key!r}")
        return type(self).from_dict({**flat, **changes})


def _is_section(f: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(f.default)


def _read_fields(cls: type, flat: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for f in fields(cls):
        if f.metadata.get("key") in flat:
            value = flat[f.metadata["key"]]
            if f.name == "codebook_size" and isinstance(value, int):
                value = (value,)
            found[f.name] = tuple(value) if isinstance(value, list) else value
    return found


def _read_section(cls: type, flat: Mapping[str, Any]) -> Any:
    return cls(**_read_fields(cls, flat))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


FLAT_KEYS: Mapping[str, str] = MappingProxyType(
    {
        g.metadata["key"]: g.metadata["doc"]
        for section in (CodecConfig, MelConfig, EncoderConfig, QuantizerConfig, DecoderConfig, VocoderConfig)
        for g in fields(section)
        if "key" in g.metadata
    }
)
"""Every key of config.json that has a meaning here, with its documentation."""

_FRONT_END = dict(  # noqa: C408 (as short as what it is merged with below)
    sampling_rate=24000,
    nfft=960,
    window_size=960,
    hop_length=240,
    n_mels=128,
    fmin=0,
    fmax=None,
    kernel_size=3,
    stride_size=2,
    avg_pooler=2,
    decoder_kernel_size=3,
    decoder_stride_size=2,
    model_type=MODEL_TYPE,
)
_CODEBOOKS = [1024, 1024] + [128] * 18
_STREAMING = dict(
    _FRONT_END,
    segment_seconds=None,
    decoder_conv_norm="frame",
    encoder_causal=True,
    decoder_causal=True,
    rope_theta=10000,
)


def _streaming(
    dim: int, layers: tuple[int, int, int], heads: int, num_quantizers: int, windows: tuple[int, int, int]
) -> dict[str, Any]:
    """A streaming codec of one width: `layers` of encoder, decoder and vocoder.

    windows: frames that a layer sees before each in encoder and decoder (50 Hz) and in the vocoder (100 Hz), and after
    each in the vocoder.
    """
    return dict(
        _STREAMING,
        d_model=dim,
        vocoder_dim=dim,
        num_quantizers=num_quantizers,
        codebook_size=_CODEBOOKS[:num_quantizers],
        threshold_ema_dead_code=0.05,
        encoder_layers=layers[0],
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * dim,
        encoder_skip_layer_id=None,
        encoder_attn_window_size=[windows[0], 0],
        decoder_layers=layers[1],
        decoder_attention_heads=heads,
        decoder_ffn_dim=4 * dim,
        decoder_attn_window_size=[windows[0], 0],
        vocoder_num_layers=layers[2],
        vocoder_attention_heads=heads,
        vocoder_intermediate_dim=4 * dim,
        vocoder_attn_window_size=list(windows[1:]),
    )


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mimo": dict(
            _FRONT_END,
            d_model=1280,
            encoder_layers=32,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            encoder_skip_layer_id=3,
            encoder_causal=False,
            encoder_attn_window_size=[-1, -1],
            num_quantizers=20,
            codebook_size=_CODEBOOKS,
            threshold_ema_dead_code=2,
            decoder_layers=32,
            decoder_attention_heads=20,
            decoder_ffn_dim=5120,
            decoder_causal=True,
            decoder_attn_window_size=[-1, -1],
            vocoder_dim=256,
            vocoder_num_layers=16,
            vocoder_attention_heads=16,
            vocoder_intermediate_dim=1024,
            vocoder_attn_window_size=[40, 10],
            vocoder_padding="same",
            activation_function="gelu",
            ln_type="LayerNorm",
            rope_theta=10000,
            rope_type="default",
            position_embedding_type="rope",
            scale_embedding=False,
            max_audio_seconds=1800,
        ),
        "small": _streaming(512, (8, 8, 8), 8, 20, (64, 40, 1)),
        "nano": _streaming(384, (2, 2, 2), 6, 8, (24, 16, 6)),
        "tiny": _streaming(64, (2, 2, 2), 2, 8, (64, 40, 2)),
    }
)
"""Named configurations: `mimo` is the released 1.28 B model; `small`, `nano` and `tiny` stream exactly."""
