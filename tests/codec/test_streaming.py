"""Chunk by chunk is the same as at once, within the stated latency, with a state that does not grow."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from conftest import make_speech
from goldens import (
    DECODING_CODECS,
    KINDS,
    each_kind,
    encoder_output,
    expected,
    golden_codec,
    segmented_codec,
    streaming_codec,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimo_codec import AudioCodes, CodecConfig, MimoCodec, MimoError
from mimo_codec.codec.decoder import UpsampleConv
from mimo_codec.codec.encoder import Encoder
from mimo_codec.codec.mel import LogMel
from mimo_codec.codec.streaming import State

RATE = 24000
FRAME = 960
SPEECH = make_speech(3.0)
EXACT = 1e-5  # of waveforms with peaks of about 0.1: what remains is float32 rounding, 1e-7

few = settings(max_examples=15, deadline=None)


def cut(x: Tensor, sizes: Iterable[int]) -> list[Tensor]:
    """`x` in pieces of `sizes` along its last dimension, the rest of it at the end."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(x[..., start : start + size])
        start = min(start + size, x.shape[-1])
    return [*pieces, x[..., start:]]


def stream(step: Callable[..., tuple[Tensor, State]], pieces: list[Tensor], **options: int) -> Tensor:
    """All output of encode_chunk or decode_chunk, concatenated; the last piece ends the stream."""
    outputs, state = [], None
    for piece in pieces[:-1]:
        output, state = step(piece, state, **options)
        outputs.append(output)
    return torch.cat([*outputs, step(pieces[-1], state, last=True, **options)[0]], dim=-1)


