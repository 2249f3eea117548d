"""Fixtures: a small streaming codec with random weights, speech-like audio, and the command in this process."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mimo_codec import CodecConfig, MimoCodec
from mimo_codec.cli import main

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


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command in this process: exit code, stdout, stderr."""

    def invoke(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return Outcome(exited.value.code, out, err)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    yield invoke
    signal.signal(signal.SIGTERM, handler)


def assert_one_line_error(outcome: Outcome, *words: object, code: int = 2) -> None:
    assert outcome.code == code, outcome
    assert outcome.err.startswith("mimo-codec: error: ") and outcome.err.count("\n") == 1, outcome.err
    assert all(str(word) in outcome.err for word in words), outcome.err
