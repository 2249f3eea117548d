"""LMConfig: the shape of a MiMo-Audio language model, and the released `config.json` it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mimo_codec.common.checks import check_integer, check_number
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import read_json

MAX_SIZE, MAX_LAYERS, MAX_CHANNELS, MAX_GROUP = 2**24, 1024, 64, 64
_PER_CHANNEL = ("speech_vocab_size", "speech_zeroemb_idx", "delay_pattern")


@dataclass(frozen=True)
class LMConfig:
    """Field names are the keys of the released config.json; defaults are those of the released 7B model.

    Every field is validated; MimoError names the key that is wrong.
    """

    vocab_size: int = 151680
    """Text tokens."""
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    max_position_embeddings: int = 8192
    """Longest sequence, in positions (patches and text tokens)."""
    rope_theta: float = 640000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False

    local_dim: int = 1024
    """Width of the patch decoder."""
    local_layers: int = 16
    local_attn_heads: int = 64
    local_ffn_dim: int = 4096

    input_local_dim: int = 1024
    """Width of the patch encoder and of the code embeddings."""
    input_local_layers: int = 6
    input_full_attention: bool = True
    """The patch encoder attends to the whole patch, not only backwards."""

    audio_channels: int = 8
    """Codebooks that the model reads and writes."""
    group_size: int = 4
    """Code frames of a patch."""
    speech_vocab_size: tuple[int, ...] = (1025, 1025, *[129] * 6)
    """Entries of each codebook, and one for the empty code."""
    speech_zeroemb_idx: tuple[int, ...] = (1024, 1024, *[128] * 6)
    """The empty code of each channel."""
    delay_pattern: tuple[int, ...] = tuple(range(8))
    """Frames by which each channel follows in the patch decoder."""
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Keys of a config.json that have no meaning here; written back as they were."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "local_dim",
            "local_attn_heads",
            "local_ffn_dim",
            "input_local_dim",
        ):
            check_integer(f"config: {name}", getattr(self, name), 1, MAX_SIZE)
        for name in ("num_hidden_layers", "local_layers", "input_local_layers"):
            check_integer(f"config: {name}", getattr(self, name), 1, MAX_LAYERS)
        check_integer("config: audio_channels", self.audio_channels, 1, MAX_CHANNELS)
        check_integer("config: group_size", self.group_size, 1, MAX_GROUP)
        check_number("config: rope_theta", self.rope_theta, 1, 1e12)
        check_number("config: rms_norm_eps", self.rms_norm_eps, 0, 1)
        for name in ("tie_word_embeddings", "input_full_attention"):
            if not isinstance(getattr(self, name), bool):
                raise MimoError(f"config: {name} must be true or false, not {getattr(self, name)!r}")
        for width, heads in (("local_dim", "local_attn_heads"), ("input_local_dim", "local_attn_heads")):
            if getattr(self, width) % (2 * getattr(self, heads)):
                raise MimoError(f"config: {width} = {getattr(self, width)} must be an even multiple of {heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise MimoError("config: num_attention_heads must be a multiple of num_key_value_heads")
        self._check_channels()

    def _check_channels(self) -> None:
        for name in _PER_CHANNEL:
            values = getattr(self, name)
            if len(values) != self.audio_channels:
                raise MimoError(f"config: {name} has {len(values)} values for {self.audio_channels} audio_channels")
            for value in values:
                check_integer(f"config: {name}", value, 0, MAX_SIZE if name != "delay_pattern" else MAX_GROUP)
        for size, empty in zip(self.speech_vocab_size, self.speech_zeroemb_idx, strict=True):
            if empty != size - 1:
                raise MimoError(f"config: speech_zeroemb_idx {empty} is not the last of {size} codes")

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
        """The released flat dictionary -> LMConfig; keys that have no meaning here are kept in `extra`."""
        if not isinstance(flat, Mapping) or "audio_channels" not in flat or "local_dim" not in flat:
            raise MimoError("config: no audio_channels and local_dim, so not a MiMo-Audio language model")
        for name, plain in (("rope_scaling", None), ("use_sliding_window", False), ("hidden_act", "silu")):
            if flat.get(name, plain) != plain:
                raise MimoError(f"config: {name} = {flat[name]!r} is not supported")
        rope = flat.get("rope_parameters")
        if isinstance(rope, Mapping):
            if rope.get("rope_type", "default") != "default":
                raise MimoError(f"config: rope_parameters of type {rope['rope_type']!r} are not supported")
            if "rope_theta" in rope:
                flat = {**flat, "rope_theta": rope["rope_theta"]}
        known = {f.name for f in fields(cls)} - {"extra"}
        channels = flat["audio_channels"]
        values = {name: _per_channel(name, value, channels) for name, value in flat.items() if name in known}
        values["input_full_attention"] = flat.get("input_full_attention") or False  # as where the key is older
        if "head_dim" not in values and "hidden_size" in values and "num_attention_heads" in values:
            heads = check_integer("config: num_attention_heads", values["num_attention_heads"], 1, MAX_SIZE)
            values["head_dim"] = check_integer("config: hidden_size", values["hidden_size"], 1, MAX_SIZE) // heads
        if "input_local_dim" not in values and "local_dim" in values:
            values["input_local_dim"] = values["local_dim"]
        return cls(**values, extra=MappingProxyType({k: v for k, v in flat.items() if k not in known}))

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        for name in _PER_CHANNEL:
            flat[name] = "-".join(str(value) for value in flat[name])
        return {"model_type": "qwen2", "architectures": ["MiMoAudioForCausalLM"], **flat, **self.extra}

    @classmethod
    def load(cls, path: str | Path) -> LMConfig:
        """Read a config.json; MimoError, naming the file, when it cannot be read or is not of such a model."""
        flat = read_json(path)
        try:
            return cls.from_dict(flat)
        except MimoError as error:
            raise MimoError(f"{path}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> LMConfig:
        """A configuration from `PRESETS` by name."""
        if name not in PRESETS:
            raise MimoError(f"unknown preset {name!r}: known are {', '.join(PRESETS)}")
        return PRESETS[name]


def _per_channel(name: str, value: Any, channels: Any) -> Any:
    """ "1025-1025-129" -> (1025, 1025, 129); one integer is that of every channel."""
    if name not in _PER_CHANNEL:
        return value
    if isinstance(value, int):
        value = [value] * check_integer("config: audio_channels", channels, 1, MAX_CHANNELS)
    words = value.split("-") if isinstance(value, str) else value if isinstance(value, list) else None
    try:
        return tuple(int(word) for word in words)  # type: ignore[union-attr]
    except (TypeError, ValueError):
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
