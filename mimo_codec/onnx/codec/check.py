"""Exported codecs against PyTorch on real speech: errors, equal codes, and the speed of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mimo_codec.audio.files import load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.codec.model import MimoCodec
from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError
from mimo_codec.common.rounding import ceil_div
from mimo_codec.onnx.codec.runtime import OnnxCodec

SECONDS = (0.02, 0.5, 1.37, 4.0, 10.0)
"""Of the five pieces of speech that are compared."""
BATCH_SECONDS = (0.5, 1.37)
"""Of the pieces that go through the graphs at once, the shorter one padded."""
MAX_LISTED = 10
"""Lines about codes that differ."""
MAX_ERROR = 1e-4
"""Largest difference of a float32 waveform."""
MAX_TIE = 1e-5
"""Codes may differ where the distances to their entries differ by less, of those distances."""
MAX_OTHER = 0.01
"""Most frames, as a share, whose codes differ although the distances are further apart: the rounding of many layers."""
MIN_SNR_DB = {"float16": 30.0, "int8": 10.0}
"""Of waveforms from the same codes, where a graph is not float32."""
MIN_EQUAL = {"float16": 0.9, "int8": 0.5}
"""Share of codes of the first codebook, where a graph is not float32; in later ones differences add up."""
STEP_SECONDS = 4.0
"""Of speech that goes through the steps of a stream, a second at a time."""
Value = TypeVar("Value")
Pair = tuple[np.ndarray, np.ndarray]
"""Waveforms decoded by PyTorch and by ONNX."""


def speech_file() -> Path:
    """The speech that comes with the package: inside an installed wheel, or in the repository."""
    installed = Path(__file__).parents[1] / "speech.wav"
    return installed if installed.is_file() else Path(__file__).parents[3] / "examples" / "speech.wav"


@dataclass(frozen=True)
class Difference:
    """The first codebook of a frame whose codes differ; those after it code what these leave."""

    frame: int
    codebook: int
    gap: float
    """How far the distances to the two codes' entries are apart, relative."""

    def __str__(self) -> str:
        """What differs, in words."""
        return f"frame {self.frame}, codebook {self.codebook}: distances within {self.gap:.0e}"


@dataclass(frozen=True)
class Comparison:
    """One piece of speech through both."""

    name: str
    seconds: float
    num_frames: int
    num_codes: int
    num_different: int
    first_equal: float
    """Share of equal codes in the first codebook."""
    differences: tuple[Difference, ...]
    """Of every frame in which a code differs."""
    error: float | None
    """Largest absolute difference of waveforms decoded from the same codes; None without a decoder."""
    snr_db: float | None
    speed: tuple[float, ...]
    """Seconds of audio a second: encoding by PyTorch and ONNX, decoding by PyTorch and ONNX; none of batches."""

    @property
    def num_ties(self) -> int:
        """Frames whose codes differ although both entries are equally far."""
        return sum(difference.gap <= MAX_TIE for difference in self.differences)

    def __str__(self) -> str:
        """One line of a report."""
        equal = 100 * (1 - self.num_different / self.num_codes)
        line = f"{self.name}  codes equal {equal:6.2f} %"
        if self.differences:
            widest = max(difference.gap for difference in self.differences)
            line += f" ({len(self.differences)} frames, {self.num_ties} of them ties, distances within {widest:.0e})"
        if self.speed:
            line += f"  encode {self.speed[0]:.0f}x -> {self.speed[1]:.0f}x"
        if self.error is not None:
            line += f"  waveform error {self.error:.1e}, {self.snr_db:.0f} dB"
        if len(self.speed) > 2:
            line += f"  decode {self.speed[2]:.0f}x -> {self.speed[3]:.0f}x"
        return line


def check_codec(codec: MimoCodec, folder: Path, report: Callable[[str], None] = print) -> list[Comparison]:
    """Compare the graphs in `folder` with the codec they are of.

    A line for each piece of speech goes to `report`, and one for each code that differs.
    Raises MimoError when float32 graphs differ by more than rounding, and others by more than their precision.
    """
    exported = OnnxCodec(folder, ["cpu"])
    waveform, rate = load_audio(speech_file())
    waveform = resample(waveform, rate, codec.sample_rate)
    waveform = waveform.repeat(ceil_div(round(max(SECONDS) * codec.sample_rate), len(waveform)))
    report(f"{codec.name}: PyTorch {torch.__version__} -> ONNX Runtime, {exported.metadata['dtype']}")
    found = []
    for seconds in SECONDS:
        found.append(compare(codec, exported, waveform[: round(seconds * codec.sample_rate)]))
        report(str(found[-1]))
    batch = compare_batch(codec, exported, [waveform[: round(s * codec.sample_rate)] for s in BATCH_SECONDS])
    found += batch
    for line in (*map(str, batch), *_listed(found)):
        report(line)
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
    """Compare both on one `waveform` [S] at the codec's rate."""
    rate, count = codec.sample_rate, exported.num_quantizers
    codes, encode = _timed(lambda: codec.encode(waveform, rate, num_quantizers=count))
    other, onnx_encode = _timed(lambda: exported.encode(waveform.numpy(), rate, num_quantizers=count))
    times, decoded = [encode, onnx_encode], []
    if codec.decoder is not None:
        own, decode = _timed(lambda: codec.decode(codes))
        again, onnx_decode = _timed(lambda: exported.decode(codes))
        times, decoded = [*times, decode, onnx_decode], [(own.numpy(), again)]
    seconds = len(waveform) / rate
    speed = tuple(seconds / each for each in times)
    return _comparison(f"{seconds:6.2f} s", codec, waveform, (codes, other), decoded, speed)


