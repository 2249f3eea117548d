"""Exported codecs against PyTorch on real speech: errors, equal codes, and the speed of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mimo_codec.audio import load_audio
from mimo_codec.codec import MimoCodec
from mimo_codec.errors import MimoError
from mimo_codec.onnx.runtime import OnnxCodec
from mimo_codec.resampling import resample

SECONDS = (0.02, 0.5, 1.37, 4.0, 10.0)
"""Of the five pieces of speech that are compared."""
MAX_ERROR = 1e-4
"""Largest difference of a float32 waveform."""
MAX_TIE = 1e-5
"""Codes may differ where the distances to their entries differ by less, of those distances."""
MAX_OTHER = 0.01
"""Most frames, as a share, whose codes differ although the distances are further apart: in bands a million times below
the peak the logarithm magnifies the rounding of the Fourier transforms, which is not the same in any two libraries."""
MIN_SNR_DB = {"float16": 30.0, "int8": 10.0}
"""Of waveforms from the same codes, where a graph is not float32."""
MIN_EQUAL = {"float16": 0.9, "int8": 0.5}
"""Share of codes of the first codebook, where a graph is not float32; in later ones differences add up."""
STEP_SECONDS = 4.0
"""Of speech that goes through the steps of a stream, a second at a time."""
Value = TypeVar("Value")


def speech_file() -> Path:
    """The speech that comes with the package: inside an installed wheel, or in the repository."""
    installed = Path(__file__).parent / "speech.wav"
    return installed if installed.is_file() else Path(__file__).parent.parent.parent / "examples" / "speech.wav"


@dataclass(frozen=True)
class Comparison:
    """One piece of speech through both."""

    seconds: float
    num_frames: int
    num_codes: int
    num_different: int
    first_equal: float
    """Share of equal codes in the first codebook."""
    gaps: tuple[float, ...]
    """Of every frame in which a code differs: how far the distances of its first two such codes are apart, relative."""
    error: float | None
    """Largest absolute difference of waveforms decoded from the same codes; None without a decoder."""
    snr_db: float | None
    speed: tuple[float, ...]
    """Seconds of audio a second: encoding by PyTorch and ONNX, decoding by PyTorch and ONNX."""

    @property
    def num_ties(self) -> int:
        return sum(gap <= MAX_TIE for gap in self.gaps)

    def __str__(self) -> str:
        equal = 100 * (1 - self.num_different / self.num_codes)
        line = f"{self.seconds:6.2f} s  codes equal {equal:6.2f} %"
        if self.gaps:
            line += f" ({len(self.gaps)} frames, {self.num_ties} of them ties, distances within {max(self.gaps):.0e})"
        line += f"  encode {self.speed[0]:.0f}x -> {self.speed[1]:.0f}x"
        if self.error is not None:
            line += f"  waveform error {self.error:.1e}, {self.snr_db:.0f} dB"
            line += f"  decode {self.speed[2]:.0f}x -> {self.speed[3]:.0f}x"
        return line


def check_codec(codec: MimoCodec, folder: Path, report: Callable[[str], None] = print) -> list[Comparison]:
    """Compare the graphs in `folder` with the codec they are of; one line each goes to `report`.

    Raises MimoError when float32 graphs differ by more than rounding, and others by more than their precision.
    """
    exported = OnnxCodec(folder, ["cpu"])
    waveform, rate = load_audio(speech_file())
    waveform = resample(waveform, rate, codec.sample_rate)
    waveform = waveform.repeat(-(-round(max(SECONDS) * codec.sample_rate) // len(waveform)))
    report(f"{codec.name}: PyTorch {torch.__version__} -> ONNX Runtime, {exported.metadata['dtype']}")
    found = []
    for seconds in SECONDS:
        found.append(compare(codec, exported, waveform[: round(seconds * codec.sample_rate)]))
        report(str(found[-1]))
    _judge(found, str(exported.metadata["dtype"]))
    if {"encoder_step", "decoder_step"} & set(exported.metadata["graphs"]):
        report(_check_steps(exported, waveform[: round(STEP_SECONDS * codec.sample_rate)].numpy()))
    return found


def _check_steps(exported: OnnxCodec, waveform: np.ndarray) -> str:
    """The steps of streams against the graphs for whole waveforms, as a line; MimoError where they differ."""
    rate, dtype = exported.sample_rate, str(exported.metadata["dtype"])
    codes = exported.encode(waveform, rate, exported.num_quantizers)
    line = "in chunks of 1 s:"
    if "encoder_step" in exported.metadata["graphs"]:
        state, pieces = None, []
        for start in range(0, len(waveform), rate):
            last = start + rate >= len(waveform)
            piece, state = exported.encode_chunk(
                waveform[start : start + rate], state, last, num_quantizers=exported.num_quantizers
            )
            pieces.append(piece)
        equal = float((np.concatenate(pieces, axis=1)[0] == codes.to_numpy()[0]).mean())
        line += f"  codes equal {100 * equal:.2f} %"
        if not equal >= MIN_EQUAL.get(dtype, 1 - MAX_OTHER):
            raise MimoError(f"encoder_step.onnx does not do what encoder.onnx does: {100 * equal:.0f} % of codes equal")
    if "decoder_step" in exported.metadata["graphs"]:
        chunks = np.array_split(codes.to_numpy(), round(STEP_SECONDS), axis=1)
        stream, whole = np.concatenate([*exported.decode_stream(chunks)])[: len(waveform)], exported.decode(codes)
        error = float(np.abs(stream - whole).max())
        line += f"  waveform error {error:.1e}"
        allowed = MAX_ERROR if dtype == "float32" else np.abs(whole).max() * 10 ** (-MIN_SNR_DB[dtype] / 20)
        if not error <= allowed:
            raise MimoError(f"decoder_step.onnx does not do what decoder.onnx does: waveforms differ by {error:.1e}")
    return line


@torch.no_grad()
def compare(codec: MimoCodec, exported: OnnxCodec, waveform: torch.Tensor) -> Comparison:
    """waveform [S] at the codec's rate."""
    rate, count = codec.sample_rate, exported.num_quantizers
    codes, encode = _timed(lambda: codec.encode(waveform, rate, num_quantizers=count))
    other, onnx_encode = _timed(lambda: exported.encode(waveform.numpy(), rate, num_quantizers=count))
    differ = codes.to_numpy() != other.to_numpy()
    gaps = _gaps(codec, waveform, codes.to_numpy(), other.to_numpy()) if differ.any() else ()
    speed = [len(waveform) / rate / seconds for seconds in (encode, onnx_encode)]
    error = snr = None
    if codec.decoder is not None:
        decoded, decode = _timed(lambda: codec.decode(codes))
        again, onnx_decode = _timed(lambda: exported.decode(codes))
        difference = decoded.numpy() - again
        error = float(np.abs(difference).max())
        snr = float(10 * np.log10(np.square(decoded.numpy()).sum() / max(np.square(difference).sum(), 1e-30)))
        speed += [len(waveform) / rate / seconds for seconds in (decode, onnx_decode)]
    return Comparison(
        len(waveform) / rate, codes.num_frames, differ.size, int(differ.sum()), float(1 - differ[0].mean()), gaps,
        error, snr, tuple(speed),
    )  # fmt: skip


