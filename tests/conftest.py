"""Fixtures: a small streaming codec with random weights, speech-like audio, and the command in this process."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one test on each core instead of all cores for each test
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from mimo_codec import AudioCodes, CodecConfig, MimoCodec, load_audio, resample, save_audio
from mimo_codec.cli.main import main

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
SMALL = {
    "d_model": 32,
    "vocoder_dim": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocoder_intermediate_dim": 32,
    "codebook_size": [64, 32],
    "num_quantizers": 2,
}
"""Changes to the preset "tiny" that make training steps quick."""


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


@pytest.fixture(scope="session")
def codes() -> AudioCodes:
    """Three seconds of speech by the codec "tiny" of `goldens.streaming_codec`."""
    from goldens import streaming_codec  # it needs this module

    codes = streaming_codec().encode(make_speech(3.0), 24000)
    assert len(codes.codes[0].unique()) > 20  # otherwise the tests would prove little
    return codes


@pytest.fixture(scope="session")
def voice() -> torch.Tensor:
    """Three seconds of a synthetic voice at 16 kHz."""
    return resample(*load_audio(ROOT / "examples" / "speech.wav"), 16000)[16000:64000]


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of different lengths and rates, the first two with text, and one that is no audio."""
    folder = tmp_path_factory.mktemp("speech")
    for i, (seconds, rate) in enumerate([(3.0, 16000), (1.0, 24000), (0.4, 22050), (2.5, 16000)]):
        save_audio(folder / f"{i}.wav", make_speech(seconds, rate, seed=i), rate)
    (folder / "0.txt").write_text("three\nseconds ", encoding="utf-8")
    (folder / "1.txt").write_text("one second: 一秒", encoding="utf-8")
    (folder / "broken.wav").write_bytes(b"this is no audio")
    return folder


@pytest.fixture(scope="session")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """180 good files, 20 broken ones -> folder, and name -> kind of fault of the broken ones."""
    from broken_files import write_mixed  # it needs this module

    folder = tmp_path_factory.mktemp("mixed")
    return folder, write_mixed(folder)


@pytest.fixture(scope="session")
def small_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec of the size `SMALL` to start stage 2 from, with initialized codebooks."""
    torch.manual_seed(0)
    codec = MimoCodec(CodecConfig.preset("tiny").replace(**SMALL))
    codec.quantizer.initialize(torch.randn(500, 32), 100)
    folder = tmp_path_factory.mktemp("codec") / "small"
    codec.save_pretrained(folder)
    return folder


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
