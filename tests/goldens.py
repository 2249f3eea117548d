"""The golden checkpoints, random weights in the released layout, and what the released implementation gives for them."""

import copy
from functools import cache

import torch
from conftest import GOLDEN
from safetensors.torch import load_file
from torch import Tensor

from mimo_codec import CodecConfig, MimoCodec

CODECS = ("codec_base", "codec_variant", "codec_hybrid")
DECODING_CODECS = ("codec_base", "codec_variant")
CASES = ("short", "odd", "long")


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
def streaming_codec(preset: str = "tiny") -> MimoCodec:
    """Random weights of the streaming kind, and codebooks of the features' size, so that codes vary from frame to
    frame (fresh codebooks are so small that nearly all frames get the same codes)."""
    torch.manual_seed(0)
    codec = MimoCodec(CodecConfig.preset(preset)).eval()
    for index in range(codec.num_quantizers):
        codec.quantizer.codebook(index).normal_().mul_(0.7**index)
    return codec
