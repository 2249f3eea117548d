"""What exported codecs are compared with."""

import numpy as np
import torch
from conftest import make_speech

from mimo_codec import AudioCodes


def speech(seconds: float) -> np.ndarray:
    return make_speech(seconds).numpy()


def assert_same_codes(found: AudioCodes, reference: AudioCodes) -> None:
    assert np.array_equal(found.to_numpy(), reference.to_numpy())
    assert (found.num_samples, found.sample_rate, found.frame_rate) == (
        reference.num_samples,
        reference.sample_rate,
        reference.frame_rate,
    )


def assert_close(found: np.ndarray, reference: torch.Tensor, most: float = 1e-4) -> None:
    assert found.dtype == np.float32 and found.shape == tuple(reference.shape)
    assert np.abs(found - reference.numpy()).max(initial=0) < most
