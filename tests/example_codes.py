"""Codes, valid ones and with changes, that several tests use."""

import numpy as np
import torch
from hypothesis import settings

from mimo_codec.codes import AudioCodes

EIGHT = (1024, 1024, 128, 128, 128, 128, 128, 128)

TWENTY = (1024, 1024) + (128,) * 18

SAMPLES_PER_FRAME = 960

unhurried = settings(deadline=None)  # a busy machine is no failure


def make(sizes=EIGHT, num_frames=50, num_samples=None, model="nano@1a2b3c4d", seed=0, tensor=False) -> AudioCodes:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(size, size=num_frames) for size in sizes])
    return AudioCodes(
        codes=torch.from_numpy(codes) if tensor else codes,
        num_samples=num_samples or num_frames * SAMPLES_PER_FRAME,
        sample_rate=24000,
        frame_rate=25.0,
        codebook_sizes=sizes,
        model=model,
    )


def fields(**changes):
    """Valid constructor arguments, with changes."""
    valid = {
        "codes": np.array([[0, 1, 2], [3, 4, 5]]),
        "num_samples": 2880,
        "sample_rate": 24000,
        "frame_rate": 25.0,
        "codebook_sizes": (8, 8),
        "model": None,
    }
    return valid | changes
