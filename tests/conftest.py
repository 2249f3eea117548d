"""Fixtures: a small streaming codec with random weights, the golden checkpoints, and speech-like audio."""

from pathlib import Path

import pytest
import torch

from mimo_codec import CodecConfig, MimoCodec

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tiny_codec() -> MimoCodec:
    """A codec of the streaming kind, random weights, 8 codebooks."""
    torch.manual_seed(0)
    codec = MimoCodec(CodecConfig.preset("tiny")).eval()
    codec.name = "tiny"
    return codec


@pytest.fixture(scope="session")
def tiny_folder(tiny_codec: MimoCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_codec.save_pretrained(folder)
    return folder


def make_speech(seconds: float, rate: int = 24000, seed: int = 0) -> torch.Tensor:
    """Something with the spectrum and rhythm of speech: [S] float32 at `rate`."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * rate)) / rate
    pitch = 120 + 30 * torch.sin(2 * torch.pi * 0.7 * t + seed)
    phase = torch.cumsum(pitch / rate, 0) * 2 * torch.pi
    voiced = sum(torch.sin(k * phase) / k for k in range(1, 20))
    rhythm = torch.sin(2 * torch.pi * 2.1 * t).clamp(min=0)
    noise = torch.randn(len(t), generator=generator)
    return (0.1 * rhythm * voiced + 0.01 * noise).float()
