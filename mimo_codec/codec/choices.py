"""The parts of a codec of which there are several kinds: the options of each kind, and the tables that list them.

A new quantizer is a class in a file of its own, and here its options and a row of `QUANTIZERS`; a new vocoder likewise
with `VOCODERS`. Nothing here imports torch: a configuration can be read without it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from mimo_codec.codec.keys import (
    FLAG,
    MAX_CODEBOOK_SIZE,
    MAX_LAYERS,
    MAX_QUANTIZERS,
    WINDOW,
    Rule,
    Section,
    Window,
    integer,
    is_integer,
    is_number,
    key,
    one_of,
    require_value,
)


class Choice(NamedTuple):
    """One kind of a part: its options, and where the class is that does the work."""

    options: type[Section]
    module: str
    name: str


Table = Mapping[str, Choice]
"""The value of a key in config.json -> what it chooses."""
Options = TypeVar("Options", bound=Section)


def choice(name: str, table: Table, default: Options, doc: str) -> Options:
    """A dataclass field that holds the options of the kind which the key `name` of config.json chooses."""
    made: Options = field(default=default, metadata={"key": name, "doc": doc, "choices": table})
    return made


def kind_of(table: Table, options: Section) -> str:
    """What config.json calls the kind that has these options."""
    return next(kind for kind, row in table.items() if row.options is type(options))


def find_class(table: Table, options: Section) -> type:
    """The class of the kind that has these options; it is imported only now."""
    row = table[kind_of(table, options)]
    found: type = getattr(importlib.import_module(row.module), row.name)
    return found


# ---- quantizers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantizerConfig(Section):
    """What every quantizer has."""

    num_quantizers: int = key("num_quantizers", 12, "codebooks", integer(MAX_QUANTIZERS))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, one number per quantizer."""
        raise NotImplementedError


@dataclass(frozen=True)
class ResidualVQConfig(QuantizerConfig):
    """Residual vector quantization: learned codebooks, each for what the ones before it leave over."""

    codebook_size: tuple[int, ...] = key(
        "codebook_size",
        (1024,),
        "rvq: entries per codebook; a short list repeats its last entry, a long one is cut",
        Rule(
            lambda value: (
                isinstance(value, tuple)
                and bool(value)
                and all(is_integer(size, 1, MAX_CODEBOOK_SIZE) for size in value)
            ),
            f"a list of integers in 1..{MAX_CODEBOOK_SIZE}",
        ),
    )
    threshold_ema_dead_code: float = key(
        "threshold_ema_dead_code",
        10,
        "rvq, training: entries whose moving count of uses is lower are replaced",
        Rule(lambda value: is_number(value, 0), "a number >= 0"),
    )

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, one number per quantizer."""
        missing = self.num_quantizers - len(self.codebook_size)
        return (self.codebook_size + self.codebook_size[-1:] * max(missing, 0))[: self.num_quantizers]


@dataclass(frozen=True)
class ResidualFSQConfig(QuantizerConfig):
    """Residual finite scalar quantization: fixed grids of a few numbers, each finer than the one before."""

    fsq_levels: tuple[int, ...] = key(
        "fsq_levels",
        (4, 4, 4, 4, 4),
        "rfsq: levels of each number that a codebook rounds; their product is the size of every codebook",
        Rule(
            lambda value: (
                isinstance(value, tuple)
                and bool(value)
                and all(is_integer(levels, 2, MAX_CODEBOOK_SIZE) for levels in value)
                and math.prod(value) <= MAX_CODEBOOK_SIZE
            ),
            f"a list of integers from 2 on with a product of at most {MAX_CODEBOOK_SIZE}",
        ),
    )

    def __post_init__(self) -> None:
        """Check each field, and what concerns several."""
        super().__post_init__()
        finest, most = max(self.fsq_levels), 1
        while finest ** (most + 1) <= FSQ_RESOLUTION:
            most += 1
        need = f"at most {most} codebooks of {finest} levels, beyond which they code rounding: lower one of the two"
        require_value(self.num_quantizers <= most, "num_quantizers", self.num_quantizers, need)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, one number per quantizer."""
        return (math.prod(self.fsq_levels),) * self.num_quantizers


FSQ_RESOLUTION = 2**12
"""Steps of each number that all codebooks together may tell apart, so that a stream has the codes of the whole."""
QUANTIZERS: Table = MappingProxyType(
    {
        "rvq": Choice(ResidualVQConfig, "mimo_codec.codec.residual_vq", "ResidualVQ"),
        "rfsq": Choice(ResidualFSQConfig, "mimo_codec.codec.residual_fsq", "ResidualFSQ"),
    }
)

# ---- vocoders --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VocoderConfig(Section):
    """What every vocoder has: a stack of layers, a spectrum head and an inverse STFT."""

    dim: int = key("vocoder_dim", 512, "width", integer())
    num_layers: int = key("vocoder_num_layers", 30, "layers", integer(MAX_LAYERS))
    ffn_dim: int = key("vocoder_intermediate_dim", 4096, "hidden width of the feed-forward layers", integer())
    padding: str = key("vocoder_padding", "same", "of the inverse STFT", one_of("same"))

    @property
    def look_ahead(self) -> int | None:
        """Mel frames after an output frame on which it depends; None: all there are."""
        raise NotImplementedError

    @property
    def is_bounded(self) -> bool:
        """Whether an output frame depends on a limited number of mel frames, so that a stream needs limited memory."""
        raise NotImplementedError


@dataclass(frozen=True)
class TransformerVocoderConfig(VocoderConfig):
    """The released Transformer-Vocos: layers of windowed attention."""

    num_heads: int = key("vocoder_attention_heads", 4, "transformer: attention heads", integer())
    window: Window = key(
        "vocoder_attn_window_size", (40, 10), "transformer: attention window [left, right] in mel frames", WINDOW
    )

    def __post_init__(self) -> None:
        """Check each field, and what concerns several."""
        super().__post_init__()
        check_heads("vocoder_attention_heads", self.dim, self.num_heads)

    @property
    def look_ahead(self) -> int | None:
        """Mel frames after an output frame on which it depends; None: all there are."""
        return None if self.window[1] < 0 else self.num_layers * self.window[1]

    @property
    def is_bounded(self) -> bool:
        """Whether an output frame depends on a limited number of mel frames, so that a stream needs limited memory."""
        return min(self.window) >= 0


@dataclass(frozen=True)
class ConvNeXtVocoderConfig(VocoderConfig):
    """Vocos' own backbone: ConvNeXt layers over seven frames each."""

    causal: bool = key(
        "vocoder_causal",
        True,
        "convnext: layers see no later frames; false: three of them each, which a stream has to wait for",
        FLAG,
    )

    @property
    def look_ahead(self) -> int | None:
        """Mel frames after an output frame on which it depends; None: all there are."""
        return 0 if self.causal else 3 * (1 + self.num_layers)

    @property
    def is_bounded(self) -> bool:
        """Whether an output frame depends on a limited number of mel frames, so that a stream needs limited memory."""
        return True


VOCODERS: Table = MappingProxyType(
    {
        "transformer": Choice(TransformerVocoderConfig, "mimo_codec.codec.transformer_vocoder", "TransformerVocoder"),
        "convnext": Choice(ConvNeXtVocoderConfig, "mimo_codec.codec.convnext_vocoder", "ConvNeXtVocoder"),
    }
)


def check_heads(name: str, dim: int, heads: int) -> None:
    """MimoError unless a width splits into attention heads of an even size."""
    ok = dim % heads == 0 and (dim // heads) % 2 == 0
    require_value(ok, name, heads, f"the width {dim} must split into heads of an even size")
