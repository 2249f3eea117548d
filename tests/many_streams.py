"""A server in small: streams that come, go and speed ahead of each other, all of them one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from conftest import make_speech

from mimo_codec.codec import together
from mimo_codec.codec.base import Codec
from mimo_codec.common.arrays import to_numpy

CHUNK = 960
"""Samples of a code frame."""


def assert_as_alone(codec: Codec[Any], monkeypatch: Any, ticks: int, seed: int = 0) -> int:
    """Check that streams which begin at different ticks give what each gives alone; return the largest batch."""
    sizes = batch_sizes(monkeypatch)
    random = np.random.default_rng(seed)
    speech = [make_speech(2.0, seed=i).numpy() for i in range(4)]
    live: dict[int, tuple[Any, Any]] = {}
    alone: dict[int, tuple[Any, Any]] = {}
    place: dict[int, int] = {}
    for tick in range(ticks):
        if tick % 3 == 0 and len(live) < 5:
            live[tick], alone[tick], place[tick] = (None, None), (None, None), 0
        ids = sorted(live)
        counts = [int(random.choice([0, 1, 3, 3, 3])) * CHUNK for _ in ids]
        ends = [place[i] > 70 * CHUNK and bool(random.integers(20) == 0) for i in ids]
        chunks = [np.resize(speech[i % 4], place[i] + n)[place[i] :] for i, n in zip(ids, counts, strict=True)]
        codes, encoders = codec.encode_chunks(chunks, [live[i][0] for i in ids], ends)
        audio, decoders = codec.decode_chunks(codes, [live[i][1] for i in ids], ends)
        for n, i in enumerate(ids):
            expected, encoder = codec.encode_chunk(chunks[n], alone[i][0], ends[n])
            assert np.array_equal(to_numpy(codes[n]), to_numpy(expected)), (tick, i)
            waveform, decoder = codec.decode_chunk(codes[n], alone[i][1], ends[n])
            assert to_numpy(audio[n]).shape == to_numpy(waveform).shape
            assert np.abs(to_numpy(audio[n]) - to_numpy(waveform)).max(initial=0) < 2e-5
            assert_alike(encoders[n], encoder)
            assert_alike(decoders[n], decoder)
            live[i], alone[i], place[i] = (encoders[n], decoders[n]), (encoder, decoder), place[i] + counts[n]
            if ends[n]:
                del live[i]
    return max(sizes)


def assert_one_batch(codec: Codec[Any], monkeypatch: Any) -> None:
    """Check that settled streams of different ages are computed as one batch, without one that has just begun."""
    settled = together.settled_after(codec.config)
    assert settled is not None
    sizes = batch_sizes(monkeypatch)
    speech, frame = make_speech(0.4).numpy(), codec.config.samples_per_frame
    waveforms = [np.resize(speech, frame * frames) for frames in (2, *range(settled + 2, settled + 6))]
    states = [codec.encode_chunk(waveform)[1] for waveform in waveforms]
    codec.encode_chunks([speech[:frame]] * 5, states)
    assert sorted(sizes) == [1, 4]
    ids = np.zeros((codec.num_quantizers, settled + 9), np.int64)
    states = [codec.decode_chunk(ids[:, :frames])[1] for frames in (2, *range(settled + 2, settled + 6))]
    sizes.clear()
    codec.decode_chunks([ids[:, :2]] * 5, states)
    assert sorted(sizes) == [1, 4]


def batch_sizes(monkeypatch: Any) -> list[int]:
    """Return the sizes of all batches to come."""
    sizes: list[int] = []
    joined = together.joined
    monkeypatch.setattr(together, "joined", lambda states: sizes.append(len(states)) or joined(states))
    return sizes


def assert_alike(state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check names, types and sizes, and the values of counters."""
    assert state.keys() == expected.keys()
    for name, value in state.items():
        one, other = (to_numpy(together._plain(x)) for x in (value, expected[name]))
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert one.ndim or one == other, name
