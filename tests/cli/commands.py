"""Commands in processes of their own, and files for them."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import make_speech

from mimo_codec import AudioCodes, MimoCodec, load_audio, save_audio

LSB = 2**-15
"""Step of a 16-bit file: waveforms that agree within 1e-5 may round to neighbours."""


def speech(path: Path, seconds: float = 1.0, rate: int = 24000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, make_speech(seconds, rate, seed), rate)
    return path


def files(folder: Path) -> list[str]:
    """Everything below a folder that is not a folder, hidden files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def assert_same_waveform(path: Path, expected: torch.Tensor, tolerance: float = 2 * LSB) -> None:
    waveform, rate = load_audio(path)
    assert rate == 24000 and len(waveform) == len(expected)
    assert (waveform - expected.clamp(-1, 1)).abs().max() < tolerance


def random_codes(codec: MimoCodec, num_frames: int, seed: int = 0) -> AudioCodes:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(size, (num_frames,), generator=generator) for size in codec.codebook_sizes]
    num_samples = num_frames * 960 - 123
    return AudioCodes(torch.stack(rows), num_samples, 24000, 25.0, codec.codebook_sizes, codec.model_id)
