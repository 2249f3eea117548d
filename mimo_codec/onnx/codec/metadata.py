"""What the files of an exported codec say of themselves, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mimo_codec.codec.config import CodecConfig
from mimo_codec.codes import MAX_MODEL_LENGTH
from mimo_codec.common.checks import check_choice, check_integer, check_type, require

GRAPHS = ("encoder", "encoder_step", "decoder", "decoder_step")
DTYPES = ("float32", "float16", "int8")


@dataclass(frozen=True)
class CodecMetadata:
    """The metadata of an exported codec, with the types and limits that the code relies on."""

    config: CodecConfig
    model_id: str
    """Mark of the codes, "name@fingerprint"."""
    export_id: str
    """The same in all files that were written together."""
    num_quantizers: int
    dtype: str
    graphs: tuple[str, ...]
    decode_delay: int
    """Samples by which streaming decoding is late; 0 without a decoder."""

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> CodecMetadata:
        """Read what an export wrote; MimoError names the value that is missing or wrong."""
        missing = {"config", "model_id", "export_id", "num_quantizers", "dtype", "graphs"} - found.keys()
        require(not missing, f"metadata: {', '.join(sorted(missing))} is missing")
        config = CodecConfig.from_dict(found["config"])
        graphs = check_type("metadata: graphs", found["graphs"], list, "a list")
        for graph in graphs:
            check_choice("metadata: graph", graph, GRAPHS)
        require("encoder" in graphs, "metadata: graphs: there is no encoder")
        model_id = check_type("metadata: model_id", found["model_id"], str, "a text")
        is_name = 1 <= len(model_id) <= MAX_MODEL_LENGTH and model_id.isprintable()
        require(is_name, f"metadata: model_id must be 1 to {MAX_MODEL_LENGTH} printable characters")
        return cls(
            config,
            model_id,
            check_type("metadata: export_id", found["export_id"], str, "a text"),
            check_integer("metadata: num_quantizers", found["num_quantizers"], 1, config.quantizer.num_quantizers),
            check_choice("metadata: dtype", found["dtype"], DTYPES),
            tuple(graphs),
            _check_delay(config, found.get("decode_delay")) if {"decoder", "decoder_step"} & set(graphs) else 0,
        )


def _check_delay(config: CodecConfig, delay: object) -> int:
    """The delay that the configuration has; the file has to say the same."""
    if config.vocoder.look_ahead is None:  # such a vocoder decodes no streams
        return check_integer("metadata: decode_delay", delay, -(2**31), 2**31)
    expected = config.vocoder.look_ahead * config.mel.hop_length + (config.mel.n_fft - config.mel.hop_length) // 2
    return check_integer("metadata: decode_delay", delay, expected, expected)
