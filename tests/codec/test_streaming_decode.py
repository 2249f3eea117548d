"""Decoding chunk by chunk is the same as at once, and what a chunk may be."""

import itertools

import numpy as np
import pytest
import torch
from chunks import EXACT, FRAME, RATE, SPEECH, cut, every, few, stream
from goldens import (
    DECODING_CODECS,
    each_kind,
    expected,
    golden_codec,
    segmented_codec,
    streaming_codec,
)
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.codec.decoder import UpsampleConv

# ---- decode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 3, 25])
def test_decode(codes, num_frames):
    pieces = cut(codes.codes, every(num_frames, codes.codes))
    waveform = stream(streaming_codec().decode_chunk, pieces)
    assert len(waveform) == codes.num_frames * FRAME
    torch.testing.assert_close(waveform[: codes.num_samples], streaming_codec().decode(codes), atol=EXACT, rtol=0)


@few
@given(num_frames=st.integers(1, 76), sizes=st.lists(st.integers(0, 30), max_size=10))
@torch.no_grad()
def test_decode_in_random_chunks(codes, num_frames, sizes):
    codec, ids = streaming_codec(), codes.codes[:, :num_frames]
    whole = codec.decoder(codec.quantizer.decode(ids)[None])[0]
    assert whole.shape == (num_frames * FRAME,)
    torch.testing.assert_close(stream(codec.decode_chunk, cut(ids, sizes)), whole, atol=EXACT, rtol=0)
    torch.testing.assert_close(codec.decode(ids), whole, atol=EXACT, rtol=0)


@torch.no_grad()
def test_decode_of_long_codes_is_decoding_at_once(codes):
    """Longer than the blocks that decode works on at a time."""
    codec, ids = streaming_codec(), codes.codes.repeat(1, 16)
    assert ids.shape[1] > 2 * 500
    whole = codec.decoder(codec.quantizer.decode(ids)[None])[0]
    torch.testing.assert_close(codec.decode(ids), whole, atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", DECODING_CODECS)
def test_decode_with_norms_over_the_whole_sequence(name):
    """Their statistics are those of the stream so far, which converge to those of the whole: measured are 2 to 6 % of
    the signal in the first second and 0.2 to 0.7 % after four."""
    codec, ids = golden_codec(name), expected(name)["long.codes"][:8].long()
    at_once = codec.decode(ids)
    for size in (1, 30):
        waveform = stream(codec.decode_chunk, cut(ids, every(size, ids)))
        assert waveform.shape == at_once.shape
        error = (waveform - at_once).square() / at_once.var()
        assert error[:RATE].mean().sqrt() < 0.1
        assert error[-RATE:].mean().sqrt() < 0.01
        assert error[-RATE:].mean() < error[:RATE].mean() / 4


@few
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), pad=st.integers(0, 1))
@torch.no_grad()
def test_statistics_of_a_stream_are_those_of_all_its_frames(sizes, pad):
    """With a loudness and a mean that drift from chunk to chunk."""
    torch.manual_seed(0)
    conv = UpsampleConv(4, 6, 2 + pad, 2, "group")
    drift = torch.linspace(0, 9, sum(sizes))[:, None]
    x = torch.randn(1, sum(sizes), 4) * (1 + drift) + drift
    state = conv.initial_state(1)
    for i, piece in enumerate(x.split(sizes, dim=1)):
        _, state = conv.step(piece, state, last=i == len(sizes) - 1)
    whole = conv.conv(x.transpose(1, 2))
    count, mean, deviations = state["stats"][0]
    assert count == whole.numel()
    torch.testing.assert_close(mean, whole.mean())
    torch.testing.assert_close(deviations / count, whole.var(correction=0))


@pytest.mark.parametrize("name", DECODING_CODECS)
def test_decode_with_norms_over_the_whole_sequence_in_one_chunk(name):
    codec, ids = golden_codec(name), expected(name)["odd.codes"][:8].long()
    waveform, _ = codec.decode_chunk(ids, last=True)
    torch.testing.assert_close(waveform, codec.decode(ids), atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", DECODING_CODECS)
def test_decode_starts_anew_at_every_segment(name):
    codec, ids = segmented_codec(name), expected(name)["long.codes"][:8].long()
    by_segment = torch.cat([stream(codec.decode_chunk, cut(part, [20] * 2)) for part in ids.split(50, dim=1)])
    for sizes in ([20, 20, 10, 20, 20, 10], [20] * 2 + [60]):
        waveform = stream(codec.decode_chunk, cut(ids, sizes))
        assert len(waveform) == 108 * FRAME
        torch.testing.assert_close(waveform[: 50 * FRAME], by_segment[: 50 * FRAME], atol=EXACT, rtol=0)
    whole, _ = codec.decode_chunk(ids, last=True)
    torch.testing.assert_close(whole, codec.decode(ids), atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"decoder_causal": False, "decoder_attn_window_size": [64, 1]},
        {"decoder_causal": False, "decoder_attn_window_size": [64, -1]},
        {"vocoder_attn_window_size": [40, -1]},
    ],
)
def test_decode_refuses_decoders_that_need_the_whole_future(change):
    codec = MimoCodec(CodecConfig.preset("tiny").replace(segment_seconds=60, **change))
    with pytest.raises(MimoError, match="future"):
        codec.decode_chunk(torch.zeros(8, 3, dtype=torch.int64))
    assert len(codec.decode(torch.zeros(8, 3, dtype=torch.int64))) == 3 * FRAME


