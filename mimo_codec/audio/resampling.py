"""Waveform at one sample rate -> waveform at another, at once or as a stream.

Tensors stay tensors, on their device and with their gradient; numpy arrays need no torch. Both take the same path: the
products of every output are added one after the other, in the order of the input, so that tensors and arrays, streams
and whole waveforms give the same samples to the last bit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.waveform import check_finite, check_sample_rate
from mimo_codec.common.arrays import FLOAT_DTYPES, ArrayT, concatenate, dtype_name, is_array, to_tensor
from mimo_codec.common.checks import require
from mimo_codec.common.rounding import ceil_div

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_MAX_FLOAT32_CYCLE = 1000
_MIN_PHASES = 4096
_OUTPUTS_PER_STEP = 2**15


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
    require(0 not in waveform.shape, f"resample: shape {list(waveform.shape)} holds no samples")
    check_finite(waveform, "resample")
    if orig == new:
        return waveform
    interpolate = _interpolator(orig, new, dtype_name(waveform))
    rows = waveform.reshape(-1, waveform.shape[-1])
    before, after = (_zeros(rows, len(rows), count) for count in interpolate.padding)
    padded = concatenate([before, rows, after])
    num_outputs = interpolate.num_outputs(padded.shape[-1])
    return interpolate(padded, 0, 0, num_outputs).reshape(*waveform.shape[:-1], num_outputs)


class StreamResampler(Generic[ArrayT]):
    """`resample` for a waveform that arrives in chunks, of any sizes, in bounded memory.

    What `push` and then `finish` return, concatenated, equals `resample` of all chunks at once.
    Output lags behind input by 6 zero crossings of the lower rate: 0.4 ms from 16 to 24 kHz.
    """

    _pending: ArrayT | None  # padded samples that outputs to come depend on
    _num_dropped: int  # padded samples before those
    _num_outputs: int

    def __init__(self, orig_rate: int, new_rate: int):
        """Begin a stream; the rates are those that `resample` takes, and others raise MimoError."""
        self._orig, self._new = _reduced_rates(orig_rate, new_rate)
        self._restart()

    def push(self, chunk: ArrayT) -> ArrayT:
        """Take the next samples, float [S] -> the outputs [S'] that they complete, perhaps none, of the same kind.

        Raises MimoError for another shape or dtype. Samples are not looked at: NaN and infinite ones spread.
        """
        _check_samples(chunk, "StreamResampler")
        require(chunk.ndim == 1, f"StreamResampler: chunk has shape {list(chunk.shape)}, not [S]")
        if self._pending is None:
            self._pending = _zeros(chunk, self._padding(chunk)[0])
        return chunk if self._orig == self._new else self._advance(self._pending, chunk)

    def finish(self) -> ArrayT:
        """End the stream -> the last outputs [S'], of the kind that was pushed; the next chunk begins another one."""
        if self._pending is None:
            empty: Any = np.empty(0, np.float32)
            nothing: ArrayT = to_tensor(empty) if "torch" in sys.modules else empty  # type: ignore[assignment]
            return nothing
        after = _zeros(self._pending, self._padding(self._pending)[1])
        rest = after if self._orig == self._new else self._advance(self._pending, after)
        self._restart()
        return rest

    def _restart(self) -> None:
        self._pending, self._num_dropped, self._num_outputs = None, 0, 0

    def _padding(self, like: ArrayT) -> tuple[int, int]:
        if self._orig == self._new:
            return 0, 0
        return _interpolator(self._orig, self._new, dtype_name(like)).padding

    def _advance(self, pending: ArrayT, samples: ArrayT) -> ArrayT:
        interpolate = _interpolator(self._orig, self._new, dtype_name(samples))
        padded = concatenate([pending, samples])
        stop = interpolate.num_outputs(self._num_dropped + len(padded))
        outputs: ArrayT = interpolate(padded[None], self._num_dropped, self._num_outputs, stop)[0]
        spent = min(stop * self._orig // self._new - self._num_dropped, len(padded))
        self._pending = concatenate([padded[spent:]])  # a copy, so that what is spent is freed
        self._num_dropped += spent
        self._num_outputs = stop
        return outputs


def _check_samples(waveform: object, where: str) -> None:
    is_float = is_array(waveform) and dtype_name(waveform) in FLOAT_DTYPES
    kind = getattr(waveform, "dtype", type(waveform).__name__)
    require(is_float, f"{where}: samples are {kind}; a torch tensor or a numpy array of floats is needed")
    require(getattr(waveform, "shape", ()), f"{where}: a single number has no samples; [..., S] is needed")


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
    taps: NDArray[np.float32] | NDArray[np.float64]  # [K, new]

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after a waveform, so that all its outputs have K samples."""
        half = len(self.taps) // 2
        return half - 1, half

    def num_outputs(self, num_padded: int) -> int:
        """How many outputs the first `num_padded` padded samples determine."""
        num_windows = max(num_padded - len(self.taps) + 1, 0)
        return ceil_div(num_windows * self.new, self.orig)

    def __call__(self, padded: ArrayT, offset: int, first: int, stop: int) -> ArrayT:
        """Padded samples [B, S'], from the `offset`-th on -> outputs first..stop [B, S]."""
        outputs = _zeros(padded, len(padded), stop - first)
        if first == stop:
            return outputs
        starts, taps = _like(self.starts, padded), _like(self.taps, padded)
        max_step = max(1, _OUTPUTS_PER_STEP // len(padded))
        n = first
        while n < stop:
            cycle, phase = divmod(n, self.new)
            step = min(max_step, self.new - phase, stop - n)
            phases = slice(phase, phase + step)
            begins = starts[phases] + (cycle * self.orig - offset)
            outputs[:, n - first : n - first + step] = _weighted_sums(padded, begins, taps[:, phases])
            n += step
        return outputs


def _weighted_sums(x: ArrayT, begins: ArrayT, taps: ArrayT) -> ArrayT:
    """Compute [B, N], the sums over k of x[:, begins[n] + k] * taps[k, n], of x [B, S], begins [N] and taps [K, N].

    One tap of all outputs after the other, a product and then a sum: any other order would round differently.
    """
    sums: ArrayT = _take(x, begins) * taps[0]
    for k in range(1, len(taps)):
        sums += _take(x[:, k:], begins) * taps[k]
    return sums


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
    repeats = ceil_div(_MIN_PHASES, new)
    starts = np.arange(new * repeats) * orig // new
    return _Interpolator(orig * repeats, new * repeats, starts, np.tile(taps.T, (1, repeats)))


# ---- what torch and numpy call by other names ------------------------------------------------------------------------


def _like(array: NDArray[Any], x: ArrayT) -> ArrayT:
    """Return `array` as what `x` is: a tensor on its device, or a numpy array."""
    return array if isinstance(x, np.ndarray) else to_tensor(array).to(x.device)


def _zeros(like: ArrayT, *shape: int) -> ArrayT:
    return np.zeros(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def _take(x: ArrayT, places: ArrayT) -> ArrayT:
    """[B, S], [N] -> [B, N]: the columns of x at these places."""
    return x.take(places, axis=1) if isinstance(x, np.ndarray) else x.index_select(1, places)
