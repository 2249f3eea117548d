"""The log-mel front end by itself; its numbers are compared with the released ones in test_golden."""

import math

import pytest
import torch
from conftest import GOLDEN
from goldens import golden_codec, streaming_codec

from mimo_codec import CodecConfig, MimoCodec
from mimo_codec.codec.mel import LogMel, mel_filters
from mimo_codec.codec.mel_distance import multi_scale_mel

MEL = CodecConfig.preset("mimo").mel


def hertz_to_mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def test_filters_are_triangles_on_the_htk_scale():
    filters = mel_filters(24000, 960, 128)
    assert filters.shape == (481, 128)
    step = hertz_to_mel(12000) / 129
    for band in (5, 60, 127):
        centre = 700 * (10 ** (step * (band + 1) / 2595) - 1)
        assert abs(int(filters[:, band].argmax()) * 25 - centre) <= 12.5
        assert filters[:, band].min() >= 0 and filters[:, band].max() <= 1
    inner = filters[20:460].sum(dim=1)  # rising and falling sides of neighbours add up to one
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_filters_between_given_edges():
    filters = mel_filters(24000, 960, 20, 300.0, 6000.0)
    used = filters.sum(dim=1).nonzero()[:, 0] * 25
    assert 300 <= used.min() < 350
    assert 5900 < used.max() < 6000


@pytest.mark.parametrize("num_samples", [1, 240, 481, 24000])
def test_silence_is_the_floor(num_samples):
    mel = LogMel(MEL)(torch.zeros(2, num_samples))
    assert mel.shape == (2, 1 + num_samples // 240, 128)
    torch.testing.assert_close(mel, torch.full_like(mel, math.log(1e-7)))


def test_a_tone_is_loudest_in_its_band():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(24000) / 24000)
    loudest = LogMel(MEL)(tone[None])[0, 50].argmax()
    assert loudest == mel_filters(24000, 960, 128)[40].argmax()  # bin 40 is 1000 Hz


def test_filters_made_for_inference_serve_training():
    """They are cached, and tensors of inference mode cannot take part in a backward pass."""
    scale = (17, 400, 100)  # used nowhere else, so not cached yet
    waveform = torch.randn(1, 2000, requires_grad=True)
    with torch.inference_mode():
        multi_scale_mel(waveform, scale, 24000)
    multi_scale_mel(waveform, scale, 24000).sum().backward()
    assert waveform.grad.abs().sum() > 0


def test_another_default_dtype_changes_nothing():
    """Neither for models that are made or loaded under it, nor, by what is cached, for those after it."""
    before = streaming_codec("rfsq"), golden_codec("codec_base")
    mel_filters.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        inside = MimoCodec(before[0].config), MimoCodec.from_pretrained(GOLDEN / "codec_base", device="cpu")
        waveform = torch.sin(torch.arange(24000, dtype=torch.float32) / 20)
        codes = inside[1].encode(waveform, 24000)
        decoded = inside[1].decode(codes)
    finally:
        torch.set_default_dtype(torch.float32)
    after = MimoCodec.from_pretrained(GOLDEN / "codec_base", device="cpu")
    assert inside[0].quantizer.codebook(1).equal(before[0].quantizer.codebook(1))
    assert inside[1].mel.filters.dtype == after.mel.filters.dtype == torch.float32
    assert after.encode(waveform, 24000) == codes == before[1].encode(waveform, 24000)
    assert decoded.dtype == torch.float32 and decoded.equal(after.decode(codes))
