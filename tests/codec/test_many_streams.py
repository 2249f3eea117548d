"""Many streams in one call: what each gives, what a server saves, and what is refused."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_speech
from goldens import KINDS, golden_codec, segmented_codec, streaming_codec
from many_streams import assert_as_alone, assert_one_batch

from mimo_codec import MimoError
from mimo_codec.codec.together import settled_after

SPEECH = make_speech(0.4).numpy()


@pytest.mark.parametrize("kind", ["tiny", *KINDS])
def test_streams_of_all_ages_give_what_each_gives_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = streaming_codec("tiny", shallow=True) if kind == "tiny" else streaming_codec(kind)
    settled = settled_after(codec.config)
    assert settled is not None and settled < 60  # so that some of the streams here are older
    assert assert_as_alone(codec, monkeypatch, 40) >= 2


def test_streams_of_different_ages_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_one_batch(streaming_codec("tiny", shallow=True), monkeypatch)


def test_streams_that_come_of_nothing_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a server's clients begin together."""
    codec = streaming_codec()
    codes, states = codec.encode_chunks([SPEECH] * 3)
    expected, _ = codec.encode_chunk(SPEECH)
    assert all(torch.equal(found, expected) for found in codes)
    assert len({state["encoder.layers.0.k"].untyped_storage().data_ptr() for state in states}) == 3
    assert max(len(pickle.dumps(state)) for state in states) < 2e6


@pytest.mark.parametrize("name", ["codec_base", "codec_variant"])
def test_models_whose_streams_do_not_settle(name: str) -> None:
    """Norms over whole sequences, and segments: those of the same age are alike, no others."""
    codec = segmented_codec(name)
    assert settled_after(codec.config) is None and golden_codec(name).decodes_streams
    ids = np.random.default_rng(0).integers(0, min(codec.codebook_sizes), (8, 130))
    states, alone = [None] * 3, [None] * 3
    for start, size in ((0, 20), (20, 35), (55, 75)):
        parts = [ids[:, start : start + size], ids[:, start : start + size], ids[:4, start : start + size - 5]]
        audio, states = codec.decode_chunks(parts, states)  # type: ignore[assignment]
        for i, part in enumerate(parts):
            expected, alone[i] = codec.decode_chunk(part, alone[i])  # type: ignore[call-overload]
            assert audio[i].shape == expected.shape and (audio[i] - expected).abs().max() < 2e-5


def test_a_batch_is_quicker() -> None:
    codec, count = streaming_codec(), 16
    chunk = SPEECH[:1920]

    def seconds(step: Any) -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    states: Any = [None] * count
    for _ in range(3):
        _, states = codec.encode_chunks([chunk] * count, states)
    together = min(seconds(lambda: codec.encode_chunks([chunk] * count, states)) for _ in range(5))
    alone = min(seconds(lambda: [codec.encode_chunk(chunk, state) for state in states]) for _ in range(5))
    assert together < 0.7 * alone


MISTAKES: dict[str, tuple[Any, str]] = {
    "one stream": (lambda c: c.encode_chunks(SPEECH), "waveforms: a list of chunks is needed, one for each stream"),
    "states": (lambda c: c.encode_chunks([SPEECH] * 2, [None]), "states: one for each of 2 streams is needed"),
    "ends": (lambda c: c.encode_chunks([SPEECH] * 2, None, [True]), "last: one for each of 2 streams is needed"),
    "nan": (lambda c: c.encode_chunks([SPEECH, SPEECH * np.nan]), "stream 1: audio: sample 0 is NaN"),
    "codes": (lambda c: c.decode_chunks([np.zeros((8, 2), int), np.full((8, 2), 9999)]), "stream 1: code out of range"),
    "foreign": (lambda c: c.decode_chunks([np.zeros((8, 2), int)], [{"a": 1}]), "stream 0: state: is not what"),
    "ended": (
        lambda c: c.encode_chunks([SPEECH], c.encode_chunks([SPEECH], last=True)[1]),
        "stream 0: state: its stream has ended",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises(MimoError, match=message):
        call(streaming_codec())


def test_no_streams() -> None:
    assert streaming_codec().encode_chunks([]) == ([], []) == streaming_codec().decode_chunks([])
