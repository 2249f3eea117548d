"""Codecs that several tests use: the golden checkpoints with their reference outputs, and a streaming one."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from conftest import GOLDEN, make_speech
from safetensors.torch import load_file
from torch import Tensor

from mimo_codec import CodecConfig, MimoCodec
from mimo_codec.codec.quantizer import Quantizer
from mimo_codec.codec.residual_fsq import ResidualFSQ

CODECS = ("codec_base", "codec_variant", "codec_hybrid")
DECODING_CODECS = ("codec_base", "codec_variant")
CASES = ("short", "odd", "long")
KINDS: dict[str, dict[str, Any]] = {
    "rfsq": {"quantizer_type": "rfsq", "fsq_levels": [8, 5, 5, 5], "num_quantizers": 3},
    "convnext": {"vocoder_type": "convnext", "vocoder_causal": True},
    "convnext-centred": {"vocoder_type": "convnext", "vocoder_causal": False},
}
"""Codecs like "tiny" with another quantizer or vocoder than the released one: name -> changes to that preset."""
each_kind = pytest.mark.parametrize("kind", KINDS)


def log_mel(codec: MimoCodec, waveform: Tensor) -> Tensor:
    """waveform [S] -> [M, n_mels]."""
    return codec.mel(waveform[None])[0]


def encoder_output(codec: MimoCodec, waveform: Tensor) -> Tensor:
    """waveform [S] -> encoder output [T, D], before quantization."""
    return codec.encoder(codec.mel(waveform[None]).to(codec.dtype))[0]


@cache
def golden_codec(name: str) -> MimoCodec:
    """Shared by all tests: copy it to change it."""
    return MimoCodec.from_pretrained(GOLDEN / name, device="cpu")


@cache
def expected(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name / "expected.safetensors")


@cache
def segmented_codec(name: str) -> MimoCodec:
    """A golden codec with segments of 2 s instead of 60 s, so that short audio has several."""
    codec = copy.deepcopy(golden_codec(name))
    codec.config = codec.config.replace(segment_seconds=2)
    return codec


@cache
@torch.no_grad()
def streaming_codec(preset: str = "tiny", shallow: bool = False) -> MimoCodec:
    """Random weights of the streaming kind, with codebooks drawn from features of speech, so that codes vary from frame
    to frame (the features of random weights are nearly constant, and far from fresh codebooks).

    preset: a name of a preset, or of KINDS, or several of KINDS, "rfsq+convnext". shallow: one layer in each part and
    three codebooks, which is quickly exported."""
    torch.manual_seed(0)
    kinds = [KINDS[kind] for kind in preset.split("+") if kind in KINDS]
    config = CodecConfig.preset("tiny" if kinds else preset)
    for changes in kinds:
        config = config.replace(**changes)
    if shallow:
        config = config.replace(encoder_layers=1, decoder_layers=1, vocoder_num_layers=1, num_quantizers=3)
    codec = MimoCodec(config).eval()
    spread_codes(codec.quantizer, encoder_output(codec, make_speech(10.0, seed=1)))
    return codec


def spread_codes(quantizer: Quantizer, features: Tensor) -> None:
    """Make codes of features [T, D] vary from frame to frame: entries that are drawn from them, or projections to their
    principal components."""
    if isinstance(quantizer, ResidualFSQ):
        mean = features.mean(0)
        _, values, components = torch.linalg.svd(features - mean, full_matrices=False)
        rows = components[: len(quantizer.levels)]
        scales = values[: len(quantizer.levels), None] / len(features) ** 0.5
        quantizer.in_proj.weight.copy_(rows / (2 * scales))
        quantizer.in_proj.bias.copy_(-quantizer.in_proj.weight @ mean)
        quantizer.out_proj.weight.copy_((rows * 2 * scales).T)
        quantizer.out_proj.bias.copy_(mean)
        return
    residual = features
    for index in range(quantizer.config.num_quantizers):
        entries = quantizer.codebook(index)
        drawn = residual[torch.randint(len(residual), (len(entries),))]
        entries.copy_(drawn + 0.3 * residual.std() * torch.randn_like(drawn))
        nearest = torch.cdist(residual, entries).argmin(-1)
        residual = residual - entries[nearest]


def any_codec(name: str) -> MimoCodec:
    """By name: "tiny", or one of KINDS or CODECS."""
    return streaming_codec(name) if name == "tiny" or name in KINDS else golden_codec(name)
