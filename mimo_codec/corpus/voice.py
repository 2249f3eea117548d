"""Where someone speaks in a recording, by Silero's voice activity detector, and how it is cut into segments.

The detector's weights come with the package silero-vad. It hears 32 ms at a time and keeps a state, so a recording is
heard from its beginning, block by block, and only one probability for each 32 ms stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import needs_extra, require
from mimo_codec.corpus.config import SegmentOptions

RATE = 16000
STEP = 512
"""Samples of which the detector gives one probability."""
STEP_SECONDS = STEP / RATE
CONTEXT, STATE = 64, 128
"""Samples before a step that the detector hears too, and the width of its state."""
WEIGHTS = "silero_vad_16k_sequence.onnx"
LATE_STEPS = 2
"""So late the detector notices that speech has ended."""
HYSTERESIS = 0.15
"""How far below the threshold speech goes on."""
SMOOTHING = 5
"""Steps over which probabilities are averaged to find the place that is most like a pause."""


class Span(NamedTuple):
    """A piece of a recording, in seconds."""

    start: float
    end: float


class VoiceDetector:
    """Silero's detector by ONNX Runtime, loaded once."""

    def __init__(self) -> None:
        """Load the weights; MimoError when a package is not installed."""
        with needs_extra("onnxruntime", "onnx"):
            from onnxruntime import InferenceSession, SessionOptions
        package = find_spec("silero_vad")  # imported it would ask for torchaudio
        require(package is not None, "silero-vad is not installed: pip install 'mimo-codec[corpus]'")
        assert package is not None and package.submodule_search_locations is not None
        path = Path(package.submodule_search_locations[0]) / "data" / WEIGHTS
        require(path.is_file(), f"silero-vad: {path} is missing; pip install 'silero-vad>=6.2'")
        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def probabilities(self, blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Blocks [S] of a recording at 16 kHz -> probabilities of speech, one for each 512 samples.

        The last samples, where there are fewer, are filled up with zeros.
        """
        found: list[NDArray[np.float32]] = []
        state = {name: np.zeros((1, 1, STATE), np.float32) for name in ("h", "c")}
        heard = np.zeros(CONTEXT, np.float32)  # what is not yet used, after the context of its first sample
        for block in blocks:
            heard = np.concatenate((heard, block.clip(-1, 1)))
            whole = (len(heard) - CONTEXT) // STEP * STEP
            if whole:
                found.append(self._hear(heard[: CONTEXT + whole], state))
                heard = heard[whole:]
        if len(heard) > CONTEXT:
            found.append(self._hear(np.pad(heard, (0, CONTEXT + STEP - len(heard))), state))
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _hear(self, samples: NDArray[np.float32], state: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Samples [CONTEXT + n STEP] -> [n]; the state is that after them."""
        steps = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + STEP)[::STEP]
        inputs = {"input": np.ascontiguousarray(steps, np.float32), **state}
        found: NDArray[np.float32]
        found, state["h"], state["c"] = self._session.run(None, inputs)
        return found


def find_segments(probabilities: NDArray[np.float32], seconds: float, options: SegmentOptions) -> list[Span]:
    """Probabilities [n], one for each 32 ms of a recording of so many seconds -> its segments in seconds, in order.

    They do not overlap.
    """
    runs = _runs_of_speech(probabilities, options.threshold)
    runs = _join(runs, round(options.pause_seconds / STEP_SECONDS))
    runs = [(first, max(last - LATE_STEPS, first + 1)) for first, last in runs]
    longest = int((options.max_seconds - 2 * options.margin_seconds) / STEP_SECONDS)
    pieces = [piece for run in runs for piece in _cut(probabilities, run, max(longest, 1))]
    spans = _with_margins(pieces, seconds, options.margin_seconds)
    return [span for span in spans if span.end - span.start >= options.min_seconds]


Run = tuple[int, int]
"""First step and the step after the last."""


def _runs_of_speech(probabilities: NDArray[np.float32], threshold: float) -> list[Run]:
    """Return runs that begin at the threshold and go on until the probability is clearly below it."""
    runs, begin = [], None
    for step, probability in enumerate(probabilities.tolist()):
        if begin is None and probability >= threshold:
            begin = step
        elif begin is not None and probability < threshold - HYSTERESIS:
            runs.append((begin, step))
            begin = None
    return runs if begin is None else [*runs, (begin, len(probabilities))]


def _join(runs: Iterable[Run], pause: int) -> list[Run]:
    """Join runs between which there are fewer steps than a pause has."""
    joined: list[Run] = []
    for run in runs:
        if joined and run[0] - joined[-1][1] < pause:
            joined[-1] = (joined[-1][0], run[1])
        else:
            joined.append(run)
    return joined


def _cut(probabilities: NDArray[np.float32], run: Run, longest: int) -> Iterator[Run]:
    """Cut a run into pieces of at most `longest` steps, each time in the middle part where speech is least likely."""
    begin, end = run
    if end - begin <= longest:
        yield run
        return
    kernel = np.ones(min(SMOOTHING, end - begin)) / min(SMOOTHING, end - begin)
    smooth = np.convolve(probabilities[begin:end], kernel, "same")
    low = max(1, (end - begin) // 4)
    place = begin + low + int(smooth[low : end - begin - low + 1].argmin())
    for part in ((begin, place), (place, end)):
        yield from _cut(probabilities, part, longest)


def _with_margins(pieces: list[Run], seconds: float, margin: float) -> list[Span]:
    """Add a margin on both sides, at most half of what lies between two pieces."""
    times = [(first * STEP_SECONDS, min(last * STEP_SECONDS, seconds)) for first, last in pieces]
    spans = []
    for number, (start, end) in enumerate(times):
        before = times[number - 1][1] if number else -np.inf
        after = times[number + 1][0] if number + 1 < len(times) else np.inf
        first = max(start - min(margin, (start - before) / 2), 0.0)
        last = min(end + min(margin, (after - end) / 2), seconds)
        spans.append(Span(round(first, 4), round(last, 4)))
    return spans
