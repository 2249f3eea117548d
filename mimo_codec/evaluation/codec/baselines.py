"""Baseline codecs, run by their own programs: Opus (opusenc, opusdec) and Codec2 (c2enc, c2dec).

Their output is aligned with the original before it is scored, because no metric but PESQ tolerates a delay.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_codec.audio.files import load_audio, save_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.common.checks import check_choice, wrap_errors
from mimo_codec.common.errors import MimoError

MAX_DELAY_SECONDS = 0.25
ENVELOPE_SECONDS = 0.01
CODEC2_RATE = 8000
CODEC2_TAIL_SECONDS = 0.1
"""Silence that is added after the sound, so that the codec's frames and its delay do not cut the end off."""
PROGRAM_SECONDS = 600.0


@dataclass(frozen=True)
class Coded:
    """A decoded waveform [S] at its own rate in Hz, aligned with the original, and the bitrate it took."""

    waveform: Tensor
    sample_rate: int
    bits_per_second: float


@dataclass(frozen=True)
class Baseline:
    """A codec at one setting."""

    name: str
    programs: tuple[str, ...]
    code: Callable[[Tensor, int], Coded]
    """Encodes and decodes a waveform [S] at a rate in Hz; raises MimoError when a program fails."""


def opus(waveform: Tensor, sample_rate: int, kbps: int) -> Coded:
    """Code a waveform [S] by Opus at about `kbps` kbit/s.

    The bitrate in the result is that of the audio packets, without Ogg's framing and headers.
    """
    with tempfile.TemporaryDirectory(prefix="mimo-codec-") as folder:
        original, coded, decoded = (Path(folder, name) for name in ("original.wav", "coded.opus", "decoded.wav"))
        save_audio(original, waveform, sample_rate)
        _run("opusenc", "--quiet", "--bitrate", str(kbps), original, coded)
        _run("opusdec", "--quiet", coded, decoded)
        num_bytes = sum(list(packet_sizes(coded.read_bytes()))[2:])  # the first two are headers
        samples, rate = load_audio(decoded)
    aligned = align(waveform, resample(samples, rate, sample_rate), sample_rate)
    return Coded(aligned, sample_rate, 8 * num_bytes * sample_rate / len(waveform))


def codec2(waveform: Tensor, sample_rate: int, bps: int) -> Coded:
    """Code a waveform [S] by Codec2 in its mode of `bps` bit/s.

    Its files may be larger than that, because c2enc fills frames up to whole bytes.
    """
    narrow = resample(waveform, sample_rate, CODEC2_RATE)
    padded = F.pad(narrow, (0, round(CODEC2_TAIL_SECONDS * CODEC2_RATE))).clamp(-1, 1)
    with tempfile.TemporaryDirectory(prefix="mimo-codec-") as folder:
        original, coded, decoded = (Path(folder, name) for name in ("original.raw", "coded.bit", "decoded.raw"))
        (padded * 32767).round().numpy().astype("<i2").tofile(original)
        _run("c2enc", str(bps), original, coded)
        _run("c2dec", str(bps), coded, decoded)
        samples = torch.from_numpy(np.fromfile(decoded, "<i2").astype(np.float32) / 32768)
    # Codec2 keeps the spectrum and not the waveform, so only the loudness over time tells the delay.
    return Coded(align(narrow, samples, CODEC2_RATE, by_envelope=True), CODEC2_RATE, float(bps))


BASELINES = {
    "opus": tuple(Baseline(f"Opus {kbps}", ("opusenc", "opusdec"), partial(opus, kbps=kbps)) for kbps in (6, 8)),
    "codec2": tuple(Baseline(f"Codec2 {bps}", ("c2enc", "c2dec"), partial(codec2, bps=bps)) for bps in (1300, 3200)),
}
"""Name on the command line -> settings, named by the rate asked for: Opus in kbit/s, Codec2 in bit/s."""


def find_baselines(names: Sequence[str]) -> tuple[list[Baseline], list[str]]:
    """Find the programs of baselines -> (settings that can be run, a note on each codec whose programs are missing).

    names: of `BASELINES`; others raise MimoError.
    """
    found: list[Baseline] = []
    notes = []
    for name in names:
        check_choice("baseline", name, (*BASELINES, "none"))
        missing = [program for program in BASELINES[name][0].programs if shutil.which(program) is None]
        if missing:
            notes.append(f"{name} is left out: there is no program {missing[0]}")
        else:
            found += BASELINES[name]
    return found, notes


# ---- alignment -------------------------------------------------------------------------------------------------------


def align(reference: Tensor, decoded: Tensor, sample_rate: int, by_envelope: bool = False) -> Tensor:
    """Move `decoded` [S'] to where it fits `reference` [S] best; cut it or fill it with zeros to [S]."""
    delay = find_delay(reference, decoded, sample_rate, by_envelope)
    moved = decoded[delay:] if delay >= 0 else F.pad(decoded, (-delay, 0))
    return F.pad(moved[: len(reference)], (0, max(len(reference) - len(moved), 0)))


def find_delay(reference: Tensor, decoded: Tensor, sample_rate: int, by_envelope: bool = False) -> int:
    """Find by how many samples `decoded` [S'] comes after `reference` [S]; negative when it comes before.

    The delay is where the cross-correlation is highest, within +-0.25 s: that of the waveforms, or, for codecs that do
    not keep the waveform, that of their envelopes.
    """
    if by_envelope:
        reference, decoded = (_envelope(x, sample_rate) for x in (reference, decoded))
    most = round(MAX_DELAY_SECONDS * sample_rate)
    size = len(reference) + len(decoded) + most  # nothing wraps around
    spectra = [torch.fft.rfft(x.double(), size) for x in (reference, decoded)]
    correlation = torch.fft.irfft(spectra[1] * spectra[0].conj(), size)
    delays = torch.cat((correlation[-most:], correlation[: most + 1]))  # -most..most
    return int(delays.argmax()) - most


def _envelope(waveform: Tensor, sample_rate: int) -> Tensor:
    """Compute the loudness over time, less its mean, at the waveform's own rate: [S] -> [S]."""
    half = round(ENVELOPE_SECONDS * sample_rate / 2)
    window = torch.hann_window(2 * half + 1, periodic=False, dtype=torch.float64)
    power = F.conv1d(waveform.double().square()[None, None], window[None, None], padding=half)[0, 0]
    envelope = power.clamp(min=0).sqrt()
    return envelope - envelope.mean()


# ---- programs and files ----------------------------------------------------------------------------------------------


def packet_sizes(ogg: bytes) -> Iterator[int]:
    """Yield the size in bytes of each packet of an Ogg stream (RFC 3533).

    A page lists the sizes of its segments, and a packet ends with the first segment below 255 bytes.
    """
    place, size = 0, 0
    while place < len(ogg):
        header = 27 + ogg[place + 26]
        segments = ogg[place + 27 : place + header]
        for segment in segments:
            size += segment
            if segment < 255:
                yield size
                size = 0
        place += header + sum(segments)


def _run(program: str, *arguments: str | Path) -> None:
    command = [program, *map(str, arguments)]
    with wrap_errors(f"{program} cannot be run", OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, timeout=PROGRAM_SECONDS)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise MimoError(f"{program} failed with exit code {done.returncode}: {' '.join(last)}")
