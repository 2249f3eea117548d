"""Waveform at one sample rate -> waveform at another, at once or as a stream."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.errors import MimoError

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_MAX_FLOAT32_CYCLE = 1000
_MIN_PHASES = 4096
_GATHERED_PER_STEP = 2**18


def resample(waveform: Tensor, orig_rate: int, new_rate: int) -> Tensor:
    """Change the sample rate: float [..., S] -> [..., ceil(S * new_rate / orig_rate)].

    Band-limited interpolation with a Hann-windowed sinc of 6 zero crossings on either side that
    rolls off at 0.99 of the lower Nyquist frequency; beyond its ends the waveform counts as zero.
    The result is that of `torchaudio.functional.resample` with its defaults. Rates may be any
    integers in 1000..768000, co-prime ones too; equal rates return `waveform` itself.

    Raises MimoError for other rates and for samples that are not floats, none, NaN or infinite.
    """
    orig, new = _reduced_rates(orig_rate, new_rate)
    _check_samples(waveform, "resample")
    if not waveform.numel():
        raise MimoError(f"resample: shape {list(waveform.shape)} holds no samples")
    if orig == new:
        return waveform
    interpolate = _interpolator(orig, new, waveform.dtype)
    padded = F.pad(waveform.reshape(-1, waveform.shape[-1]), interpolate.padding)
    num_outputs = interpolate.num_outputs(padded.shape[-1])
    return interpolate(padded, 0, 0, num_outputs).reshape(*waveform.shape[:-1], num_outputs)


class StreamResampler:
    """`resample` for a waveform that arrives in chunks, of any sizes, in bounded memory.

    What `push` and then `finish` return, concatenated, equals `resample` of all chunks at once.
    Output lags behind input by 6 zero crossings of the lower rate: 0.4 ms from 16 to 24 kHz.
    """

    _pending: Tensor | None  # padded samples that outputs to come depend on
    _num_dropped: int  # padded samples before those
    _num_outputs: int

    def __init__(self, orig_rate: int, new_rate: int):
        self._orig, self._new = _reduced_rates(orig_rate, new_rate)
        self._restart()

    def push(self, chunk: Tensor) -> Tensor:
        """The next samples, float [S] -> the outputs [S'] that they complete, perhaps none.

        Raises MimoError for another shape or dtype and for NaN or infinite samples.
        """
        _check_samples(chunk, "StreamResampler")
        if chunk.ndim != 1:
            raise MimoError(f"StreamResampler: chunk has shape {list(chunk.shape)}, not [S]")
        if self._pending is None:
            self._pending = chunk.new_zeros(self._padding(chunk)[0])
        return chunk if self._orig == self._new else self._advance(self._pending, chunk)

    def finish(self) -> Tensor:
        """The last outputs [S']; what is pushed next begins another waveform."""
        if self._pending is None:
            return torch.empty(0)
        after = self._pending.new_zeros(self._padding(self._pending)[1])
        rest = after if self._orig == self._new else self._advance(self._pending, after)
        self._restart()
        return rest

    def _restart(self) -> None:
        self._pending, self._num_dropped, self._num_outputs = None, 0, 0

    def _padding(self, like: Tensor) -> tuple[int, int]:
        if self._orig == self._new:
            return 0, 0
        return _interpolator(self._orig, self._new, like.dtype).padding

    def _advance(self, pending: Tensor, samples: Tensor) -> Tensor:
        interpolate = _interpolator(self._orig, self._new, samples.dtype)
        padded = torch.cat([pending, samples])
        stop = interpolate.num_outputs(self._num_dropped + len(padded))
        outputs = interpolate(padded[None], self._num_dropped, self._num_outputs, stop)[0]
        spent = min(stop * self._orig // self._new - self._num_dropped, len(padded))
        self._pending = padded[spent:].clone()
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


def check_finite(waveform: Tensor, where: str, offset: int = 0) -> None:
    """MimoError that names the first NaN or infinite sample of [..., S].

    `offset` is the index of the waveform's first sample in what the user knows.
    """
    bad = ~torch.isfinite(waveform)
    if bad.any():
        first = int(bad.reshape(-1, bad.shape[-1]).any(dim=0).nonzero()[0])
        kind = "NaN" if waveform[..., first].isnan().any() else "infinite"
        raise MimoError(f"{where}: sample {offset + first} is {kind}")


def _check_samples(waveform: Tensor, where: str) -> None:
    if not isinstance(waveform, Tensor) or not waveform.is_floating_point():
        kind = getattr(waveform, "dtype", type(waveform).__name__)
        raise MimoError(f"{where}: samples are {kind}; a torch tensor of floats is needed")
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
    starts: Tensor  # [new] int64: where the windows of one cycle start
    taps: Tensor  # [new, K]

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after a waveform, so that all its outputs have K samples."""
        half = self.taps.shape[1] // 2
        return half - 1, half

    def num_outputs(self, num_padded: int) -> int:
        """How many outputs the first `num_padded` padded samples determine."""
        num_windows = max(num_padded - self.taps.shape[1] + 1, 0)
        return -(-num_windows * self.new // self.orig)

    def __call__(self, padded: Tensor, offset: int, first: int, stop: int) -> Tensor:
        """Padded samples [B, S'], from the `offset`-th on -> outputs first..stop [B, S]."""
        outputs = padded.new_empty(len(padded), stop - first)
        if first == stop:
            return outputs
        starts, taps = self.starts.to(padded.device), self.taps.to(padded.device)
        num_taps = taps.shape[1]
        windows = padded.unfold(-1, num_taps, 1)
        max_step = max(1, _GATHERED_PER_STEP // (num_taps * len(padded)))
        n = first
        while n < stop:
            cycle, phase = divmod(n, self.new)
            step = min(max_step, self.new - phase, stop - n)
            phases = slice(phase, phase + step)
            gathered = windows[:, starts[phases] + (cycle * self.orig - offset)]
            outputs[:, n - first : n - first + step] = (gathered * taps[phases]).sum(dim=-1)
            n += step
        return outputs


@lru_cache(maxsize=8)
def _interpolator(orig: int, new: int, dtype: torch.dtype) -> _Interpolator:
    # torchaudio places the taps in the precision of the waveform, and released models have met its
    # rounding. In long cycles, those of odd rates, float32 would leave noise of up to -50 dB.
    in_float32 = dtype == torch.float32 and max(orig, new) <= _MAX_FLOAT32_CYCLE
    precision = torch.float32 if in_float32 else torch.float64
    cutoff = min(orig, new) * _ROLLOFF  # in half cycles per `orig` input samples
    half = math.ceil(_ZERO_CROSSINGS * orig / cutoff)
    with torch.inference_mode(False):  # what is cached must also serve callers that train
        phase = torch.arange(new)[:, None]
        place = phase * orig // new + torch.arange(1 - half, 1 + half)
        t = (place.to(precision) / orig - phase.to(precision) / new) * cutoff
        window = torch.cos(t * (math.pi / 2 / _ZERO_CROSSINGS)).square()
        weights = torch.sinc(t) * window * (cutoff / orig)
        taps = torch.where(t.abs() < _ZERO_CROSSINGS, weights, 0.0).to(dtype)
        # The same filter in a longer cycle, where a step of `_Interpolator` is worth its overhead.
        repeats = -(-_MIN_PHASES // new)
        starts = torch.arange(new * repeats) * orig // new
        return _Interpolator(orig * repeats, new * repeats, starts, taps.repeat(repeats, 1))
