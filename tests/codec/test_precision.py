"""Dtypes and devices."""

import copy

import pytest
import torch
from chunks import RATE, SPEECH
from conftest import GOLDEN
from goldens import (
    any_codec,
    expected,
    golden_codec,
    log_mel,
    streaming_codec,
)

from mimo_codec import MimoCodec, MimoError


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("source", ["tiny", "codec_variant"])
def test_half_precision(tmp_path, source, name):
    """Weights of encoder and decoder in half precision; codebooks, log-mel and quantization in float32."""
    full = any_codec(source)
    full.save_pretrained(tmp_path / source)
    codec = MimoCodec.from_pretrained(tmp_path / source, device="cpu", dtype=name)
    assert codec.dtype == getattr(torch, name)
    assert {p.dtype for p in codec.parameters()} == {codec.dtype}
    for index in range(codec.num_quantizers):
        assert torch.equal(codec.quantizer.codebook(index), full.quantizer.codebook(index))
    assert codec.model_id.rpartition("@")[2] == full.model_id.rpartition("@")[2]
    assert torch.equal(log_mel(codec, SPEECH), log_mel(full, SPEECH))
    codes = full.encode(SPEECH, RATE)
    own = codec.encode(SPEECH, RATE)
    assert own.num_samples == codes.num_samples
    assert (own.codes[0] == codes.codes[0]).float().mean() > 0.7
    one, two = codec.decode(codes), full.decode(codes)
    assert one.dtype == torch.float32
    assert (one - two).std() < 0.05 * two.std()
    batch = codec.decode_batch([codes, codes[:1.0]])
    assert [len(w) for w in batch] == [72_000, 24_000]
    assert codec.encode_batch([SPEECH, SPEECH[:5000]], RATE)[1].num_samples == 5000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_converted_later_is_converted_at_loading(dtype):
    loaded = MimoCodec.from_pretrained(GOLDEN / "codec_base", device="cpu", dtype=dtype)
    converted = copy.deepcopy(golden_codec("codec_base")).to(dtype)
    for name, value in loaded.state_dict().items():
        assert value.dtype == converted.state_dict()[name].dtype, name
        assert torch.equal(value, converted.state_dict()[name]), name
    codes = loaded.encode(SPEECH, RATE)
    assert codes == converted.encode(SPEECH, RATE)
    assert torch.equal(loaded.decode(codes), converted.decode(codes))


def test_half_precision_streams():
    codec = copy.deepcopy(streaming_codec()).to(torch.bfloat16)
    codes, state = codec.encode_chunk(SPEECH[:30_000])
    codes = torch.cat((codes, codec.encode_chunk(SPEECH[30_000:], state, last=True)[0]), dim=1)
    assert codes.shape == (8, codec.config.num_frames(72_000))
    waveform, state = codec.decode_chunk(codes[:, :30])
    rest, _ = codec.decode_chunk(codes[:, 30:], state, last=True)
    assert (torch.cat((waveform, rest)) - codec.decode(codes)).std() < 0.05 * codec.decode(codes).std()


def test_mixed_precision_does_not_reach_mel_and_quantizer():
    codec = golden_codec("codec_base")
    features, mel = expected("codec_base")["odd.features"], log_mel(codec, SPEECH)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.quantizer.encode(features, 20), expected("codec_base")["odd.codes"].long())
        assert torch.equal(log_mel(codec, SPEECH), mel)


@pytest.mark.parametrize("dtype", ["int8", "float64", torch.float64, "half"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(MimoError, match="dtype.*float32, bfloat16 or float16"):
        MimoCodec.from_pretrained(GOLDEN / "codec_base", dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_unusable_devices_are_refused(device):
    with pytest.raises(MimoError, match="device: "):
        MimoCodec.from_pretrained(GOLDEN / "codec_base", device=device)
