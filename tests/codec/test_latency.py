"""The stated latency is true, and nothing depends on what comes after it."""

import pytest
import torch
from chunks import FRAME, RATE, SPEECH
from conftest import make_speech
from goldens import (
    KINDS,
    encoder_output,
    golden_codec,
    streaming_codec,
)

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
