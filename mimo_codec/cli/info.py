"""The command `info`: facts about a .mimo file, an audio file or a model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimo_codec.audio.formats import AUDIO
from mimo_codec.cli.console import printable
from mimo_codec.cli.options import AsJson, Revision
from mimo_codec.cli.pipes import PIPE, standard_input
from mimo_codec.cli.plan import CODES, Source

if TYPE_CHECKING:
    from torch import nn

    from mimo_codec.codec.model import MimoCodec

UNITS = {"seconds": "s", "hz": "Hz", "kbps": "kbit/s", "bytes": "B"}
"""Last word of a fact's name -> unit of its value."""
_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def info(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE|MODEL", help="Audio or .mimo file, - for standard input, or model as for encode."),
    ],
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Describe a .mimo file, an audio file or a model."""
    facts = describe(target, revision)
    print(json.dumps(facts, indent=2) if as_json else as_text(facts))


def describe(name_or_path: str, revision: str | None = None) -> dict[str, Any]:
    """Collect facts by name, as JSON has them; None for what is not known or not there.

    `-` is a file on standard input. A path is taken for a file if it is one or has the suffix of one, and for a model
    otherwise. Raises MimoError as `AudioCodes.load`, `audio_info` and `load_codec` do.
    """
    if name_or_path == PIPE:
        from mimo_codec.codes import begins_as_codes

        source = standard_input()
        return _describe_codes(source) if begins_as_codes(source) else _describe_audio(source)
    path = Path(name_or_path)
    suffix = path.suffix.lower()
    if not os.path.isdir(path) and (os.path.exists(path) or suffix in (*AUDIO, *CODES)):
        return _describe_codes(path) if suffix in CODES else _describe_audio(path)
    return _describe_model(name_or_path, revision)


def as_text(facts: Mapping[str, Any]) -> str:
    """Format facts, one aligned line each."""
    return "\n".join(_line(name, value) for name, value in facts.items())


def _line(name: str, value: Any) -> str:
    words, _, last = name.rpartition("_")
    label, unit = (words, UNITS[last]) if last in UNITS else (name, "")
    return f"{label.replace('_', ' '):<22}{_text(value)} {unit if value is not None else ''}".rstrip()


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return printable(" ".join(map(str, value)))
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else printable(value)


def _describe_codes(path: Source) -> dict[str, Any]:
    from mimo_codec.codes import AudioCodes

    codes = AudioCodes.load(path)
    size = os.path.getsize(path)
    return {
        "file": str(path),
        "size_bytes": size,
        "duration_seconds": codes.duration,
        "samples": codes.num_samples,
        "sample_rate_hz": codes.sample_rate,
        "codebooks": codes.num_quantizers,
        "frames": codes.num_frames,
        "frame_rate_hz": codes.frame_rate,
        "codebook_sizes": list(codes.codebook_sizes),
        "nominal_bitrate_kbps": codes.bitrate / 1000,
        "real_bitrate_kbps": size * 8 / codes.duration / 1000,
        "model": codes.model,
    }


def _describe_audio(path: Source) -> dict[str, Any]:
    from mimo_codec.audio.files import audio_info

    info = audio_info(path)
    return {
        "file": str(path),
        "size_bytes": os.path.getsize(path),
        "duration_seconds": None if info.num_samples is None else info.num_samples / info.sample_rate,
        "samples": info.num_samples,
        "sample_rate_hz": info.sample_rate,
        "channels": info.num_channels,
        "format": info.format,
    }


def _describe_model(name_or_path: str, revision: str | None) -> dict[str, Any]:
    import torch

    from mimo_codec.bitstream import code_widths
    from mimo_codec.codec.base import Codec
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.loading import is_export, load_codec

    codec: Codec[Any]
    if is_export(name_or_path):
        exported = load_codec(name_or_path, device="cpu", revision=revision)
        with torch.device("meta"):
            weights = MimoCodec(exported.config, decoder=exported.decode_delay is not None)
        codec, folder, dtype = exported, Path(name_or_path), str(exported.dtype)
    else:
        codec, folder, dtype = _without_weights(name_or_path, revision)
        weights = codec
    decodes, widths = codec.decode_delay is not None, code_widths(codec.codebook_sizes)
    return {
        "model": codec.name,
        "folder": str(folder),
        "sample_rate_hz": codec.sample_rate,
        "frame_rate_hz": codec.frame_rate,
        "quantizer": codec.config.quantizer_type,
        "vocoder": codec.config.vocoder_type if decodes else None,
        "codebooks": codec.num_quantizers,
        "codebook_sizes": list(codec.codebook_sizes),
        "nominal_bitrate_kbps": sum(widths) * codec.frame_rate / 1000,
        "encoder_parameters": _num_parameters(weights.encoder),
        "quantizer_parameters": weights.quantizer.num_weights,
        "decoder_parameters": _num_parameters(weights.decoder) if weights.decoder else None,
        "streams_encode": codec.encodes_streams,
        "streams_decode": codec.decodes_streams and codec.config.streams_decode,
        "encode_latency_seconds": codec.encode_latency,
        "decode_latency_seconds": codec.decode_latency if decodes else None,
        "dtype": dtype,
    }


def _without_weights(name_or_path: str, revision: str | None) -> tuple[MimoCodec, Path, str]:
    """Make a model in PyTorch without its weights -> (model, its folder, the precision of its files)."""
    from mimo_codec.codec.checkpoint import find_checkpoint
    from mimo_codec.codec.config import CodecConfig
    from mimo_codec.codec.model import model_without_weights
    from mimo_codec.hub import CONFIG, weight_headers

    folder, name = find_checkpoint(name_or_path, revision)
    codec = model_without_weights(CodecConfig.load(folder / CONFIG), folder)
    codec.name = name
    dtypes = {header.dtype for header in weight_headers(folder).values()}
    return codec, folder, "+".join(sorted(_DTYPES[dtype] for dtype in dtypes if dtype in _DTYPES))


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
