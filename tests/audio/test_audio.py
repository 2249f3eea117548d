"""Resampling against goldens and the definition; audio files written, read and refused."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import GOLDEN, make_speech
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from mimo_codec.audio.files import (
    AudioInfo,
    AudioWriter,
    audio_blocks,
    audio_info,
    iter_arrays,
    iter_audio,
    load_audio,
    save_audio,
)
from mimo_codec.audio.resampling import StreamResampler, resample
from mimo_codec.audio.waveform import check_array, check_sample_rate, check_waveform
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


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype) * 2 - 1


def sine(frequency: float, rate: int, num_samples: int, phase: float = 0.0) -> Tensor:
    t = torch.arange(num_samples, dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * frequency * t + phase)


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


# --- check_waveform


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_check_waveform_scales_pcm(make: Callable[..., np.ndarray | Tensor]) -> None:
    def check(*samples: int, dtype: str) -> list[float]:
        kinds = np if make is np.asarray else torch
        pcm = make(samples, dtype=getattr(kinds, dtype))
        x, array = check_waveform(pcm, 16_000), check_array(pcm, 16_000)
        assert isinstance(x, Tensor) and x.dtype == torch.float32 and x.ndim == 1
        assert isinstance(array, np.ndarray) and array.dtype == np.float32 and array.tolist() == x.tolist()
        return x.tolist()

    assert check(-128, 64, dtype="int8") == [-1, 0.5]
    assert check(0, 128, 192, dtype="uint8") == [-1, 0, 0.5]
    assert check(-(2**15), 2**14, dtype="int16") == [-1, 0.5]
    assert check(-(2**31), 2**30, dtype="int32") == [-1, 0.5]
    for dtype in ("float16", "float32", "float64"):
        assert check(-3, 2, dtype=dtype) == [-3, 2]


def test_check_waveform_averages_channels() -> None:
    x = np.array([[1.0, 0.0, 0.5], [0.0, -1.0, 0.5]])
    assert check_waveform(x, 16_000).tolist() == [0.5, -0.5, 0.5]


def test_check_waveform_takes_any_memory_layout() -> None:
    x = np.arange(6, dtype=">f4")
    assert check_waveform(x[::-2], 16_000).tolist() == [5, 3, 1]
    x = x.astype("f4")
    x.flags.writeable = False
    assert check_waveform(x, 16_000).tolist() == list(range(6))


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (None, "NoneType"),
        ([0.1, 0.2], "list"),
        (np.ones(5, dtype=bool), "bool"),
        (torch.ones(5, dtype=torch.complex64), "complex64"),
        (np.ones(5, dtype=np.int64), "int64"),
        (np.ones(5, dtype=object), "object"),
        (np.array(1.0), r"shape \[\]; \[S\] or \[channels, S\]"),
        (torch.ones(1, 2, 9), r"shape \[1, 2, 9\]; \[S\] or \[channels, S\]"),
        (np.ones((1000, 2)), "transpose"),
        (np.empty(0), "no samples"),
        (torch.empty(0, 7), "no samples"),
        (torch.empty(2, 0), "no samples"),
        (np.array([0, 1, np.nan]), "sample 2 is NaN"),
        (np.array([[0, 0.0], [0, np.inf]]), "sample 1 is infinite"),
        (np.array([0, 1e300]), "sample 1 is infinite"),  # in float32
    ],
)
def test_waveforms_that_are_refused(waveform: np.ndarray, message: str) -> None:
    for check in (check_waveform, check_array):
        with pytest.raises(MimoError, match=f"^speaker: .*{message}"):
            check(waveform, 16_000, where="speaker")


def test_check_waveform_needs_a_sample_rate() -> None:
    with pytest.raises(MimoError, match="pass sample_rate="):
        check_waveform(np.ones(5), None)
    with pytest.raises(MimoError, match="sample_rate: 7 "):
        check_waveform(np.ones(5), 7)


def test_short_waveforms_of_many_channels_are_not_taken_for_transposed() -> None:
    assert check_waveform(torch.ones(8, 3), 16_000).shape == (3,)


# --- files, written and read

SPEECH_LIKE = 0.5 * sine(440, 24_000, 36_001).float() * sine(2, 24_000, 36_001).float()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_load_wav_of_any_subtype(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, SPEECH_LIKE.numpy(), 22_050, subtype=subtype)
    x, rate = load_audio(path)
    assert x.dtype == torch.float32 and rate == 22_050
    step = {"PCM_U8": 2**-7, "PCM_16": 2**-15}.get(subtype, 2**-23)
    assert (x - SPEECH_LIKE).abs().max() <= 2 * step  # libsndfile scales by one step less


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sixteen_bits_survive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 70_000).astype(np.int16)
    save_audio(path, pcm, 16_000)
    assert torch.equal(load_audio(path)[0], torch.from_numpy(pcm) / 2**15)
    save_audio(path, load_audio(path)[0], 16_000)
    assert np.array_equal(sf.read(path, dtype="int16")[0], pcm)


@pytest.mark.parametrize(
    ("suffix", "coding", "tolerance"),
    [
        (".wav", "WAV/PCM_16", 2**-16),
        (".flac", "FLAC/PCM_16", 2**-16),
        (".ogg", "OGG/VORBIS", 0.05),
        (".opus", "OGG/OPUS", 0.05),
        (".MP3", "MP3/MPEG_LAYER_III", 0.05),
    ],
)
def test_round_trip(tmp_path: Path, suffix: str, coding: str, tolerance: float) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, SPEECH_LIKE, 24_000)
    x, rate = load_audio(str(path))
    assert rate == 24_000 and x.shape == SPEECH_LIKE.shape
    assert (x - SPEECH_LIKE).abs().max() <= tolerance
    assert audio_info(path) == AudioInfo(24_000, len(SPEECH_LIKE), 1, coding)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_channels_are_saved_and_averaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, torch.stack([SPEECH_LIKE, torch.zeros_like(SPEECH_LIKE)]), 24_000)
    assert audio_info(path).num_channels == 2
    assert (load_audio(path)[0] - SPEECH_LIKE / 2).abs().max() < 0.05


def test_more_than_full_scale_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, np.array([-7.0, -1.0, 0.0, 1.0, 7.0]), 16_000)
    assert sf.read(path, dtype="int16")[0].tolist() == [-(2**15), -(2**15), 0, 2**15 - 1, 2**15 - 1]


def test_writer_in_pieces_equals_save(tmp_path: Path) -> None:
    x = noise(150_000).requires_grad_()
    save_audio(tmp_path / "a.flac", x, 16_000)
    with AudioWriter(tmp_path / "b.flac", 16_000) as writer:
        for piece in x.split(7001):
            writer.write(piece)
        writer.write(x[:0])
    assert torch.equal(load_audio(tmp_path / "a.flac")[0], load_audio(tmp_path / "b.flac")[0])


# --- iter_audio


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_iter_audio_equals_load_audio(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_audio(path, torch.stack([noise(36_001, seed=1), noise(36_001, seed=2)]) / 2, 24_000)
    whole, _ = load_audio(path)
    for seconds in (0.1, 0.333, 10.0, 1e-4) if suffix == ".wav" else (0.1, 10.0):
        blocks = list(iter_audio(path, seconds))
        assert all(0 < len(block) <= max(1, round(seconds * 24_000)) for block in blocks)
        assert torch.equal(torch.cat(blocks), whole)


@pytest.mark.parametrize("new", [8000, 16_000, 24_000, 44_100, 44_101])
def test_iter_audio_resamples(tmp_path: Path, new: int) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, noise(36_001) / 2, 22_050)
    expected = resample(load_audio(path)[0], 22_050, new)
    for seconds in (0.01, 10.0):
        blocks = list(iter_audio(path, seconds, sample_rate=new))
        assert torch.equal(torch.cat(blocks), expected)
        arrays = list(iter_arrays(path, seconds, sample_rate=new))
        assert [len(array) for array in arrays] == [len(block) for block in blocks]
        assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in arrays)
        assert np.array_equal(np.concatenate(arrays), expected.numpy())


@pytest.mark.parametrize("new", [16_000, 22_050, 44_101])
@pytest.mark.parametrize("num_channels", [1, 2, 5])
def test_files_arrays_and_tensors_give_the_same_blocks(tmp_path: Path, new: int, num_channels: int) -> None:
    path = tmp_path / "a.wav"
    channels = noise(num_channels, 36_001) / 2
    save_audio(path, channels, 22_050)
    array = sf.read(path, dtype="float32", always_2d=True)[0].T
    expected = list(audio_blocks(path, None, new, block_seconds=0.5))
    assert len(expected) == 4 + (new != 22_050) and all(block.dtype == np.float32 for block in expected)
    for audio in (array, torch.from_numpy(array)):
        blocks = list(audio_blocks(audio, 22_050, new, block_seconds=0.5))
        assert [len(block) for block in blocks] == [len(block) for block in expected]
        assert all(isinstance(block, np.ndarray) for block in blocks)
        assert np.array_equal(np.concatenate(blocks), np.concatenate(expected))
        assert np.array_equal(np.concatenate(blocks), resample(check_array(audio, 22_050), 22_050, new))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read in /proc")
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_pieces_of_a_file_equal_those_of_the_whole(tmp_path: Path, suffix: str) -> None:
    """An Opus decoder need not forget within 80 ms how it came to a place, which leaves a small difference."""
    path = tmp_path / f"a{suffix}"
    save_audio(path, make_speech(5.0), 24000)
    whole, rate = load_audio(path)
    for start, end in [(0.0, 0.5), (0.0301, None), (1.23456, 4.0), (4.5, 9.0)]:
        expected = whole[round(start * rate) : None if end is None else round(end * rate)]
        assert torch.allclose(load_audio(path, start, end)[0], expected, atol=1e-3 if suffix == ".opus" else 1e-6)
        blocks = torch.cat(list(iter_audio(path, 0.3, start=start, end=end)))
        assert torch.allclose(blocks, expected, atol=1e-3 if suffix == ".opus" else 1e-6)
    with pytest.raises(MimoError, match=f"a{suffix}: holds no samples from 5.5 s on"):
        load_audio(path, 5.5, 6.0)


def test_pieces_of_files_of_unknown_length(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, make_speech(3.0), 24000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert audio_info(path).num_samples is None
    whole, _ = load_audio(path)
    assert torch.equal(load_audio(path, 1.5, 2.0)[0], whole[36000:48000])
    with pytest.raises(MimoError, match="no samples from 5 s on"):
        load_audio(path, 5.0)


def test_pieces_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, make_speech(20.0), 24000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(load_audio(path, 1.0, 2.0)[0]) == 24000
    with pytest.raises(MimoError, match="a.flac: is damaged"):
        load_audio(path, 18.0, 19.0)


def test_iter_audio_holds_no_more_than_blocks(tmp_path: Path) -> None:
    def resident_megabytes() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    path = tmp_path / "long.flac"
    with AudioWriter(path, 8000) as writer:
        for _ in range(60):
            writer.write(SPEECH_LIKE.repeat(5))
    num_samples = 60 * 5 * len(SPEECH_LIKE)  # 22 minutes: 41 MB as read, 124 MB at 24 kHz
    total, before, peak = 0, 0.0, 0.0
    for i, block in enumerate(iter_audio(path, 5.0, sample_rate=24_000)):
        total += len(block)
        peak = max(peak, resident_megabytes())
        before = before if i else peak
    assert total == 3 * num_samples
    assert peak - before < 20


# --- headers that do not tell the truth


def test_mp3_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    """libsndfile alone would stop after the 5 s that the size of the loud first frame suggests."""
    told, untold = tmp_path / "told.mp3", tmp_path / "untold.mp3"
    loud_then_silent = np.concatenate([noise(80_000).numpy() / 3, np.zeros(400_000)])
    coding = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE"}
    sf.write(told, loud_then_silent, 24_000, **coding, compression_level=0.5)
    data = told.read_bytes()
    first_audio_frame = data.index(data[:2], 2)  # the one before holds the header's length
    tag = b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)
    for start in (b"", tag):
        untold.write_bytes(start + data[first_audio_frame:])
        assert audio_info(told).num_samples == 480_000
        assert audio_info(untold).num_samples is None
        assert sf.info(untold).frames < 400_000
        assert 480_000 <= len(load_audio(untold)[0]) < 480_000 + 3 * 1152  # the coder's own delay


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, SPEECH_LIKE, 24_000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert audio_info(path).num_samples is None
    assert load_audio(path)[0].shape == SPEECH_LIKE.shape


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, SPEECH_LIKE, 24_000)
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert load_audio(path)[0].shape == SPEECH_LIKE.shape


# --- files that are refused


def read_with_all(path: Path, message: str, header_is_bad: bool = True) -> None:
    def whole() -> None:
        load_audio(path)

    def blocks() -> None:
        list(iter_audio(path, 0.01, sample_rate=24_000))

    def header() -> None:
        audio_info(path)

    for read in (whole, blocks, *([header] if header_is_bad else [])):
        with pytest.raises(MimoError) as raised:
            read()
        text = str(raised.value)
        assert text.startswith(f"{path}: ") and message in text and "\n" not in text


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    read_with_all(tmp_path / "none.wav", "there is no such file")
    read_with_all(tmp_path, "is a folder")
    read_with_all(tmp_path / ("x" * 300), "cannot be read")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wav", b"", "is empty"),
        ("a.wav", b"hello world, " * 100, "is not audio"),
        ("a.mp3", b"hello world, " * 100, "is not audio"),
        ("a.raw", b"hello world, " * 100, "is not audio"),
        ("a", b"\x00", "is not audio"),
        ("a.wav", b"RIFF\xff\xff\xff\xffWAVE", "is not audio"),
    ],
)
def test_files_that_are_not_audio(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read_with_all(path, message)


def test_file_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(0), 16_000)
    read_with_all(path, "holds no samples", header_is_bad=False)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (-np.inf, "infinite")])
def test_file_with_samples_that_are_no_numbers(tmp_path: Path, value: float, kind: str) -> None:
    path = tmp_path / "a.wav"
    x = np.zeros((300_000, 2), dtype=np.float32)
    x[270_001, 1] = x[280_000, 0] = value
    sf.write(path, x, 16_000, subtype="FLOAT")
    read_with_all(path, f"sample 270001 is {kind}", header_is_bad=False)


def test_file_with_an_absurd_sample_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(10), 10)
    read_with_all(path, "10 is not a sample rate")


def test_truncated_flac(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    save_audio(path, noise(50_000), 16_000)
    path.write_bytes(path.read_bytes()[:-30_000])
    read_with_all(path, "is damaged near sample", header_is_bad=False)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, noise(10), 16_000)
    path.chmod(0)
    read_with_all(path, "cannot be read: Permission denied")


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf])
def test_block_seconds_that_are_refused(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, noise(10), 16_000)
    with pytest.raises(MimoError, match="block_seconds"):
        next(iter_audio(path, seconds))
    with pytest.raises(MimoError, match="0 is not a sample rate"):
        next(iter_audio(path, sample_rate=0))


# --- writes that fail leave what was there


@pytest.mark.parametrize(
    ("name", "rate", "waveform", "message"),
    [
        ("a.txt", 16_000, noise(9), "known are .wav, .flac, .ogg, .opus, .mp3"),
        ("a", 16_000, noise(9), "known are .wav, .flac, .ogg, .opus, .mp3"),
        ("a.opus", 44_100, noise(9), "8000, 12000, 16000, 24000, and 48000"),
        ("a.mp3", 96_000, noise(9), "8000, 11025, 12000"),
        ("a.flac", 768_000, noise(9), "FLAC/PCM_16 at 768000 Hz"),
        ("a.wav", 0, noise(9), "0 is not a sample rate"),
        ("a.wav", None, noise(9), "None is not a sample rate"),
        ("a.wav", 16_000, torch.tensor([0.0, math.nan]), "sample 1 is NaN"),
        ("a.wav", 16_000, torch.tensor([[0.0, 0.0], [math.inf, 0.0]]), "sample 0 is infinite"),
        ("a.wav", 16_000, torch.empty(0), "no samples to write"),
        ("a.wav", 16_000, torch.empty(0, 9), "cannot be written"),
        ("a.wav", 16_000, noise(1, 1, 9), "[channels, S] is needed"),
        ("a.wav", 16_000, noise(900, 2), "transpose"),
        ("a.wav", 16_000, [0.0, 0.1], "list"),
        ("no/folder/a.wav", 16_000, noise(9), "no/folder"),
    ],
)
def test_saves_that_are_refused(tmp_path: Path, name: str, rate: int, waveform: Tensor, message: str) -> None:
    with pytest.raises(MimoError) as raised:
        save_audio(tmp_path / name, waveform, rate)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == []


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, torch.zeros(5), 16_000)
    with pytest.raises(MimoError, match="exists"):
        save_audio(path, torch.ones(9), 16_000, overwrite=False)
    assert load_audio(path)[0].tolist() == [0] * 5
    save_audio(path, torch.ones(9), 16_000)
    assert len(load_audio(path)[0]) == 9


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    old, new = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
    old.write_bytes(b"what was there")
    for path in (old, new):
        with pytest.raises(error), AudioWriter(path, 24_000) as writer:
            writer.write(SPEECH_LIKE)
            raise error
    assert os.listdir(tmp_path) == [old.name]
    assert old.read_bytes() == b"what was there"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "a.wav"
    path.write_bytes(b"what was there")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MimoError, match="cannot be written"):
            save_audio(path, noise(200_000), 16_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["a.wav"]
    assert path.read_bytes() == b"what was there"


def test_writer_refuses_other_channels_and_use_outside_its_block(tmp_path: Path) -> None:
    writer = AudioWriter(tmp_path / "a.wav", 16_000)
    with pytest.raises(RuntimeError, match="with"):
        writer.write(noise(5))
    with pytest.raises(MimoError, match="2 channels"), writer:
        writer.write(noise(2, 5))
    assert os.listdir(tmp_path) == []
    with writer:
        writer.write(noise(5))
    with pytest.raises(RuntimeError, match="with"):
        writer.write(noise(5))
    assert len(load_audio(tmp_path / "a.wav")[0]) == 5
