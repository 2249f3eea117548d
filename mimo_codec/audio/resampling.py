"""Waveform at one sample rate -> waveform at another, at once or as a stream.

Tensors stay tensors, on their device and with their gradient; numpy arrays need no torch.
"""

from __future__ import annotations

import math
import operator
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mimo_codec.common.arrays import (
    FLOAT_DTYPES,
    ArrayT,
    concatenate,
    dtype_name,
    is_array,
    is_tensor,
    to_numpy,
    to_tensor,
)
from mimo_codec.common.errors import MimoError

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_MAX_FLOAT32_CYCLE = 1000
_MIN_PHASES = 4096
_GATHERED_PER_STEP = 2**18


def resample(waveform: ArrayT, orig_rate: int, new_rate: int) -> ArrayT:
    """Change the sample rate: float [..., S] -> [..., ceil(S * new_rate / orig_rate)], tensor or numpy array.

    Band-limited interpolation with a Hann-windowed sinc of 6 zero crossings on either side that
    rolls off at 0.99 of the lower Nyquist frequency; beyond its ends the waveform counts as zero.
    The result is that of `torchaudio.functional.resample` with its defaults. Rates may be any
    integers in 1000..768000, co-prime ones too; equal rates return `waveform` itself.

    Raises MimoError for other rates and for samples that are not floats, none, NaN or infinite.
    """
    orig, new = _reduced_rates(orig_rate, new_rate)
    _check_samples(waveform, "resample")
    if 0 in waveform.shape:
        raise MimoError(f"resample: shape {list(waveform.shape)} holds no samples")
    if orig == new:
        return waveform
    interpolate = _interpolator(orig, new, dtype_name(waveform))
    rows = waveform.reshape(-1, waveform.shape[-1])
    before, after = (_zeros(rows, len(rows), count) for count in interpolate.padding)
    padded = concatenate([before, rows, after])
    num_outputs = interpolate.num_outputs(padded.shape[-1])
    return interpolate(padded, 0, 0, num_outputs).reshape(*waveform.shape[:-1], num_outputs)


