"""Fingerprints, expressions, and which segments stay."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import RATE, example, noise

from mimo_codec import MimoError
from mimo_codec.audio.resampling import resample
from mimo_codec.corpus.config import SelectOptions
from mimo_codec.corpus.cost import SELECTED_BYTES
from mimo_codec.corpus.expressions import FUNCTIONS, Condition, check_expression
from mimo_codec.corpus.fingerprint import MOMENT, fingerprint, near_duplicates
from mimo_codec.corpus.fingerprint import RATE as LOW_RATE
from mimo_codec.corpus.select import EXACT, NEAR, SAMPLE, select


def fingerprint_of(samples: np.ndarray) -> np.ndarray:
    return fingerprint(resample(samples.astype(np.float32), RATE, LOW_RATE))


def coded(samples: np.ndarray, container: str, subtype: str) -> np.ndarray:
    file = io.BytesIO()
    sf.write(file, samples, RATE, format=container, subtype=subtype)
    file.seek(0)
    return sf.read(file, dtype="float32")[0]


PIECE = slice(0, 6 * RATE)
CHANGES = {
    "quieter": lambda x: 0.2 * x,
    "cut": lambda x: x[700:-RATE],
    "vorbis": lambda x: coded(x, "OGG", "VORBIS"),
    "opus": lambda x: coded(x, "OGG", "OPUS"),
    "mp3": lambda x: coded(x, "MP3", "MPEG_LAYER_III"),
    "telephone": lambda x: resample(resample(x, RATE, 8000), 8000, RATE),
    "noise": lambda x: x + 0.1 * x.std() * np.random.default_rng(0).standard_normal(len(x)).astype(np.float32),
    "much noise": lambda x: x + 0.25 * x.std() * np.random.default_rng(0).standard_normal(len(x)).astype(np.float32),
    "noise around": lambda x: np.concatenate((noise(3.0, 0.01), x, noise(1.0, 0.01, 1))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_recording_that_was_changed_sounds_like_itself(change):
    original, other = example()[PIECE], example()[7 * RATE : 13 * RATE]
    found = near_duplicates([fingerprint_of(x) for x in (original, other, change(original))], 0.05)
    assert found == {2: 0}


def test_short_and_silent_segments_have_no_fingerprint():
    assert len(fingerprint(np.zeros(100, np.float32))) == 0
    silent = fingerprint(np.zeros(5 * LOW_RATE, np.float32))
    assert near_duplicates([silent, silent, fingerprint_of(example()[PIECE])], 0.05) == {}
    assert near_duplicates([], 0.05) == {}


def moments(numbers, frames):
    return np.array(sorted(zip(numbers, frames, strict=True)), MOMENT)


def test_the_same_moments_at_other_distances_are_no_duplicate():
    numbers, frames = range(32), np.arange(32) * 10
    one = moments(numbers, frames)
    for frames_of_other, expected in {
        "later": (frames + 500, {1: 0}),
        "a little off": (frames + np.arange(32) % 2, {1: 0}),
        "in another order": (frames[::-1], {}),
        "twice as fast": (frames // 2, {}),
        "all at once": (np.arange(32) % 5, {}),
    }.values():
        assert near_duplicates([one, moments(numbers, frames_of_other)], 0.05) == expected
    assert near_duplicates([one, moments(range(29, 61), frames)], 0.05) == {}, "three in common are too few"


def test_numbers_that_most_segments_have_are_not_compared():
    rng = np.random.default_rng(0)
    common = moments(range(32), range(0, 320, 10))
    assert near_duplicates([common] * 300, 0.05) == {}
    own = [moments([*range(8), *rng.integers(2**31, 2**32, 24)], range(0, 320, 10)) for _ in range(300)]
    assert near_duplicates([*own, own[7]], 0.05) == {300: 7}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_the_first_of_those_that_sound_alike_stays(kinds):
    rng = np.random.default_rng(0)
    distinct = [moments(rng.integers(0, 2**32, 32), range(32)) for _ in range(5)]
    found = near_duplicates([distinct[kind] for kind in kinds], 0.5)
    assert found == {i: kinds.index(kind) for i, kind in enumerate(kinds) if kinds.index(kind) != i}


def row(name: str, sha: str = "", **columns) -> dict:
    return {"id": name, "seconds": 2.0, "samples_sha256": sha or name, "fingerprint": None, **columns}


def test_rows_are_removed_for_the_first_reason():
    print_of = moments(range(32), range(0, 320, 10)).tobytes()
    rows = [
        row("a", snr_db=20.0, fingerprint=print_of),
        row("b", "a", snr_db=20.0),
        row("c", snr_db=20.0, fingerprint=print_of),
        row("d", snr_db=5.0),
        row("e", snr_db=None),
        row("f", snr_db=30.0),
    ]
    pytest.importorskip("simpleeval", reason="needs the corpus extra")
    options = SelectOptions(keep={"noise": "snr_db >= 10"})
    found = select(rows, options, rows[0])
    assert found.kept == [0, 5]
    assert found.removed == {EXACT: 1, NEAR: 1, "noise": 2, SAMPLE: 0}
    assert found.removed_seconds["noise"] == 4.0
    everything = SelectOptions(exact_duplicates=False, near_duplicates=False)
    assert select(rows, everything, rows[0]).kept == list(range(6))


def test_the_sample_depends_on_names_alone():
    rows = [row(str(n)) for n in range(2000)]
    half = select(rows, SelectOptions(share=0.5), rows[0]).kept
    assert 900 < len(half) < 1100
    fewer = select(rows[::-1], SelectOptions(share=0.25), rows[0]).kept
    assert {rows[::-1][n]["id"] for n in fewer} < {rows[n]["id"] for n in half}
    assert select(rows, SelectOptions(share=0.0), rows[0]).kept == []


def test_expressions():
    pytest.importorskip("simpleeval", reason="needs the corpus extra")
    known = {"seconds": 2.0, "text": "Hello there", "language": None, "snr_db": 12.5}
    for expression, expected in {
        "seconds > 1": True,
        "1 < seconds <= 2 and snr_db > 10": True,
        "language == 'en'": False,
        "language is None": True,
        "len(text) / seconds < 20": True,
        "lower(text) in ('hello there', 'bye')": True,
        "not text": False,
        "snr_db > language": False,
        "snr_db < 10 or language < 3 or seconds > 1": True,
        "1 < language < 3": False,
        "len(language) > 1 or seconds > 1": False,
        "language + 1 > 0": False,
        "lower(language) == 'en'": False,
        "text[0] == 'H'": True,
    }.items():
        assert Condition(expression, known).holds(known) is expected, expression
    for expression, message in {
        "seconds >": "not an expression",
        "secnds > 1": "no column secnds, only seconds",
        "a = 1": "not an expression",
        "": "not an expression",
    }.items():
        with pytest.raises(MimoError, match=message):
            check_expression(expression)
            Condition(expression, known)


@pytest.mark.parametrize(
    "expression",
    [
        *("seconds.__class__", "open('x')", "9**9**9", "'a' * 10**9", "[x for x in range(10**9)]"),
        *("seconds / 0", "seconds()", "len", "len(seconds) > 1", "seconds > 'a'", "seconds[0] > 1"),
    ],
)
def test_expressions_do_nothing_else(expression):
    pytest.importorskip("simpleeval", reason="needs the corpus extra")
    with pytest.raises(MimoError):
        Condition(expression, {"seconds": 1}).holds({"seconds": 1.0})
        raise MimoError("it was not true")
    assert set(FUNCTIONS) == {"abs", "len", "lower", "max", "min", "round"}


def test_memory_is_what_a_plan_says():
    """At its peak, for fingerprints of full size, of whose moments many segments have the same."""
    count, random = 2000, np.random.default_rng(0)

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(count):
            found = np.zeros(96, MOMENT)
            found["number"] = np.sort(random.integers(0, 2**18, 96))
            yield row(f"{number:026x}", f"{number:064x}", fingerprint=found.tobytes())

    tracemalloc.start()
    select(rows(), SelectOptions(), row("a"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 * SELECTED_BYTES < peak / count < 1.1 * SELECTED_BYTES
