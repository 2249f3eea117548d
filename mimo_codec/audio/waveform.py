"""Waveforms that a caller passes in: any array or tensor of samples -> checked mono float32."""

from __future__ import annotations

import functools
import math
import operator
import reprlib
import warnings
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.arrays import (
    FLOAT_DTYPES,
    AnyArray,
    dtype_name,
    has_values,
    is_array,
    is_tensor,
    to_numpy,
)
from mimo_codec.common.checks import is_number, require
from mimo_codec.common.errors import MimoError, MimoWarning

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000
MAX_CHANNELS = 64
"""Arrays with more rows than this, and fewer columns than rows, have samples for rows."""
INTEGER_SCALE = 64.0
"""Floats beyond it are samples in the scale of integers: audio that is too loud does not come near."""

_PCM = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}
"""Integer type -> (level of silence, distance from it to full scale)."""


def check_array(waveform: AnyArray, sample_rate: float | None, where: str = "waveform") -> NDArray[np.float32]:
    """Check any waveform in memory -> mono [S] float32, a numpy array. Does not import torch.

    Args:
        waveform: numpy array or torch tensor, [S] or [channels, S]; channels are averaged. int8, uint8, int16 and int32
            are PCM and scaled to [-1, 1]; floats keep their scale.
        sample_rate: in Hz; it is checked only, the waveform is not resampled.
        where: what error messages call the waveform.

    Raises:
        MimoError: for a missing or impossible `sample_rate`, other types and shapes, an array that looks like
            [S, channels], no samples, and NaN or infinite samples.
    """
    return to_numpy(_checked(waveform, sample_rate, where))


def check_sample_rate(rate: SupportsIndex | float, where: str = "sample_rate") -> int:
    """Return `rate` in Hz as an int; raise MimoError unless it is a whole number in 1000..768000, such as 16000.0."""
    try:
        hertz = int(rate) if is_number(rate) and rate == rate // 1 else operator.index(rate)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        hertz = 0
    if not MIN_SAMPLE_RATE <= hertz <= MAX_SAMPLE_RATE:
        limits = f"{MIN_SAMPLE_RATE}..{MAX_SAMPLE_RATE} Hz"
        shown = " ".join(reprlib.repr(rate).split())
        raise MimoError(f"{where}: {shown} is not a sample rate; a whole number in {limits} is needed")
    return hertz


def check_finite(waveform: AnyArray, where: str, offset: int = 0) -> None:
    """Raise MimoError, which names the first such sample, when a waveform [..., S] has NaN or infinite samples.

    offset: index of the waveform's first sample in what the user knows.
    """
    samples: Any = waveform
    finite = abs(samples) < math.inf
    if not finite.all():
        bad = ~to_numpy(finite).reshape(-1, finite.shape[-1]).all(axis=0)
        first = int(bad.argmax())
        is_nan = (samples[..., first] != samples[..., first]).any()
        raise MimoError(f"{where}: sample {offset + first} is {'NaN' if is_nan else 'infinite'}")


def as_channels(waveform: object, where: str) -> AnyArray:
    """[S] or [channels, S], float or PCM -> [channels, S] float32, a tensor or an array as `waveform` is.

    Raises MimoError for other types and shapes; the samples are not looked at.
    """
    if not is_array(waveform):
        raise MimoError(f"{where}: is a {type(waveform).__name__}; a numpy array or a torch tensor is needed")
    require(has_values(waveform), f"{where}: is a sparse, nested or meta tensor; a plain one is needed")
    shape, dtype = list(waveform.shape), dtype_name(waveform)
    require(len(shape) in (1, 2), f"{where}: has shape {shape}; [S] or [channels, S] is needed")
    is_transposed = len(shape) == 2 and shape[0] > max(MAX_CHANNELS, shape[1]) and shape[1] > 0
    require(
        not is_transposed, f"{where}: shape {shape} looks like [S, channels]; [channels, S] is needed: transpose it"
    )
    require(
        dtype in (*_PCM, *FLOAT_DTYPES),
        f"{where}: has dtype {dtype}; float samples or int8, uint8, int16 or int32 PCM is needed",
    )
    x = _as_float32(waveform)
    if dtype in _PCM:
        silence, full_scale = _PCM[dtype]
        x = (x - silence) / full_scale
    return x if len(shape) == 2 else x[None]


def mix_down(channels: AnyArray) -> AnyArray:
    """[channels, S] float32 -> their mean [S], the same to the last bit for tensors and arrays."""
    mono: AnyArray = functools.reduce(operator.add, channels) / len(channels)
    return mono


def _checked(waveform: object, sample_rate: float | None, where: str) -> AnyArray:
    """[S] float32, a tensor or an array as `waveform` is."""
    if sample_rate is None:
        raise MimoError(f"{where}: its sample rate is not known; pass sample_rate=... in Hz")
    check_sample_rate(sample_rate, f"{where}: sample_rate")
    channels = as_channels(waveform, where)
    require(0 not in channels.shape, f"{where}: holds no samples")
    mono = mix_down(channels)
    check_finite(mono, where)
    if INTEGER_SCALE < float(np.abs(to_numpy(mono)).max()) <= 2**31:
        message = f"{where}: has float samples beyond {INTEGER_SCALE:g}, and full scale is 1"
        warnings.warn(MimoWarning(f"{message}: divide samples of 16 bits by 32768"), stacklevel=4)
    return mono


def _as_float32(x: AnyArray) -> AnyArray:
    if is_tensor(x):
        return x.float()
    with np.errstate(over="ignore"):  # infinity is named where samples are checked
        array: NDArray[Any] = np.asarray(x, np.float32)
        return array
