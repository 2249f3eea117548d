"""Waveforms that a caller passes in: scaled, averaged, refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mimo_codec.audio.waveform import check_array, check_waveform
from mimo_codec.common.errors import MimoError


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