@torch.no_grad()
def compare_batch(codec: MimoCodec, exported: OnnxCodec, waveforms: Sequence[torch.Tensor]) -> list[Comparison]:
    """Compare both on waveforms [S]: through the exported graphs at once, through the codec one by one.

    They are decoded from all codebooks and from half of them.
    """
    rate, count = codec.sample_rate, exported.num_quantizers
    others = exported.encode_batch([waveform.numpy() for waveform in waveforms], rate, count)
    codes = [codec.encode(waveform, rate, num_quantizers=count) for waveform in waveforms]
    decoded: list[list[Pair]] = [[] for _ in waveforms]
    for kept in (count, ceil_div(count, 2)) if codec.decoder is not None else ():
        items = [item.first(kept) for item in codes]
        for pairs, item, again in zip(decoded, items, exported.decode_batch(items), strict=True):
            pairs.append((codec.decode(item).numpy(), again))
    return [
        _comparison(f"{len(waveform) / rate:6.2f} s in a batch", codec, waveform, pair, pairs)
        for waveform, pair, pairs in zip(waveforms, zip(codes, others, strict=True), decoded, strict=True)
    ]


def _comparison(
    name: str,
    codec: MimoCodec,
    waveform: torch.Tensor,
    coded: tuple[AudioCodes, AudioCodes],
    decoded: Sequence[Pair],
    speed: tuple[float, ...] = (),
) -> Comparison:
    """coded, decoded: what PyTorch and ONNX made; of several waveforms the worst counts."""
    codes, other = (item.to_numpy() for item in coded)
    differ, found = codes != other, _differences(codec, waveform, codes, other)
    error = snr = None
    if decoded:
        error = float(np.max([np.abs(own - again).max() for own, again in decoded]))  # NaN stays NaN
        snr = float(np.min([_snr_db(own, again) for own, again in decoded]))
    return Comparison(
        name,
        len(waveform) / codec.sample_rate,
        codes.shape[1],
        differ.size,
        int(differ.sum()),
        float(1 - differ[0].mean()),
        found,
        error,
        snr,
        speed,
    )


def _snr_db(own: np.ndarray, again: np.ndarray) -> float:
    return float(10 * np.log10(np.square(own).sum() / max(np.square(own - again).sum(), 1e-30)))


def _timed(function: Callable[[], Value]) -> tuple[Value, float]:
    function()
    started = time.perf_counter()
    value = function()
    return value, time.perf_counter() - started


def _differences(
    codec: MimoCodec, waveform: torch.Tensor, codes: np.ndarray, other: np.ndarray
) -> tuple[Difference, ...]:
    frames = np.flatnonzero((codes != other).any(axis=0))
    features = _features(codec, waveform) if len(frames) else torch.zeros(0)
    found = []
    for frame in frames.tolist():
        first = int((codes[:, frame] != other[:, frame]).argmax())
        residual = codec.quantizer.project_in(features[frame].float()).double()
        for index in range(first):
            residual = residual - codec.quantizer.codebook(index)[int(codes[index, frame])].double()
        entries = codec.quantizer.codebook(first).double()
        a, b = (float((residual - entries[int(c[first, frame])]).square().sum()) for c in (codes, other))
        found.append(Difference(frame, first, abs(a - b) / max(a, b, 1e-30)))
    return tuple(found)


def _features(codec: MimoCodec, waveform: torch.Tensor) -> torch.Tensor:
    """What `encode` quantizes of a waveform [S]: features [T, D]."""
    mel = codec.mel(waveform[None])
    segment = (codec.config.segment_frames or codec.config.num_frames(len(waveform))) * codec.config.mels_per_frame
    return torch.cat([codec.encoder(part)[0] for part in mel.split(segment, dim=1)])


def _listed(found: Sequence[Comparison]) -> list[str]:
    """A line for every code that differs, the widest gaps first."""
    every = [(difference, comparison.name.strip()) for comparison in found for difference in comparison.differences]
    every.sort(key=lambda item: -item[0].gap)
    lines = [f"  other code in {name}, {difference}" for difference, name in every[:MAX_LISTED]]
    if len(every) > MAX_LISTED:
        lines.append(f"  ... and {len(every) - MAX_LISTED} more")
    return lines


def _judge(found: list[Comparison], dtype: str) -> None:
    error = np.max([c.error for c in found if c.error is not None], initial=0.0)  # NaN stays NaN
    snr = np.min([c.snr_db for c in found if c.snr_db is not None], initial=np.inf)
    equal = min(c.first_equal for c in found if c.seconds >= 1)
    other = sum(len(c.differences) - c.num_ties for c in found) / sum(c.num_frames for c in found)
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