def _timed(function: Callable[[], Value]) -> tuple[Value, float]:
    function()
    started = time.perf_counter()
    value = function()
    return value, time.perf_counter() - started


def _gaps(codec: MimoCodec, waveform: torch.Tensor, codes: np.ndarray, other: np.ndarray) -> tuple[float, ...]:
    features, gaps = codec.features(waveform), []
    for frame in np.flatnonzero((codes != other).any(axis=0)):
        first = int((codes[:, frame] != other[:, frame]).argmax())
        residual = features[frame].double()
        for index in range(first):
            residual = residual - codec.quantizer.codebook(index)[int(codes[index, frame])].double()
        entries = codec.quantizer.codebook(first).double()
        a, b = (float((residual - entries[int(c[first, frame])]).square().sum()) for c in (codes, other))
        gaps.append(abs(a - b) / max(a, b, 1e-30))
    return tuple(gaps)


def _judge(found: list[Comparison], dtype: str) -> None:
    error = np.max([c.error for c in found if c.error is not None], initial=0.0)  # NaN stays NaN
    snr = np.min([c.snr_db for c in found if c.snr_db is not None], initial=np.inf)
    equal = min(c.first_equal for c in found if c.seconds >= 1)
    other = sum(len(c.gaps) - c.num_ties for c in found) / sum(c.num_frames for c in found)
    if dtype == "float32":
        if not (error <= MAX_ERROR and other <= MAX_OTHER):
            raise MimoError(
                f"the exported graphs do not do what the codec does: waveforms differ by up to {error:.1e} (allowed"
                f" {MAX_ERROR:g}), {100 * other:.2f} % of the frames have other codes (allowed {100 * MAX_OTHER:g} %)"
            )
    elif not (snr >= MIN_SNR_DB[dtype] and equal >= MIN_EQUAL[dtype]):
        raise MimoError(
            f"in {dtype} this codec keeps {snr:.1f} dB of its waveforms and {100 * equal:.0f} % of its first codes;"
            f" {MIN_SNR_DB[dtype]:g} dB and {100 * MIN_EQUAL[dtype]:g} % are needed: use float32"
        )
