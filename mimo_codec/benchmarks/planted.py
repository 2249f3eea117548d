"""Long recordings of which everything is known: pieces of speech with pauses, noise, damage, and copies of pieces."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from mimo_codec.audio.files import load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.audio.writer import save_audio
from mimo_codec.corpus.steps.quality import FRAME_SECONDS, frame_powers, measure_snr
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.utterance import Utterance

RATE = 24000
PIECE_SECONDS = (1.5, 20.0)
GAP_SECONDS = 0.3
"""Speech is cut into pieces where so long nothing is heard, so no piece has a pause of its own."""
HEARD_DB = 35.0
"""Frames that are further below the loud ones do not count as heard."""
MIN_SNR_DB = 35.0
"""Of the speech that is used: in noise nobody can say where a piece begins."""
PAUSE_SECONDS = (0.8, 3.0)
LEVEL = 0.05
"""Root mean square of every piece."""
COPIED = ("recording", "other level and noise", "lossy coding too")
COPIES = 0.05
"""Share of the pieces that were heard in an earlier recording."""


@dataclass(frozen=True)
class Condition:
    """What is done to a recording."""

    snr_db: float
    bandwidth_hz: int | None = None
    clipped: float = 0.0
    """Share of the recording's samples."""


CONDITIONS = (
    Condition(30.0),
    Condition(20.0),
    Condition(15.0),
    Condition(20.0, bandwidth_hz=4000),
    Condition(30.0, clipped=0.005),
)


@dataclass(frozen=True)
class Piece:
    """Where a piece of speech is in a recording."""

    number: int
    """The same for its copies."""
    start: float
    end: float
    """In seconds."""
    clipped: float
    """Share of its samples."""
    copied: str | None = None
    """How, one of COPIED, if it was heard before."""


@dataclass
class Planted:
    """A recording and what is in it, in order."""

    path: Path
    condition: Condition
    pieces: list[Piece] = field(default_factory=list)


def find_pieces(utterances: Sequence[Utterance]) -> Iterator[NDArray[np.float32]]:
    """Yield pieces [S] of all utterances without much noise, at RATE and equally loud."""
    for utterance in utterances:
        with audio_file(utterance) as path:
            samples, rate = load_audio(path, start=utterance.start, end=utterance.end)
        yield from cut_at_silence(resample(samples.numpy(), rate, RATE))


def cut_at_silence(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Samples [S] at RATE -> pieces [S'] between the places where nothing is heard; none of noisy speech."""
    powers, size = frame_powers(samples, RATE), round(FRAME_SECONDS * RATE)
    if (measure_snr(powers) or 0.0) < MIN_SNR_DB:
        return
    heard = np.flatnonzero(powers > np.quantile(powers, 0.95) * 10 ** (-HEARD_DB / 10))
    for run in np.split(heard, np.flatnonzero(np.diff(heard) > GAP_SECONDS / FRAME_SECONDS) + 1):
        piece = samples[run[0] * size : (run[-1] + 1) * size]
        if PIECE_SECONDS[0] <= len(piece) / RATE <= PIECE_SECONDS[1]:
            yield piece * np.float32(LEVEL / np.sqrt(np.square(piece).mean()))


def plant(
    pieces: Sequence[NDArray[np.float32]], folder: Path, hours: float, minutes: float, seed: int
) -> list[Planted]:
    """Write recordings of so many minutes each, so many hours together, or fewer if the pieces do not suffice.

    The conditions take turns. Five pieces of a hundred are copies: another level, other noise, and half of them after
    lossy coding. The last recording is a copy of the first.
    """
    random = np.random.default_rng(seed)
    fresh = iter(random.permutation(len(pieces)).tolist())
    made: list[Planted] = []
    known: list[int] = []
    for number in range(max(1, round(60 * hours / minutes) - 1)):
        recording = Planted(folder / f"{number:03d}.wav", CONDITIONS[number % len(CONDITIONS)])
        samples, places = _join(pieces, fresh, known, 60 * minutes, random)
        samples = _spoil(samples, recording.condition, random)
        save_audio(recording.path, samples, RATE)
        limit = np.abs(samples).max(initial=0.0)
        for piece, first, last, copied in places:
            share = float((np.abs(samples[first:last]) >= limit).mean()) if recording.condition.clipped else 0.0
            recording.pieces.append(Piece(piece, first / RATE, last / RATE, share, copied))
        known += [piece for piece, *_, copied in places if copied is None]
        made.append(recording)
    whole, rate = soundfile.read(made[0].path, dtype="int16")
    soundfile.write(folder / "copy.flac", whole, rate)
    copies = [Piece(p.number, p.start, p.end, p.clipped, COPIED[0]) for p in made[0].pieces]
    return [*made, Planted(folder / "copy.flac", made[0].condition, copies)]


Place = tuple[int, int, int, str | None]
"""(number of the piece, first sample, sample after the last, how it was copied)"""


def _join(
    pieces: Sequence[NDArray[np.float32]],
    fresh: Iterator[int],
    known: Sequence[int],
    seconds: float,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], list[Place]]:
    """Join pieces with silence between until there are so many seconds."""
    parts, places = list[NDArray[np.float32]](), list[Place]()
    position, left = 0, random.permutation(known).tolist()
    while position < seconds * RATE:
        copied = COPIED[random.integers(1, 3)] if left and random.random() < COPIES else None
        piece = left.pop() if copied else next(fresh, None)
        if piece is None:
            break
        samples = pieces[piece] if copied is None else _heard_again(pieces[piece], copied, random)
        parts += [np.zeros(round(random.uniform(*PAUSE_SECONDS) * RATE), np.float32), samples]
        first = position + len(parts[-2])
        position = first + len(samples)
        places.append((piece, first, position, copied))
    return np.concatenate((*parts, np.zeros(round(PAUSE_SECONDS[0] * RATE), np.float32))), places


def _heard_again(samples: NDArray[np.float32], copied: str, random: np.random.Generator) -> NDArray[np.float32]:
    """Samples [S] -> the same at another level, and after lossy coding if that is how it is copied."""
    level = np.float32(random.uniform(0.5, 1.5))
    if copied != COPIED[2]:
        return level * samples
    coded = io.BytesIO()
    soundfile.write(coded, samples, RATE, format="OGG", subtype="VORBIS", compression_level=0.9)
    coded.seek(0)
    found: NDArray[np.float32] = soundfile.read(coded, dtype="float32")[0][: len(samples)]
    return level * np.pad(found, (0, len(samples) - len(found)))


def _spoil(samples: NDArray[np.float32], condition: Condition, random: np.random.Generator) -> NDArray[np.float32]:
    """Add noise, then limit the bandwidth, then clip."""
    noise = LEVEL * 10 ** (-condition.snr_db / 20) * random.standard_normal(len(samples)).astype(np.float32)
    samples = samples + noise
    if condition.bandwidth_hz is not None:
        spectrum = np.fft.rfft(samples)
        spectrum[round(len(samples) * condition.bandwidth_hz / RATE) :] = 0
        samples = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    if condition.clipped:
        limit = np.quantile(np.abs(samples), 1 - condition.clipped)
        samples = samples.clip(-limit, limit)
    return samples / max(1.0, float(np.abs(samples).max()) / 0.99)