class StreamResampler:
    """`resample` for a waveform that arrives in chunks, of any sizes, in bounded memory.

    What `push` and then `finish` return, concatenated, equals `resample` of all chunks at once.
    Output lags behind input by 6 zero crossings of the lower rate: 0.4 ms from 16 to 24 kHz.
    """

    _pending: Any  # None or tensor or array: padded samples that outputs to come depend on
    _num_dropped: int  # padded samples before those
    _num_outputs: int

    def __init__(self, orig_rate: int, new_rate: int):
        self._orig, self._new = _reduced_rates(orig_rate, new_rate)
        self._restart()

    def push(self, chunk: ArrayT) -> ArrayT:
        """The next samples, float [S] -> the outputs [S'] that they complete, perhaps none, of the same kind.

        Raises MimoError for another shape or dtype and for NaN or infinite samples.
        """
        _check_samples(chunk, "StreamResampler")
        if chunk.ndim != 1:
            raise MimoError(f"StreamResampler: chunk has shape {list(chunk.shape)}, not [S]")
        if self._pending is None:
            self._pending = _zeros(chunk, self._padding(chunk)[0])
        return chunk if self._orig == self._new else self._advance(self._pending, chunk)

    def finish(self) -> Any:
        """The last outputs [S'], of the kind that was pushed; what is pushed next begins another waveform."""
        if self._pending is None:
            nothing = np.empty(0, np.float32)
            return to_tensor(nothing) if "torch" in sys.modules else nothing
        after = _zeros(self._pending, self._padding(self._pending)[1])
        rest = after if self._orig == self._new else self._advance(self._pending, after)
        self._restart()
        return rest

    def _restart(self) -> None:
        self._pending, self._num_dropped, self._num_outputs = None, 0, 0

    def _padding(self, like: Any) -> tuple[int, int]:
        if self._orig == self._new:
            return 0, 0
        return _interpolator(self._orig, self._new, dtype_name(like)).padding

    def _advance(self, pending: ArrayT, samples: ArrayT) -> ArrayT:
        interpolate = _interpolator(self._orig, self._new, dtype_name(samples))
        padded = concatenate([pending, samples])
        stop = interpolate.num_outputs(self._num_dropped + len(padded))
        outputs = interpolate(padded[None], self._num_dropped, self._num_outputs, stop)[0]
        spent = min(stop * self._orig // self._new - self._num_dropped, len(padded))
        self._pending = concatenate([padded[spent:]])  # a copy, so that what is spent is freed
        self._num_dropped += spent
        self._num_outputs = stop
        return outputs


def check_sample_rate(rate: SupportsIndex, where: str = "sample_rate") -> int:
    """`rate` in Hz as an int; MimoError unless it is an integer in 1000..768000."""
    try:
        hertz = operator.index(rate)
    except TypeError:
        hertz = 0
    if not MIN_SAMPLE_RATE <= hertz <= MAX_SAMPLE_RATE:
        raise MimoError(
            f"{where}: {rate!r} is not a sample rate; an integer in {MIN_SAMPLE_RATE}..{MAX_SAMPLE_RATE} Hz is needed"
        )
    return hertz


def check_finite(waveform: Any, where: str, offset: int = 0) -> None:
    """MimoError that names the first NaN or infinite sample of [..., S], tensor or numpy array.

    `offset` is the index of the waveform's first sample in what the user knows.
    """
    finite = abs(waveform) < math.inf
    if not finite.all():
        bad = ~to_numpy(finite).reshape(-1, finite.shape[-1]).all(axis=0)
        first = int(bad.argmax())
        is_nan = (waveform[..., first] != waveform[..., first]).any()
        raise MimoError(f"{where}: sample {offset + first} is {'NaN' if is_nan else 'infinite'}")


def _check_samples(waveform: object, where: str) -> None:
    if not is_array(waveform) or dtype_name(waveform) not in FLOAT_DTYPES:
        kind = getattr(waveform, "dtype", type(waveform).__name__)
        raise MimoError(f"{where}: samples are {kind}; a torch tensor or a numpy array of floats is needed")
    if waveform.ndim == 0:
        raise MimoError(f"{where}: a single number has no samples; [..., S] is needed")
    check_finite(waveform, where)


def _reduced_rates(orig_rate: int, new_rate: int) -> tuple[int, int]:
    orig = check_sample_rate(orig_rate, "orig_rate")
    new = check_sample_rate(new_rate, "new_rate")
    divisor = math.gcd(orig, new)
    return orig // divisor, new // divisor


@dataclass(frozen=True, eq=False)
class _Interpolator:
    """A polyphase filter: output n weighs K padded samples, from n * orig // new on, by its taps.

    The taps repeat after `new` outputs, while the input advances by `orig` samples. Only the K taps
    around an output's own place are kept: all others of its windowed sinc are zero.
    """

    orig: int
    new: int
    starts: NDArray[np.int64]  # [new]: where the windows of one cycle start
    taps: NDArray[np.floating[Any]]  # [new, K]

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after a waveform, so that all its outputs have K samples."""
        half = self.taps.shape[1] // 2
        return half - 1, half

    def num_outputs(self, num_padded: int) -> int:
        """How many outputs the first `num_padded` padded samples determine."""
        num_windows = max(num_padded - self.taps.shape[1] + 1, 0)
        return -(-num_windows * self.new // self.orig)

    def __call__(self, padded: ArrayT, offset: int, first: int, stop: int) -> ArrayT:
        """Padded samples [B, S'], from the `offset`-th on -> outputs first..stop [B, S]."""
        outputs = _zeros(padded, len(padded), stop - first)
        if first == stop:
            return outputs
        num_taps = self.taps.shape[1]
        starts, taps, windows = _like(self.starts, padded), _like(self.taps, padded), _windows(padded, num_taps)
        max_step = max(1, _GATHERED_PER_STEP // (num_taps * len(padded)))
        n = first
        while n < stop:
            cycle, phase = divmod(n, self.new)
            step = min(max_step, self.new - phase, stop - n)
            phases = slice(phase, phase + step)
            gathered = windows[:, starts[phases] + (cycle * self.orig - offset)]
            outputs[:, n - first : n - first + step] = _sum(gathered * taps[phases])
            n += step
        return outputs


@lru_cache(maxsize=8)
def _interpolator(orig: int, new: int, dtype: str) -> _Interpolator:
    # torchaudio places the taps in the precision of the waveform, and released models have met its
    # rounding. In long cycles, those of odd rates, float32 would leave noise of up to -50 dB.
    in_float32 = dtype == "float32" and max(orig, new) <= _MAX_FLOAT32_CYCLE
    precision = np.float32 if in_float32 else np.float64
    cutoff = min(orig, new) * _ROLLOFF  # in half cycles per `orig` input samples
    half = math.ceil(_ZERO_CROSSINGS * orig / cutoff)
    phase = np.arange(new)[:, None]
    place = phase * orig // new + np.arange(1 - half, 1 + half)
    t = (place.astype(precision) / orig - phase.astype(precision) / new) * cutoff
    window = np.square(np.cos(t * (math.pi / 2 / _ZERO_CROSSINGS)))
    weights = np.sinc(t) * window * (cutoff / orig)
    taps = np.where(abs(t) < _ZERO_CROSSINGS, weights, 0).astype("float64" if dtype == "float64" else "float32")
    # The same filter in a longer cycle, where a step of `_Interpolator` is worth its overhead.
    repeats = -(-_MIN_PHASES // new)
    starts = np.arange(new * repeats) * orig // new
    return _Interpolator(orig * repeats, new * repeats, starts, np.tile(taps, (repeats, 1)))


def _sum(x: Any) -> Any:
    """[..., K] -> [...]: sums in pairs, always in the same order, so that tensors and arrays give the same bits."""
    while (size := x.shape[-1]) > 1:
        half = size // 2
        pairs = x[..., :half] + x[..., half : 2 * half]
        x = concatenate([pairs, x[..., 2 * half :]]) if size % 2 else pairs
    return x[..., 0]


# ---- what torch and numpy call by other names ------------------------------------------------------------------------


def _like(array: NDArray[Any], x: Any) -> Any:
    """`array` as what `x` is: a tensor on its device, or a numpy array."""
    return to_tensor(array).to(x.device) if is_tensor(x) else array


def _zeros(like: Any, *shape: int) -> Any:
    return like.new_zeros(shape) if is_tensor(like) else np.zeros(shape, like.dtype)


def _windows(x: Any, size: int) -> Any:
    """[B, S] -> [B, S - size + 1, size], without a copy"""
    return x.unfold(-1, size, 1) if is_tensor(x) else sliding_window_view(x, size, axis=-1)
