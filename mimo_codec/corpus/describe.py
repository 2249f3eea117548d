"""The first half of the work: recordings -> segments with all that is known of them, but no codes."""

from __future__ import annotations

import hashlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.files import audio_info, iter_arrays
from mimo_codec.audio.resampling import resample
from mimo_codec.common.checks import require
from mimo_codec.common.errors import DamageWarning, MimoError
from mimo_codec.corpus.config import Pipeline
from mimo_codec.corpus.fingerprint import RATE as FINGERPRINT_RATE
from mimo_codec.corpus.fingerprint import fingerprint
from mimo_codec.corpus.recordings import Recording, check_not_gone, check_text
from mimo_codec.corpus.schema import PLACE
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps import make_steps
from mimo_codec.corpus.steps.base import Step
from mimo_codec.corpus.timing import Timing
from mimo_codec.corpus.voice import RATE as VOICE_RATE
from mimo_codec.corpus.voice import Span, VoiceDetector, find_segments
from mimo_codec.data.embedded import audio_file

BLOCK_SECONDS = 10.0
BATCH_SECONDS = 60.0
"""Segments that a step gets together."""
SHORT_MESSAGE = 300


@dataclass
class Described:
    """What becomes of a task."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    """Recordings that cannot be used, or parts of them, with the reason."""
    recorded_seconds: float = 0.0
    timing: Timing = field(default_factory=Timing)


class Describer:
    """Describes recordings; holds the networks that this takes."""

    def __init__(self, pipeline: Pipeline):
        """Load what the steps need."""
        self.pipeline = pipeline
        self.detector = None if pipeline.segment is None else VoiceDetector()
        self.steps: list[Step] = make_steps(pipeline.describe)

    def __call__(self, recordings: Sequence[Recording], note: Callable[[str], None] = lambda name: None) -> Described:
        """Describe the recordings of a task, each as if it were alone; note: called with the id of each before."""
        made = Described()
        for recording in recordings:
            note(recording.id)
            with warnings.catch_warnings(record=True) as damages:
                warnings.simplefilter("always", DamageWarning)
                made.rows += self._describe_one(recording, made)
            messages = {str(w.message): None for w in damages if issubclass(w.category, DamageWarning)}
            made.quarantine += [refusal(recording, message) for message in messages]
        return made

    def _describe_one(self, recording: Recording, made: Described) -> list[dict[str, Any]]:
        try:
            rows = list(self._rows(recording, made))
            for step in self.steps:
                with made.timing.of(type(step).__name__), _kept_places(step, rows):
                    step.finish(rows)
        except (MimoError, OSError) as error:
            if recording.there:
                check_not_gone(recording.utterance.path)
            made.quarantine.append(refusal(recording, str(error)))
            return []
        except Exception as error:
            raise MimoError(f"{recording.utterance.name}: {_unexpected(error)}") from error
        return rows

    def _rows(self, recording: Recording, made: Described) -> Iterator[dict[str, Any]]:
        """Yield the rows of a recording; steps still have to finish them."""
        check_text(recording.utterance)
        with audio_file(recording.utterance) as path:
            info = audio_info(path)
            least = self.pipeline.read.min_sample_rate
            require(info.sample_rate >= least, f"sampled at {info.sample_rate} Hz; at least {least} Hz are needed")
            with made.timing.of("segment"):
                spans, seconds = self._spans(recording, path)
            made.recorded_seconds += seconds
            if not spans:
                made.quarantine.append(refusal(recording, "no segment of speech was found that is long enough"))
            batch: list[Segment] = []
            for span, samples in self._cut(recording, path, spans, made.timing):
                row = self._row(recording, span, info.sample_rate)
                batch.append(Segment(samples, self.pipeline.read.sample_rate, row))
                if sum(segment.seconds for segment in batch) >= BATCH_SECONDS:
                    yield from self._describe(batch, made.timing)
                    batch = []
            yield from self._describe(batch, made.timing)

    def _spans(self, recording: Recording, path: Any) -> tuple[list[Span], float]:
        """Return the segments of a recording, in seconds from its start, and its duration."""
        u, options = recording.utterance, self.pipeline.segment
        if options is None or (u.text is not None and recording.seconds <= options.max_seconds):
            count = sum(len(block) for block in iter_arrays(path, BLOCK_SECONDS, VOICE_RATE, u.start, u.end))
            return [Span(0.0, count / VOICE_RATE)], count / VOICE_RATE
        assert self.detector is not None
        count = 0

        def counted() -> Iterator[NDArray[np.float32]]:
            nonlocal count
            for block in iter_arrays(path, BLOCK_SECONDS, VOICE_RATE, u.start, u.end):
                count += len(block)
                yield block

        probabilities = self.detector.probabilities(counted())
        return find_segments(probabilities, count / VOICE_RATE, options), count / VOICE_RATE

    def _cut(
        self, recording: Recording, path: Any, spans: Sequence[Span], timing: Timing
    ) -> Iterator[tuple[Span, NDArray[np.float32]]]:
        """Yield spans with their samples, at the rate of the pipeline."""
        rate = self.pipeline.read.sample_rate
        pieces = cut(path, spans, rate, recording.utterance.start, recording.utterance.end)
        while True:
            with timing.of("read"):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _row(self, recording: Recording, span: Span, rate: int) -> dict[str, Any]:
        u = recording.utterance
        start, end = u.start + span.start, u.start + span.end
        is_whole = self.pipeline.segment is None or recording.seconds <= self.pipeline.segment.max_seconds
        return {
            "id": f"{recording.id}-{round(1000 * span.start):09d}",
            "recording": recording.id,
            "source": u.source,
            "licence": u.licence,
            "path": str(u.path),
            **{name: getattr(u, name) for name in ("member", "offset", "num_bytes", "row", "column")},
            "start": round(start, 4),
            "end": round(end, 4),
            "seconds": round(end - start, 4),
            "sample_rate": rate,
            "text": u.text if is_whole else None,
            "language": u.language,
            "speaker": u.speaker,
        }

    def _describe(self, segments: list[Segment], timing: Timing) -> Iterator[dict[str, Any]]:
        for step in self.steps:
            with timing.of(type(step).__name__), _kept_places(step, [segment.row for segment in segments]):
                step.describe(segments)
        with timing.of("fingerprint"):
            for segment in segments:
                pcm = np.round(segment.samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
                segment.row["samples_sha256"] = hashlib.sha256(pcm).hexdigest()
                low = resample(segment.samples, segment.rate, FINGERPRINT_RATE)
                segment.row["fingerprint"] = fingerprint(low).tobytes()
        yield from (segment.row for segment in segments)


def cut(
    path: Any, spans: Sequence[Span], rate: int, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Yield spans, which are in order, with their samples [S] at `rate`; one pass over the file, in blocks.

    start, end: of the piece of the file from which spans are counted, in seconds.
    """
    waiting = list(reversed(spans))
    buffer, begin = np.zeros(0, np.float32), 0
    if not waiting:
        return
    blocks = iter_arrays(path, BLOCK_SECONDS, rate, start, end)
    ended = False
    while waiting:
        first, last = (round(edge * rate) for edge in waiting[-1])
        if begin + len(buffer) < last and not ended:
            block = next(blocks, None)
            ended = block is None
            if block is not None:
                keep = max(min(first - begin, len(buffer)), 0)
                buffer, begin = np.concatenate((buffer[keep:], block)), begin + keep
            continue
        piece = buffer[max(first - begin, 0) : last - begin].copy()
        require(len(piece), "is shorter than before")
        yield waiting.pop(), piece


@contextmanager
def _kept_places(step: Step, rows: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Raise TypeError when a step changes where rows come from."""
    before = [(row, {name: row[name] for name in PLACE}) for row in rows]
    yield
    for row, place in before:
        for name, value in place.items():
            if row.get(name) != value:
                raise TypeError(f"{type(step).__name__} changed {name}, which is not a step's")


def _unexpected(error: Exception) -> str:
    """Say in one line what an error is and where it was raised, by a step of the user's own for example."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())[:SHORT_MESSAGE]
    return f"{type(error).__name__}: {reason} ({last.filename}, line {last.lineno})"


def refusal(recording: Recording, reason: str) -> dict[str, Any]:
    """Return an entry of the quarantine."""
    u = recording.utterance
    text = " ".join(reason.removeprefix(f"{u.name}: ").removeprefix(f"{u.path}: ").split())
    place: dict[str, Any] = {"path": str(u.path), "member": u.member, "start": u.start or None}
    return {name: value for name, value in place.items() if value is not None} | {"reason": text[:SHORT_MESSAGE]}