@pytest.mark.parametrize("shape", [(8, 0), (3, 0)])
def test_decode_stream_without_codes(shape):
    empty = torch.zeros(shape, dtype=torch.int64)
    waveform, state = streaming_codec().decode_chunk(empty)
    assert waveform.shape == (0,)
    waveform, _ = streaming_codec().decode_chunk(empty, state, last=True)
    assert waveform.shape == (0,)


@pytest.mark.parametrize("shape", [(0,), (0, 0), (9, 0), (1, 8, 0)])
def test_decode_refuses_empty_codes_of_other_shapes(shape):
    with pytest.raises(MimoError, match="codes: has shape|num_quantizers"):
        streaming_codec().decode_chunk(torch.zeros(shape, dtype=torch.int64))


# ---- other quantizers and vocoders ----------------------------------------------------------------------------------


@each_kind
@few
@given(num_frames=st.integers(1, 60), count=st.integers(1, 3), sizes=st.lists(st.integers(0, 25), max_size=10))
@torch.no_grad()
def test_decode_of_each_kind_in_random_chunks(kind, num_frames, count, sizes):
    codec = streaming_codec(kind)
    ids = codec.encode(SPEECH, RATE, codec.num_quantizers).codes[:count, :num_frames]
    assert num_frames < 60 or len(ids[0].unique()) > 20
    whole = codec.decoder(codec.quantizer.decode(ids)[None])[0]
    assert whole.shape == (num_frames * FRAME,) and whole.std() > 0.001
    torch.testing.assert_close(stream(codec.decode_chunk, cut(ids, sizes)), whole, atol=EXACT, rtol=0)
    torch.testing.assert_close(codec.decode(ids), whole, atol=EXACT, rtol=0)


# ---- decode_stream ---------------------------------------------------------------------------------------------------


def test_decode_stream_of_tensors(codes):
    codec = streaming_codec()
    waveform = torch.cat(list(codec.decode_stream(codes.codes.split(7, dim=1))))
    torch.testing.assert_close(waveform, codec.decode(codes.codes), atol=EXACT, rtol=0)


def test_decode_stream_of_arrays(codes):
    codec = streaming_codec()
    waveform = torch.cat(list(codec.decode_stream([codes.to_numpy()[:, :30], codes.to_numpy()[:, 30:]])))
    torch.testing.assert_close(waveform, codec.decode(codes.codes), atol=EXACT, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 959, 960, 961, 50_000, 72_000])
def test_decode_stream_of_slices_has_the_original_length(num_samples):
    codec = streaming_codec()
    codes = codec.encode(SPEECH[:num_samples], RATE)
    times = [*np.arange(0, codes.duration, 0.4), codes.duration]
    slices = [codes[start:stop] for start, stop in itertools.pairwise(times)]
    for chunks in (slices, [codes]):
        waveform = torch.cat(list(codec.decode_stream(chunks)))
        assert len(waveform) == num_samples
        torch.testing.assert_close(waveform, codec.decode(codes), atol=EXACT, rtol=0)


@pytest.mark.parametrize("num_samples", [1000, 960])
def test_decode_stream_goes_on_after_no_end(num_samples):
    """Codes that end before their last frame does end the stream, also where they end between two frames."""
    codec = streaming_codec()
    codes = codec.encode(SPEECH[:num_samples], RATE)
    assert codes.num_frames == 2
    with pytest.raises(MimoError, match="must be the last"):
        list(codec.decode_stream([codes, codes]))


def test_decode_stream_of_nothing():
    assert list(streaming_codec().decode_stream([])) == []


def test_decode_stream_does_not_wait_for_the_end(codes):
    chunks = iter(codes.codes.split(25, dim=1))
    waveforms = streaming_codec().decode_stream(chunks)
    assert len(next(waveforms)) > 0
    assert len(list(chunks)) == 3
