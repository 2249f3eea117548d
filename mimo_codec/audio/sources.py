"""What callers pass in as audio -> a file, or an array with its sample rate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from mimo_codec.audio.waveform import check_sample_rate
from mimo_codec.common.arrays import AnyArray
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.common.spooled import as_path, is_content

if TYPE_CHECKING:
    import numpy as np
    import torch

AnyPath: TypeAlias = "str | os.PathLike[str]"
AnyFile: TypeAlias = "AnyPath | bytes | BinaryIO"
"""Path of a file, its content, or a binary file object, read from where it stands."""
AnyAudio: TypeAlias = (
    "AnyFile | np.ndarray | torch.Tensor | tuple[np.ndarray | torch.Tensor, int] | Mapping[str, object]"
)
"""A file; a waveform [S] or [channels, S], alone or with its rate, (waveform, Hz); or what a data set of Hugging Face
has for one: {"array": ..., "sampling_rate": ...} or {"bytes": ..., "path": ...}."""


def as_source(audio: Any, sample_rate: Any, name: str = "audio") -> tuple[AnyPath | AnyArray, Any]:
    """Sort out any audio -> (path, None), or (array, its sample rate), neither of which is checked yet.

    sample_rate: of arrays that come without one. Raises MimoError for two different rates of one array, and for
    dictionaries that hold no audio.
    """
    if hasattr(audio, "get_all_samples"):  # what data sets give since they decode by torchcodec
        decoded = audio.get_all_samples()
        return decoded.data, decoded.sample_rate
    if isinstance(audio, Mapping):
        return _from_dictionary(audio, sample_rate, name)
    if isinstance(audio, tuple) and len(audio) == 2:
        return _with_rate(*audio, sample_rate, name)
    if isinstance(audio, (str, os.PathLike)) or is_content(audio):
        return as_path(audio, name), None
    return audio, sample_rate


def _from_dictionary(audio: Mapping[Any, Any], sample_rate: Any, name: str) -> tuple[AnyPath | AnyArray, Any]:
    if audio.get("array") is not None:
        require("sampling_rate" in audio, f"{name}: has an array without sampling_rate")
        return _with_rate(audio["array"], audio["sampling_rate"], sample_rate, name)
    path = audio.get("path")
    if audio.get("bytes") is not None:
        return as_path(audio["bytes"], path if isinstance(path, str) else name), None
    if path is not None:
        return as_path(path, name), None
    keys = ", ".join(map(repr, list(audio)[:8])) or "nothing"
    raise MimoError(f"{name}: a dictionary of {keys}; array and sampling_rate, or bytes, or path is needed")


def _with_rate(array: Any, rate: Any, sample_rate: Any, name: str) -> tuple[AnyArray, Any]:
    if sample_rate is not None:
        is_same = check_sample_rate(rate, f"{name}: sample_rate") == check_sample_rate(sample_rate)
        require(is_same, f"{name}: comes with the sample rate {rate}, and sample_rate={sample_rate} says another")
    return array, rate
