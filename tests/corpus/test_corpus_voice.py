"""Recordings are cut where nobody speaks."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import RATE, example, join

from mimo_codec.corpus.config import SegmentOptions
from mimo_codec.corpus.voice import STEP_SECONDS, VoiceDetector, find_segments

needs_detector = pytest.mark.skipif(
    not (find_spec("silero_vad") and find_spec("onnxruntime")), reason="needs the corpus and onnx extras"
)
probabilities = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), max_size=400)


@settings(max_examples=200, deadline=None)
@given(
    values=probabilities,
    repeat=st.integers(1, 20),
    shortest=st.floats(0.1, 2.0),
    factor=st.floats(2.0, 10.0),
    pause=st.floats(0.05, 1.0),
    margin=st.floats(0.0, 0.3),
)
def test_segments_keep_to_their_limits(values, repeat, shortest, factor, pause, margin):
    """In order, apart, inside the recording, neither too short nor too long, and at the same places in any order."""
    heard = np.repeat(np.array(values, np.float32), repeat)
    seconds = max(len(heard) * STEP_SECONDS - 0.01, 0.0)
    longest = max(shortest * factor, 2 * margin + 2 * STEP_SECONDS, 0.5)
    options = SegmentOptions(shortest, longest, 0.5, pause, margin)
    spans = find_segments(heard, seconds, options)
    for span in spans:
        assert 0 <= span.start < span.end <= seconds + 1e-3
        assert shortest - 1e-3 <= span.end - span.start <= longest + 1e-3
    for one, other in pairwise(spans):
        assert one.end <= other.start + 1e-3


def test_long_speech_is_cut_where_it_is_most_like_a_pause():
    heard = np.ones(1000, np.float32)
    heard[600:606] = 0.55
    spans = find_segments(heard, 1000 * STEP_SECONDS, SegmentOptions(max_seconds=30.0, margin_seconds=0.0))
    assert len(spans) == 2 and abs(spans[0].end - 603 * STEP_SECONDS) < 5 * STEP_SECONDS
    assert spans[0].end == spans[1].start


def test_silence_has_no_segments():
    assert find_segments(np.zeros(100, np.float32), 3.2, SegmentOptions()) == []
    assert find_segments(np.zeros(0, np.float32), 0.0, SegmentOptions()) == []


@needs_detector
def test_the_detector_hears_the_same_in_blocks_of_any_size():
    detector, samples = VoiceDetector(), example()[: 5 * RATE]
    at_once = detector.probabilities([samples])
    assert len(at_once) == -(-len(samples) // 512)
    for size in (1, 511, 512, 7777):
        step = max(size, len(samples) // 40) if size == 1 else size
        blocks = [samples[start : start + step] for start in range(0, len(samples), step)]
        np.testing.assert_allclose(detector.probabilities(blocks), at_once, atol=1e-5)
    assert len(detector.probabilities([])) == 0


@needs_detector
@pytest.mark.parametrize("level", [0.0, 1e-3])
def test_joined_pieces_are_found_again(level):
    """Edges within 0.2 s, with and without noise."""
    speech = example()
    third = len(speech) // 3
    pieces = [speech[:third], speech[third : 2 * third], speech[2 * third :]]
    samples, places = join(pieces, [1.0, 1.5, 2.0, 1.0], level)
    options = SegmentOptions(min_seconds=0.5, pause_seconds=0.8)
    spans = find_segments(VoiceDetector().probabilities([samples]), len(samples) / RATE, options)
    assert len(spans) == len(places)
    for span, (start, end) in zip(spans, places, strict=True):
        assert abs(span.start - start) <= 0.2 and abs(span.end - end) <= 0.2
