"""LMConfig: the shape of a MiMo-Audio language model, and the released `config.json` it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mimo_codec.common.checks import check_choice, check_integer, check_type, error_prefix, require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.fields import check_fields, flag, integer, integers, number
from mimo_codec.common.files import read_json

FRAME_RATE, SAMPLE_RATE = 25.0, 24000
"""Rates in Hz of the codecs whose codes the language model reads."""
MAX_SIZE, MAX_LAYERS, MAX_CHANNELS, MAX_GROUP = 2**24, 1024, 64, 64
"""Largest values in a config.json, which may come from anyone."""
_PER_CHANNEL = ("speech_vocab_size", "speech_zeroemb_idx", "delay_pattern")


def _size(default: int) -> int:
    return integer(default, 1, MAX_SIZE)


@dataclass(frozen=True)
class LMConfig:
    """Shape of a language model.

    Field names are the keys of the released config.json; defaults are those of the released 7B model. Every field is
    validated; MimoError names the key that is wrong.
    """

    vocab_size: int = _size(151680)
    """Text tokens."""
    hidden_size: int = _size(4096)
    intermediate_size: int = _size(11008)
    num_hidden_layers: int = integer(36, 1, MAX_LAYERS)
    num_attention_heads: int = _size(32)
    num_key_value_heads: int = _size(8)
    head_dim: int = _size(128)
    max_position_embeddings: int = _size(8192)
    """Longest sequence, in positions (patches and text tokens)."""
    rope_theta: float = number(640000.0, 1, 1e12)
    rms_norm_eps: float = number(1e-6, 0, 1)
    tie_word_embeddings: bool = flag(False)

    local_dim: int = _size(1024)
    """Width of the patch decoder."""
    local_layers: int = integer(16, 1, MAX_LAYERS)
    local_attn_heads: int = _size(64)
    local_ffn_dim: int = _size(4096)

    input_local_dim: int = _size(1024)
    """Width of the patch encoder and of the code embeddings."""
    input_local_layers: int = integer(6, 1, MAX_LAYERS)
    input_full_attention: bool = flag(True)
    """The patch encoder attends to the whole patch, not only backwards."""

    audio_channels: int = integer(8, 1, MAX_CHANNELS)
    """Codebooks that the model reads and writes."""
    group_size: int = integer(4, 1, MAX_GROUP)
    """Code frames of a patch."""
    speech_vocab_size: tuple[int, ...] = integers((1025, 1025, *[129] * 6), 1, MAX_SIZE)
    """Entries of each codebook, and one for the empty code."""
    speech_zeroemb_idx: tuple[int, ...] = integers((1024, 1024, *[128] * 6), 0, MAX_SIZE)
    """The empty code of each channel."""
    delay_pattern: tuple[int, ...] = integers(tuple(range(8)), 0, MAX_GROUP)
    """Frames by which each channel follows in the patch decoder."""
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Keys of a config.json that have no meaning here; written back as they were."""

    def __post_init__(self) -> None:
        """Check every field and how they fit together."""
        check_fields(self, "config: ")
        for name in ("local_dim", "input_local_dim"):
            width = getattr(self, name)
            even = width % (2 * self.local_attn_heads) == 0
            require(even, f"config: {name} = {width} must be an even multiple of local_attn_heads")
        require(self.head_dim % 2 == 0, f"config: head_dim = {self.head_dim} must be even, for rotary positions")
        grouped = self.num_attention_heads % self.num_key_value_heads == 0
        require(grouped, "config: num_attention_heads must be a multiple of num_key_value_heads")
        for name in _PER_CHANNEL:
            count = len(getattr(self, name))
            complete = count == self.audio_channels
            require(complete, f"config: {name} has {count} values for {self.audio_channels} audio_channels")
        for size, empty in zip(self.speech_vocab_size, self.speech_zeroemb_idx, strict=True):
            require(empty == size - 1, f"config: speech_zeroemb_idx {empty} is not the last of {size} codes")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the values of all fields: a read-only mapping such as `extra` allows neither."""
        return _from_pickle, ({**vars(self), "extra": dict(self.extra)},)

    @property
    def codec(self) -> str | None:
        """The codec whose codes it reads, "name" or "name@fingerprint", where that was written down."""
        found = self.extra.get("codec")
        return found if isinstance(found, str) and found else None

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, without the empty code."""
        return self.speech_zeroemb_idx

    # ---- config.json ---------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> LMConfig:
        """Read the released flat dictionary; keys that have no meaning here are kept in `extra`.

        Raises MimoError for other models, for values that are wrong, and for features that are not supported.
        """
        known = isinstance(flat, Mapping) and "audio_channels" in flat and "local_dim" in flat
        require(known, "config: no audio_channels and local_dim, so not a MiMo-Audio language model")
        for name, plain in (("rope_scaling", None), ("use_sliding_window", False), ("hidden_act", "silu")):
            require(flat.get(name, plain) == plain, f"config: {name} = {flat.get(name)!r} is not supported")
        rope = flat.get("rope_parameters")
        if isinstance(rope, Mapping):
            kind = rope.get("rope_type", "default")
            require(kind == "default", f"config: rope_parameters of type {kind!r} are not supported")
            flat = {**flat, **{name: rope[name] for name in ("rope_theta",) if name in rope}}
        names = {f.name for f in fields(cls)} - {"extra"}
        values = {name: value for name, value in flat.items() if name in names}
        for name in _PER_CHANNEL:
            if name in values:
                values[name] = _per_channel(name, values[name], flat["audio_channels"])
        values["input_full_attention"] = flat.get("input_full_attention") or False  # as where the key is older
        values.setdefault("input_local_dim", values["local_dim"])
        if "head_dim" not in values and {"hidden_size", "num_attention_heads"} <= values.keys():
            heads = check_integer("config: num_attention_heads", values["num_attention_heads"], 1, MAX_SIZE)
            values["head_dim"] = check_integer("config: hidden_size", values["hidden_size"], 1, MAX_SIZE) // heads
        return cls(**values, extra=MappingProxyType({k: v for k, v in flat.items() if k not in names}))

    def to_dict(self) -> dict[str, Any]:
        """Return the flat dictionary of the released config.json, which `from_dict` reads."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        for name in _PER_CHANNEL:
            flat[name] = "-".join(str(value) for value in flat[name])
        return {"model_type": "qwen2", "architectures": ["MiMoAudioForCausalLM"], **flat, **self.extra}

    @classmethod
    def load(cls, path: str | Path) -> LMConfig:
        """Read a config.json; MimoError, naming the file, when it cannot be read or is not of such a model."""
        flat = read_json(path)
        with error_prefix(path):
            return cls.from_dict(flat)

    @classmethod
    def preset(cls, name: str) -> LMConfig:
        """Return a configuration from `PRESETS`; MimoError lists the names there are."""
        return PRESETS[check_choice("preset", name, PRESETS)]


def _from_pickle(values: dict[str, Any]) -> LMConfig:
    return LMConfig(**values | {"extra": MappingProxyType(values["extra"])})


def _per_channel(name: str, value: object, channels: object) -> tuple[int, ...]:
    """Read "1025-1025-129" as (1025, 1025, 129); one integer is that of every channel."""
    if isinstance(value, int):
        value = [value] * check_integer("config: audio_channels", channels, 1, MAX_CHANNELS)
    words = value.split("-") if isinstance(value, str) else value
    try:
        return tuple(int(word) for word in check_type(name, words, list, "a list"))
    except (TypeError, ValueError):  # MimoError is a ValueError
        raise MimoError(f"config: {name} must be integers joined by '-', not {value!r}") from None


_RELEASED = LMConfig()
PRESETS: Mapping[str, LMConfig] = MappingProxyType(
    {
        "mimo-7b": _RELEASED,
        "0.5b": replace(
            _RELEASED,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            head_dim=64,
            local_dim=512,
            local_layers=8,
            local_attn_heads=16,
            local_ffn_dim=2048,
            input_local_dim=512,
            input_local_layers=4,
        ),
        "tiny": replace(
            _RELEASED,
            vocab_size=416,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=1024,
            local_dim=32,
            local_layers=2,
            local_attn_heads=4,
            local_ffn_dim=64,
            input_local_dim=32,
            input_local_layers=1,
        ),
    }
)
"""Named configurations: the released model, one of the shape of Qwen2-0.5B, and one for tests."""
