"""Codes that callers pass in, checked against the model that is to decode them. Needs no torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.sources import AnyFile
from mimo_codec.codec.facts import CodecFacts
from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import has_values, is_array
from mimo_codec.common.checks import check_count
from mimo_codec.common.errors import MimoError
from mimo_codec.common.spooled import is_content

if TYPE_CHECKING:
    import torch

CodesLike: TypeAlias = "AudioCodes | np.ndarray | torch.Tensor"
"""AudioCodes, or codes [Q, T] as they are."""
CodesSource: TypeAlias = "CodesLike | AnyFile"
"""Codes, or a .mimo file: its path, its bytes or a file object."""


def chunk_of_codes(codec: CodecFacts, codes: CodesLike) -> NDArray[np.int64]:
    """Checked codes [Q, n]; unlike AudioCodes, a chunk of a stream may be empty."""
    if not isinstance(codes, AudioCodes) and tuple(getattr(codes, "shape", ()))[1:] == (0,):
        _check_shape(codec, codes)
        return np.zeros(tuple(codes.shape), np.int64)
    return _check_codes(codec, codes).to_numpy()


def read_codes(codec: CodecFacts, codes: CodesSource) -> AudioCodes:
    """Codes that may be in a file, as AudioCodes; MimoError when they cannot be of this model."""
    if isinstance(codes, (str, os.PathLike)) or is_content(codes):
        return _check_codes(codec, AudioCodes.load(cast("AnyFile", codes)))
    return _check_codes(codec, cast("CodesLike", codes))


def _check_codes(codec: CodecFacts, codes: CodesLike) -> AudioCodes:
    """Codes as AudioCodes; MimoError when they cannot be of this model."""
    if not isinstance(codes, AudioCodes):
        num_quantizers, num_frames = _check_shape(codec, codes)
        num_samples = max(num_frames, 1) * codec.config.samples_per_frame
        sizes = codec.codebook_sizes[:num_quantizers]
        return AudioCodes(codes, num_samples, codec.sample_rate, codec.frame_rate, sizes)
    if codes.model is not None and codes.model.rpartition("@")[2] != codec.model_id.rpartition("@")[2]:
        raise MimoError(f"codes: made by {codes.model}, this model is {codec.model_id}: use the one that made them")
    sizes = codec.codebook_sizes
    if codes.codebook_sizes != sizes[: codes.num_quantizers]:
        raise MimoError(
            f"codes: codebook sizes {list(codes.codebook_sizes)} do not fit {codec.model_id}, which has {list(sizes)}"
        )
    if (codes.sample_rate, codes.frame_rate) != (codec.sample_rate, codec.frame_rate):
        raise MimoError(
            f"codes: {codes.frame_rate:g} frames of audio at {codes.sample_rate} Hz a second do not fit"
            f" {codec.model_id}, which has {codec.frame_rate:g} at {codec.sample_rate} Hz"
        )
    return codes


def _check_shape(codec: CodecFacts, codes: object) -> tuple[int, int]:
    """[Q, T] of an array of codes; MimoError for anything else, and for more codebooks than this model has."""
    if not is_array(codes):
        kind = type(codes).__name__
        raise MimoError(f"codes: is a {kind}; AudioCodes, or a tensor or array [Q, T] of integers is needed")
    if not has_values(codes):
        raise MimoError("codes: is a sparse, nested or meta tensor; a plain one is needed")
    if codes.ndim != 2:
        raise MimoError(f"codes: has shape {list(codes.shape)}; [Q, T] is needed")
    num_quantizers, num_frames = codes.shape
    check_count(num_quantizers, codec.num_quantizers)
    return num_quantizers, num_frames
