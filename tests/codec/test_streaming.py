"""Encoding chunk by chunk is the same as at once, and what a chunk may be."""

import pytest
import torch
from chunks import EXACT, RATE, SPEECH, cut, every, few, stream
from conftest import make_speech
from goldens import (
    each_kind,
    expected,
    golden_codec,
    segmented_codec,
    streaming_codec,
)
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec import CodecConfig, MimoError
from mimo_codec.codec.encoder import Encoder
from mimo_codec.codec.mel import LogMel

# ---- the front end ---------------------------------------------------------------------------------------------------


@few
@given(num_samples=st.integers(1, 3000), sizes=st.lists(st.integers(0, 900), max_size=12))
def test_mel_frames(num_samples, sizes):
    mel = LogMel(CodecConfig.preset("tiny").mel)
    state, frames = mel.initial_state(1), []
    pieces = cut(SPEECH[None, :num_samples], sizes)
    for i, piece in enumerate(pieces):
        step, state = mel.step(piece, state, last=i == len(pieces) - 1)
        frames.append(step)
    whole = mel(SPEECH[None, :num_samples])
    assert whole.shape[1] == 1 + num_samples // 240
    torch.testing.assert_close(torch.cat(frames, dim=1), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", [1, 2, 3])
@torch.no_grad()
def test_encoder_of_any_stride(stride, pool):
    """All ways to cut the first mel frames in two, where the convolutions' borders are."""
    torch.manual_seed(0)
    config = CodecConfig.preset("tiny").replace(
        stride_size=stride, decoder_stride_size=stride, decoder_kernel_size=2, avg_pooler=pool
    )
    encoder = Encoder(config).eval()
    for num_mels in (1, 2, 3, 7, 16):
        mel = torch.randn(1, num_mels, 128)
        for first in range(num_mels + 1):
            a, state = encoder.step(mel[:, :first], encoder.initial_state(1), last=False)
            b, state = encoder.step(mel[:, first:], state, last=True)
            torch.testing.assert_close(torch.cat((a, b), dim=1), encoder(mel), atol=EXACT, rtol=0)


# ---- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", [10, 40, 333])
def test_encode(codes, milliseconds):
    pieces = cut(SPEECH, every(milliseconds * RATE // 1000, SPEECH))
    assert torch.equal(stream(streaming_codec().encode_chunk, pieces), codes.codes)


@few
@given(sizes=st.lists(st.integers(0, 9000), max_size=20))
def test_encode_in_random_chunks(codes, sizes):
    assert torch.equal(stream(streaming_codec().encode_chunk, cut(SPEECH, sizes)), codes.codes)


@few
@given(num_samples=st.integers(1, 3000), sizes=st.lists(st.integers(0, 700), max_size=6))
def test_encode_short_streams(num_samples, sizes):
    waveform = SPEECH[:num_samples]
    at_once = streaming_codec().encode(waveform, RATE).codes
    assert torch.equal(stream(streaming_codec().encode_chunk, cut(waveform, sizes)), at_once)


@pytest.mark.parametrize("name", ["codec_variant", "codec_hybrid"])
@pytest.mark.parametrize("seconds", [1.9, 2.0, 4.0, 5.0])
def test_encode_across_segments(name, seconds):
    """Causal encoders of the released kind; 2 s is a segment, and 4 s of audio have one mel frame more than two."""
    codec, waveform = segmented_codec(name), make_speech(seconds)
    at_once = codec.encode(waveform, RATE, num_quantizers=20).codes
    for sizes in ([4800] * 30, [50_000], [240 * 199, 240, 239, 1, 960], every(7992, waveform)):
        codes = stream(codec.encode_chunk, cut(waveform, sizes), num_quantizers=20)
        assert torch.equal(codes, at_once)


@pytest.mark.parametrize("name", ["codec_variant", "codec_hybrid"])
def test_encode_golden_audio(name):
    """The streamed codes are the reference's as far as those at once are (see test_golden)."""
    codec, waveform = golden_codec(name), expected(name)["long.waveform"]
    codes = stream(codec.encode_chunk, cut(waveform, every(960, waveform)), num_quantizers=20)
    assert torch.equal(codes, codec.encode(waveform, RATE, 20).codes)


def test_encode_takes_any_chunk_of_audio(codes):
    """Arrays, channels and PCM as `encode` does."""
    codec, pcm = streaming_codec(), (SPEECH * 2**15).to(torch.int16)
    first, state = codec.encode_chunk(pcm[:5000].numpy())
    second, state = codec.encode_chunk(torch.stack((pcm[5000:], pcm[5000:])), state, last=True)
    at_once = codec.encode(pcm, RATE).codes
    assert torch.equal(torch.cat((first, second), dim=1), at_once)


def test_encode_stream_without_samples():
    codes, state = streaming_codec().encode_chunk(torch.zeros(0))
    assert codes.shape == (8, 0)
    codes, _ = streaming_codec().encode_chunk(torch.zeros(0), state, last=True)
    assert codes.shape == (8, 0)


def test_encode_prefix_of_the_codebooks(codes):
    pieces = cut(SPEECH, every(24000, SPEECH))
    assert torch.equal(stream(streaming_codec().encode_chunk, pieces, num_quantizers=3), codes.codes[:3])


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (torch.full((100,), float("nan")), "NaN"),
        (torch.full((100,), float("inf")), "infinite"),
        (torch.zeros(1, 1, 100), "shape"),
        (torch.tensor(0.5), "shape"),
        ([0.0] * 100, "list"),
        (torch.zeros(100, dtype=torch.complex64), "complex64"),
    ],
)
def test_encode_refuses_bad_chunks(chunk, message):
    with pytest.raises(MimoError, match=message):
        streaming_codec().encode_chunk(chunk)
    with pytest.raises(MimoError, match="num_quantizers"):
        streaming_codec().encode_chunk(torch.zeros(100), num_quantizers=9)


def test_encode_refuses_encoders_that_are_not_causal():
    with pytest.raises(MimoError, match="codec_base.*not causal.*encode"):
        golden_codec("codec_base").encode_chunk(torch.zeros(100))


# ---- other quantizers and vocoders ----------------------------------------------------------------------------------


@each_kind
@few
@given(num_samples=st.integers(1, 40_000), sizes=st.lists(st.integers(0, 9000), max_size=12))
def test_encode_of_each_kind_in_random_chunks(kind, num_samples, sizes):
    codec, waveform = streaming_codec(kind), SPEECH[:num_samples]
    at_once = codec.encode(waveform, RATE, codec.num_quantizers).codes
    assert torch.equal(stream(codec.encode_chunk, cut(waveform, sizes), num_quantizers=codec.num_quantizers), at_once)
