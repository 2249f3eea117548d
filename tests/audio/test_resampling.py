"""Resampling against the goldens and the definition, at once and as a stream, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from signals import noise, sine
from torch import Tensor

from mimo_codec.audio.resampling import StreamResampler, resample
from mimo_codec.audio.waveform import check_sample_rate
from mimo_codec.common.errors import MimoError

EXPECTED = GOLDEN / "audio" / "expected.safetensors"

GOLDEN_RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000)

# Of the signal's peak. Both sides round in float32, hence about 3e-7 where the taps are the same.
TOLERANCE = 1e-5

try:
    from torchaudio.functional import resample as torchaudio_resample
except Exception as error:  # a torchaudio built for another torch fails in many ways
    torchaudio_resample = None
    TORCHAUDIO_MISSING = f"torchaudio cannot be imported: {error}"
else:
    TORCHAUDIO_MISSING = ""

rates = st.integers(1000, 50_000)

seeds = st.integers(0, 2**31)


def chunked(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """`x` in pieces of `sizes`, again and again."""
    pieces, start, i = [], 0, 0
    while start < len(x):
        pieces.append(x[start : start + sizes[i % len(sizes)]])
        start += len(pieces[-1])
        i += 1
    return pieces


def stream(x: Tensor, sizes: list[int], orig: int, new: int) -> Tensor:
    resampler = StreamResampler(orig, new)
    return torch.cat([*(resampler.push(piece) for piece in chunked(x, sizes)), resampler.finish()])


def resample_by_definition(x: Tensor, orig: int, new: int) -> Tensor:
    """Every output as the sum over all inputs of a windowed sinc of their distance; float64 [S]."""
    num_outputs = math.ceil(len(x) * new / orig)
    n = torch.arange(num_outputs, dtype=torch.float64)[:, None]
    i = torch.arange(len(x), dtype=torch.float64)
    scale = 0.99 * min(1.0, new / orig)
    t = (i - n * orig / new) * scale
    hann = torch.where(t.abs() < 6, 0.5 + 0.5 * torch.cos(math.pi * t / 6), 0.0)
    return (torch.sinc(t) * hann * scale) @ x.double()


def assert_close_to_peak(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.abs().max(), f"off by {error:.1e}"


# --- resample


@pytest.mark.parametrize("rate", GOLDEN_RATES)
def test_resample_gives_the_golden_outputs(rate: int) -> None:
    golden = load_file(EXPECTED)
    actual = resample(golden[f"in.{rate}"], rate, 24_000)
    assert_close_to_peak(actual, golden[f"out.{rate}"])


@pytest.mark.skipif(torchaudio_resample is None, reason=TORCHAUDIO_MISSING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("orig", [*GOLDEN_RATES, 12_000, 96_000])
def test_resample_equals_torchaudio(orig: int, dtype: torch.dtype) -> None:
    x = noise(2, 3001, dtype=dtype)
    assert_close_to_peak(resample(x, orig, 24_000), torchaudio_resample(x, orig, 24_000))


@pytest.mark.skipif(torchaudio_resample is None, reason=TORCHAUDIO_MISSING)
@pytest.mark.parametrize("orig", [3001, 44_101])
def test_resample_equals_torchaudio_at_coprime_rates(orig: int) -> None:
    x = noise(5000, dtype=torch.float64)  # in float32 torchaudio's own rounding reaches 2e-3
    assert_close_to_peak(resample(x, orig, 4000), torchaudio_resample(x, orig, 4000))


@given(orig=rates, new=rates, num_samples=st.integers(1, 60), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_resample_is_a_windowed_sinc(orig: int, new: int, num_samples: int, seed: int) -> None:
    assume(orig != new)
    x = noise(num_samples, seed=seed, dtype=torch.float64)
    error = resample(x, orig, new) - resample_by_definition(x, orig, new)
    assert error.abs().max() < 1e-9  # float64 on both sides


@pytest.mark.parametrize(("orig", "new"), [(44_101, 24_000), (24_000, 44_101), (768_000, 1009), (1000, 47_999)])
def test_resample_float32_is_a_windowed_sinc_at_coprime_rates(orig: int, new: int) -> None:
    x = noise(3000 if orig > new else 300)
    assert_close_to_peak(resample(x, orig, new), resample_by_definition(x, orig, new))


@given(orig=rates, new=rates, num_samples=st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_resample_length(orig: int, new: int, num_samples: int) -> None:
    y = resample(torch.zeros(num_samples), orig, new)
    assert y.shape == (-(-num_samples * new // orig),)


def test_resample_works_at_the_largest_coprime_rates() -> None:
    x = torch.ones(2000)
    y = resample(x, 767_999, 768_000)
    assert y.shape == (2001,)
    assert (y[100:-100] - 1).abs().max() < 2e-3


def test_resample_keeps_leading_dimensions_dtype_and_gradient() -> None:
    x = noise(2, 3, 500, dtype=torch.float64).requires_grad_()
    y = resample(x, 16_000, 24_000)
    assert y.shape == (2, 3, 750) and y.dtype == torch.float64
    assert torch.equal(y[1, 2], resample(x[1, 2], 16_000, 24_000))
    y.sum().backward()
    assert x.grad is not None and (x.grad[..., 50:-50] - 1.5).abs().max() < 1e-2


def test_resample_serves_training_after_inference_mode() -> None:
    with torch.inference_mode():
        resample(noise(100), 16_000, 23_000)
    x = noise(100).requires_grad_()
    resample(x, 16_000, 23_000).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("orig", [16_000, 44_100, 44_101])
def test_arrays_are_resampled_as_tensors_are(orig: int, dtype: torch.dtype) -> None:
    x = noise(2, 2, 3000, dtype=dtype)
    expected = resample(x, orig, 24_000)
    arrays = resample(x.numpy(), orig, 24_000)
    assert isinstance(arrays, np.ndarray) and arrays.dtype == x.numpy().dtype
    assert np.array_equal(arrays, expected.numpy())  # to the last bit
    resampler = StreamResampler(orig, 24_000)
    pieces = [*(resampler.push(piece.numpy()) for piece in x[0, 0].split(700)), resampler.finish()]
    assert all(isinstance(piece, np.ndarray) and piece.dtype == arrays.dtype for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), expected[0, 0].numpy())


def test_bfloat16_stays_bfloat16() -> None:
    x = noise(1000)
    y = resample(x.bfloat16(), 16_000, 24_000)
    assert y.dtype == torch.bfloat16
    assert_close_to_peak(y, resample(x, 16_000, 24_000), 2**-7)


def test_equal_rates_return_the_input() -> None:
    x = noise(10)
    assert resample(x, 16_000, 16_000) is x
    array = x.numpy()
    assert resample(array, 16_000, 16_000) is array


@pytest.mark.parametrize(("orig", "new"), [(16_000, 24_000), (48_000, 24_000), (44_100, 24_000)])
def test_resample_keeps_direct_current_and_is_linear(orig: int, new: int) -> None:
    ones = resample(torch.ones(4000), orig, new)
    assert (ones[200:-200] - 1).abs().max() < 2e-3  # the pass-band ripple of 6 zero crossings
    a, b = noise(500, seed=1), noise(500, seed=2)
    apart = 0.5 * resample(a, orig, new) - 2 * resample(b, orig, new)
    assert_close_to_peak(resample(0.5 * a - 2 * b, orig, new), apart)


@pytest.mark.parametrize("orig", [16_000, 44_100, 44_101])
def test_a_sine_stays_that_sine(orig: int) -> None:
    y = resample(sine(1000, orig, orig // 4).float(), orig, 24_000)
    error = y.double() - sine(1000, 24_000, len(y))
    assert error[100:-100].abs().max() < 2e-3


def test_what_the_new_rate_cannot_hold_is_removed() -> None:
    y = resample(sine(17_000, 48_000, 24_000).float(), 48_000, 24_000)
    assert y[100:-100].abs().max() < 1e-2  # else it would be an alias at 7 kHz


# --- StreamResampler


@given(
    orig=rates,
    new=rates,
    num_samples=st.integers(1, 4000),
    sizes=st.lists(st.integers(0, 700), min_size=1, max_size=6).filter(any),
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_stream_equals_at_once(orig: int, new: int, num_samples: int, sizes: list[int], seed: int) -> None:
    x = noise(num_samples, seed=seed)
    assert torch.equal(stream(x, sizes, orig, new), resample(x, orig, new))


@pytest.mark.parametrize("orig", [*GOLDEN_RATES, 24_000, 44_101])
def test_stream_of_single_samples_equals_at_once(orig: int) -> None:
    x = noise(400)
    assert torch.equal(stream(x, [1], orig, 24_000), resample(x, orig, 24_000))


@pytest.mark.parametrize("new", [16_000, 24_000])
def test_stream_can_be_used_again(new: int) -> None:
    resampler = StreamResampler(16_000, new)
    x = noise(300)
    first, second = (torch.cat([resampler.push(x), resampler.finish()]) for _ in range(2))
    assert torch.equal(first, second)
    assert resampler.finish().shape == (0,)


def test_stream_keeps_little_and_lags_little() -> None:
    resampler = StreamResampler(44_101, 24_000)
    for _ in range(50):
        resampler.push(noise(10_000))
        assert resampler._pending is not None
        assert resampler._pending.untyped_storage().nbytes() < 4 * 100
    # 500000 samples and a lag of 6 zero crossings at 24 kHz
    assert 0 <= 500_000 * 24_000 / 44_101 - resampler._num_outputs <= 8


# --- what the resamplers refuse


@pytest.mark.parametrize("rate", [0, -16_000, 999, 768_001, 16_000.5, "16000", None, True, math.nan])
def test_sample_rates_that_are_none(rate: object) -> None:
    for refuse in (
        lambda: check_sample_rate(rate),  # type: ignore[arg-type]
        lambda: resample(torch.ones(5), rate, 24_000),  # type: ignore[arg-type]
        lambda: resample(torch.ones(5), 24_000, rate),  # type: ignore[arg-type]
        lambda: StreamResampler(rate, 24_000),  # type: ignore[arg-type]
    ):
        with pytest.raises(MimoError) as raised:
            refuse()
        assert repr(rate) in str(raised.value) and "1000..768000" in str(raised.value)


def test_sample_rate_may_be_any_integer_type() -> None:
    rate = check_sample_rate(np.int32(16_000))
    assert rate == 16_000 and type(rate) is int


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.ones(5, dtype=torch.int16), "int16"),
        (np.ones(5, dtype=np.int16), "int16; a torch tensor or a numpy array"),
        ([0.0, 1.0], "list"),
        (torch.tensor(1.0), "a single number"),
    ],
)
def test_waveforms_that_cannot_be_resampled(waveform: Tensor, message: str) -> None:
    with pytest.raises(MimoError, match=message):
        resample(waveform, 16_000, 24_000)
    with pytest.raises(MimoError, match=message):
        StreamResampler(16_000, 24_000).push(waveform)


@pytest.mark.parametrize(
    ("samples", "message"), [([0.0, math.nan, math.inf], "sample 1 is NaN"), ([0.0, 0.0, -math.inf], "2 is infinite")]
)
def test_samples_that_are_no_numbers_are_not_resampled(samples: list[float], message: str) -> None:
    for kind in (torch.tensor, np.array):
        with pytest.raises(MimoError, match=message):
            resample(kind(samples), 16_000, 24_000)


def test_resample_refuses_no_samples_and_a_stream_two_dimensions() -> None:
    with pytest.raises(MimoError, match="holds no samples"):
        resample(torch.empty(2, 0), 16_000, 24_000)
    with pytest.raises(MimoError, match=r"shape \[2, 5\]"):
        StreamResampler(16_000, 24_000).push(torch.zeros(2, 5))