def every(size: int, x: Tensor) -> list[int]:
    return [size] * ((x.shape[-1] - 1) // size)


@pytest.fixture(scope="module")
def codes() -> AudioCodes:
    codes = streaming_codec().encode(SPEECH, RATE)
    assert len(np.unique(codes.to_numpy()[0])) > 20  # otherwise the tests below would prove little
    return codes


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
@given(num_samples=st.integers(1, 40_000), sizes=st.lists(st.integers(0, 9000), max_size=12))
def test_encode_of_each_kind_in_random_chunks(kind, num_samples, sizes):
    codec, waveform = streaming_codec(kind), SPEECH[:num_samples]
    at_once = codec.encode(waveform, RATE, codec.num_quantizers).codes
    assert torch.equal(stream(codec.encode_chunk, cut(waveform, sizes), num_quantizers=codec.num_quantizers), at_once)


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


# ---- the state -------------------------------------------------------------------------------------------------------


def states(step: Callable[..., tuple[Tensor, State]], pieces: Iterable[Tensor]) -> list[State]:
    found, state = [], None
    for piece in pieces:
        _, state = step(piece, state)
        found.append(state)
    return found


def assert_plain(found: list[State]) -> None:
    for state in found:
        assert type(state) is dict
        assert state.keys() == found[0].keys()
        for name, value in state.items():
            assert type(value) is Tensor, name
            assert value.dtype == found[0][name].dtype, name
            assert value.dtype != torch.float64, name  # not all devices have it


def shapes(state: State) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def test_state_is_plain_tensors_that_do_not_grow(codes):
    codec = streaming_codec()
    encoding = states(codec.encode_chunk, SPEECH.repeat(3).split(FRAME))
    decoding = states(codec.decode_chunk, codes.codes.repeat(1, 3).split(1, dim=1))
    for found in (encoding, decoding):
        assert len(found) > 200
        assert_plain(found)
        assert all(shapes(state) == shapes(found[3]) for state in found[3:-1])


def test_state_stays_small_in_chunks_of_any_size(codes):
    """At most 2 frames of audio (n_fft and a code frame's look-ahead) are waiting, whatever came in before."""
    sizes = [1, 5000, 17, 959, 24000, 0, 3, 8000]
    found = states(streaming_codec().encode_chunk, cut(SPEECH.repeat(2), sizes * 3))
    assert_plain(found)
    for state in found:
        assert state["mel.tail"].shape[1] < 960
        assert state["encoder.mel"].shape[1] <= 2 + 4
    fixed = [{n: v for n, v in shapes(s).items() if n not in ("mel.tail", "encoder.mel")} for s in found]
    assert all(f == fixed[0] for f in fixed)


@pytest.mark.parametrize("name", ["codec_variant", "codec_hybrid"])
def test_state_of_segmented_models(name):
    """Unlimited windows remember their segment, no more; the names stay the same across segments."""
    codec = segmented_codec(name)
    found = states(codec.encode_chunk, make_speech(5.0).split(FRAME))
    assert_plain(found)
    assert max(value.shape[2] for state in found for n, value in state.items() if n.endswith(".k")) <= 100
    if name == "codec_variant":
        ids = expected(name)["long.codes"].long()
        assert_plain(states(codec.decode_chunk, ids.split(4, dim=1)))


def test_state_can_be_kept_and_used_again(codes):
    """A value: a step does not change the state that it was given."""
    codec = streaming_codec()
    for step, first, second in (
        (codec.encode_chunk, SPEECH[:9000], SPEECH[9000:19000]),
        (codec.decode_chunk, codes.codes[:, :9], codes.codes[:, 9:19]),
    ):
        _, state = step(first)
        before = {name: value.clone() for name, value in state.items()}
        one, _ = step(second, state)
        two, _ = step(second, state)
        assert torch.equal(one, two)
        assert all(torch.equal(before[name], state[name]) for name in before)


def test_two_streams_do_not_disturb_each_other(codes):
    codec = streaming_codec()
    pieces = [SPEECH[:30000].split(5000), (-SPEECH[30000:60000]).split(5000)]
    alone = [stream(codec.encode_chunk, list(p)) for p in pieces]
    state: list[State | None] = [None, None]
    outputs: list[list[Tensor]] = [[], []]
    for step in range(6):
        for i in (0, 1):
            output, state[i] = codec.encode_chunk(pieces[i][step], state[i], last=step == 5)
            outputs[i].append(output)
    for i in (0, 1):
        assert torch.equal(torch.cat(outputs[i], dim=1), alone[i])


# ---- latency and causality -------------------------------------------------------------------------------------------

streaming_presets = pytest.mark.parametrize("preset", ["tiny", "nano", "small", *KINDS])


@streaming_presets
def test_latency_is_short(preset):
    codec = streaming_codec(preset)
    assert codec.encode_latency <= 0.2
    assert codec.decode_latency <= 0.2


@streaming_presets
def test_encode_latency_is_true(preset):
    """Frame n comes with sample 960 n + latency, not one sample earlier."""
    codec = streaming_codec(preset)
    latency = round(codec.encode_latency * RATE)
    for due in (0, 1, 5):
        at = due * FRAME + latency
        codes, state = codec.encode_chunk(SPEECH[: at - 1], num_quantizers=3)
        assert codes.shape[1] == due
        codes, _ = codec.encode_chunk(SPEECH[at - 1 : at], state, num_quantizers=3)
        assert codes.shape[1] == 1


@streaming_presets
def test_decode_latency_is_true(preset):
    """Codes arrive at the end of their frame; every sample leaves at most the latency after its place in the audio, and
    in the worst place of a frame exactly that late."""
    codec = streaming_codec(preset)
    latency = round(codec.decode_latency * RATE)
    ids = torch.randint(0, 128, (codec.num_quantizers, 12), generator=torch.Generator().manual_seed(0))
    state, returned, slowest = None, 0, 0
    for frame in range(12):
        now = (frame + 1) * FRAME
        waveform, state = codec.decode_chunk(ids[:, frame : frame + 1], state)
        if len(waveform):
            slowest = max(slowest, now - returned)
        returned += len(waveform)
    assert slowest == latency
    assert returned == 12 * FRAME - (latency - FRAME)


@pytest.mark.parametrize("preset", ["tiny", "nano", *KINDS])
def test_decode_does_not_depend_on_what_comes_after_the_latency(preset):
    """Other codes from frame 9 on change nothing that frame 8 brought out."""
    codec = streaming_codec(preset)
    ids = torch.randint(0, 128, (codec.num_quantizers, 20), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 9:] = 127 - ids[:, 9:]
    emitted = 9 * FRAME - (round(codec.decode_latency * RATE) - FRAME)
    one, two = codec.decode(ids), codec.decode(other)
    torch.testing.assert_close(one[:emitted], two[:emitted], atol=1e-6, rtol=0)
    assert not torch.allclose(one[9 * FRAME :], two[9 * FRAME :], atol=1e-4)
    if preset != "nano":  # of more layers, what passes through all their windows is too faint to see
        assert not torch.equal(one[emitted : emitted + 240], two[emitted : emitted + 240])


@pytest.mark.parametrize("preset", ["tiny", "nano"])
@pytest.mark.parametrize("time", [7680, 8000, 12345])
def test_encode_does_not_depend_on_what_comes_after_the_latency(preset, time):
    """Other audio from a time on changes no frame that began the latency before it."""
    codec, latency = streaming_codec(preset), round(streaming_codec(preset).encode_latency * RATE)
    other = SPEECH.clone()
    other[time:] = make_speech(3.0, seed=7)[time:] * 3
    one, two = (codec.encode(waveform, RATE).codes for waveform in (SPEECH, other))
    unchanged = (time - latency) // FRAME + 1
    assert torch.equal(one[:, :unchanged], two[:, :unchanged])
    assert not torch.equal(one[:, unchanged : unchanged + 3], two[:, unchanged : unchanged + 3])


@pytest.mark.parametrize("name", ["codec_variant", "codec_hybrid"])
def test_causal_encoders_of_the_family_see_no_future(name):
    """The windows and causal flags of a config.json are obeyed in every layer, full ones included."""
    codec = golden_codec(name)
    other = SPEECH.clone()
    other[24000:] = -other[24000:].flip(0)
    with torch.no_grad():
        one, two = encoder_output(codec, SPEECH), encoder_output(codec, other)
    unchanged = (24000 - round(codec.encode_latency * RATE)) // FRAME + 1
    torch.testing.assert_close(one[:unchanged], two[:unchanged], atol=1e-5, rtol=0)
    assert not torch.allclose(one[unchanged + 2 :], two[unchanged + 2 :], atol=1e-2)


def test_latency_of_models_that_do_not_stream():
    assert golden_codec("codec_base").encode_latency == 60
    # 3 layers of 10 frames, the inverse STFT's overlap and the frame itself
    assert golden_codec("codec_base").decode_latency == pytest.approx((3 * 10 * 240 + 360 + 960) / RATE)
    assert golden_codec("codec_hybrid").encode_latency == pytest.approx(0.06)
