"""Codecs to compare with, by their own programs: Opus (opusenc, opusdec) and Codec2 (c2enc, c2dec).

Their output is aligned with the original before it is scored, because PESQ alone forgives a delay.
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
from mimo_codec.common.errors import MimoError

MAX_DELAY_SECONDS = 0.25
ENVELOPE_SECONDS = 0.01
CODEC2_RATE = 8000
CODEC2_TAIL_SECONDS = 0.1
"""Silence after the sound: its last frame and the codec's delay must not cut the end off."""
PROGRAM_SECONDS = 600.0


@dataclass(frozen=True)
class Coded:
    """What is left of a waveform, aligned with it: [S] at its own rate in Hz, and what it took."""

    waveform: Tensor
    sample_rate: int
    bits_per_second: float


@dataclass(frozen=True)
class Baseline:
    """A codec at one setting."""

    name: str
    programs: tuple[str, ...]
    code: Callable[[Tensor, int], Coded]
    """waveform [S], rate -> what is left of it; MimoError when a program fails"""


def opus(waveform: Tensor, sample_rate: int, kbps: int) -> Coded:
    """Opus asked for `kbps` kbit/s; the real rate is that of the audio packets, without Ogg's framing and headers."""
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
    """Codec2 in its mode of `bps` bit/s; the file takes more where c2enc fills frames up to whole bytes."""
    narrow = resample(waveform, sample_rate, CODEC2_RATE)
    padded = F.pad(narrow, (0, round(CODEC2_TAIL_SECONDS * CODEC2_RATE))).clamp(-1, 1)
    with tempfile.TemporaryDirectory(prefix="mimo-codec-") as folder:
        original, coded, decoded = (Path(folder, name) for name in ("original.raw", "coded.bit", "decoded.raw"))
        (padded * 32767).round().numpy().astype("<i2").tofile(original)
        _run("c2enc", str(bps), original, coded)
        _run("c2dec", str(bps), coded, decoded)
        samples = torch.from_numpy(np.fromfile(decoded, "<i2").astype(np.float32) / 32768)
    # It keeps the spectrum and not the waveform, so only the loudness over time tells the delay.
    return Coded(align(narrow, samples, CODEC2_RATE, by_envelope=True), CODEC2_RATE, float(bps))


BASELINES = {
    "opus": tuple(Baseline(f"Opus {kbps}", ("opusenc", "opusdec"), partial(opus, kbps=kbps)) for kbps in (6, 8)),
    "codec2": tuple(Baseline(f"Codec2 {bps}", ("c2enc", "c2dec"), partial(codec2, bps=bps)) for bps in (1300, 3200)),
}
"""name on the command line -> settings, named by the rate asked for: Opus in kbit/s, Codec2 in bit/s"""


def find_baselines(names: Sequence[str]) -> tuple[list[Baseline], list[str]]:
    """Names of `BASELINES` -> (settings whose programs are here, a line on each codec whose programs are not).

    MimoError for unknown names.
    """
    found: list[Baseline] = []
    notes = []
    for name in names:
        if name not in BASELINES:
            raise MimoError(f"baseline {name!r} is not known; {', '.join(BASELINES)} and none are")
        missing = [program for program in BASELINES[name][0].programs if shutil.which(program) is None]
        if missing:
            notes.append(f"{name} is left out: there is no program {missing[0]}")
        else:
            found += BASELINES[name]
    return found, notes


# ---- alignment -------------------------------------------------------------------------------------------------------


def align(reference: Tensor, decoded: Tensor, sample_rate: int, by_envelope: bool = False) -> Tensor:
    """`decoded` [S'], moved to where it fits `reference` [S] best, cut or filled with zeros to [S]."""
    delay = find_delay(reference, decoded, sample_rate, by_envelope)
    moved = decoded[delay:] if delay >= 0 else F.pad(decoded, (-delay, 0))
    return F.pad(moved[: len(reference)], (0, max(len(reference) - len(moved), 0)))


def find_delay(reference: Tensor, decoded: Tensor, sample_rate: int, by_envelope: bool = False) -> int:
    """By how many samples `decoded` [S'] comes after `reference` [S]; below 0 when it comes before it.

    Where the cross-correlation is highest, within +-0.25 s: of the waveforms, or, for codecs that do not keep those, of
    their envelopes.
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
    """Loudness over time, less its mean, at the waveform's own rate: [S] -> [S]."""
    half = round(ENVELOPE_SECONDS * sample_rate / 2)
    window = torch.hann_window(2 * half + 1, periodic=False, dtype=torch.float64)
    power = F.conv1d(waveform.double().square()[None, None], window[None, None], padding=half)[0, 0]
    envelope = power.clamp(min=0).sqrt()
    return envelope - envelope.mean()


# ---- programs and files ----------------------------------------------------------------------------------------------


def packet_sizes(ogg: bytes) -> Iterator[int]:
    """Bytes of each packet of an Ogg stream (RFC 3533): a page lists the sizes of its segments, and a packet ends with
    the first one below 255."""
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
    try:
        subprocess.run([program, *map(str, arguments)], capture_output=True, check=True, timeout=PROGRAM_SECONDS)
    except subprocess.TimeoutExpired:
        raise MimoError(f"{program} took more than {PROGRAM_SECONDS:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise MimoError(f"{program} failed with exit code {error.returncode}: {' '.join(last)}") from None
    except OSError as error:
        raise MimoError(f"{program} cannot be run: {error.strerror}") from None
