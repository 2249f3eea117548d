"""Against the released implementation: log-mel, features, codes, quantized and decoded; resampling is in test_audio."""

import pytest
import torch
from conftest import GOLDEN
from goldens import CASES, CODECS, DECODING_CODECS, encoder_output, expected, golden_codec, log_mel
from safetensors.torch import load_file

from mimo_codec import CodecConfig
from mimo_codec.codec.mel import mel_filters, stft_magnitude
from mimo_codec.codec.mel_distance import PAPER_SCALES, multi_scale_mel

TOLERANCE = 1e-4
"""Of log-mel, features and waveforms, whose values are about 1: float32 rounding gives some 5e-6 after all layers."""
SAME_CODES = 0.995
"""Features that differ by 1e-5 may flip a near tie in a deep codebook, and then all codebooks below it."""

each_case = pytest.mark.parametrize("case", CASES)
each_codec = pytest.mark.parametrize("name", CODECS)
each_decoding_codec = pytest.mark.parametrize("name", DECODING_CODECS)


def largest_difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    assert ours.shape == reference.shape
    return (ours - reference).abs().max().item()


def agreement(codes: torch.Tensor, reference: torch.Tensor) -> float:
    assert codes.shape == reference.shape
    assert codes.dtype == torch.int64
    return (codes == reference).float().mean().item()


@each_case
@each_codec
def test_mel(name, case):
    """The rounding of a float32 FFT is some 1e-7 of the peak of a spectrum, so this is how far mel bands may differ."""
    reference = expected(name)[f"{case}.mel"].exp()
    mel = log_mel(golden_codec(name), expected(name)[f"{case}.waveform"]).exp()
    assert mel.shape == reference.shape
    assert ((mel - reference).abs() <= 3e-7 * reference.max() + TOLERANCE * reference).all()


@each_case
@each_codec
@torch.no_grad()
def test_features_and_codes_of_the_reference_mel(name, case):
    codec, reference = golden_codec(name), expected(name)
    features = codec.encoder(reference[f"{case}.mel"][None])[0]
    assert largest_difference(features, reference[f"{case}.features"]) <= TOLERANCE
    assert agreement(codec.quantizer.encode(features, 20), reference[f"{case}.codes"]) >= SAME_CODES


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_case
@each_codec
@torch.no_grad()
def test_features_and_codes_of_the_waveform(name, case, dtype, monkeypatch):
    """The reference log-mels come from an FFT in float32, whose rounding, another on other processors, the logarithm
    makes as large as 0.1 in bands a million times below the peak. Where the log-mel agrees (in float32, on a processor
    like theirs), features and codes are held to the full tolerance, and elsewhere to what such differences leave over.
    """
    monkeypatch.setattr("mimo_codec.codec.mel.spectrum_dtype", lambda device: dtype)
    codec, reference = golden_codec(name), expected(name)
    waveform = reference[f"{case}.waveform"]
    features, codes = encoder_output(codec, waveform), codec.encode(waveform, 24000, num_quantizers=20).codes
    difference = largest_difference(features, reference[f"{case}.features"])
    same = agreement(codes, reference[f"{case}.codes"])
    if largest_difference(log_mel(codec, waveform), reference[f"{case}.mel"]) <= TOLERANCE:
        assert difference <= TOLERANCE
        assert same >= SAME_CODES
    else:
        assert difference <= (0.02 if dtype == torch.float64 else 0.05)
        assert same >= 0.85


@each_case
@each_codec
def test_codes_of_the_reference_features_are_identical(name, case):
    codec, reference = golden_codec(name), expected(name)
    for count in (1, 8, 20):
        codes = codec.quantizer.encode(reference[f"{case}.features"], count)
        assert torch.equal(codes, reference[f"{case}.codes"][:count].long())


@each_case
@each_codec
def test_quantized(name, case):
    codec, reference = golden_codec(name), expected(name)
    keys = [key for key in reference if key.startswith(f"{case}.quantized_q")]
    assert keys
    for key in keys:
        codes = reference[f"{case}.codes"][: int(key.rpartition("_q")[2])]
        assert largest_difference(codec.quantizer.decode(codes), reference[key]) <= TOLERANCE


@each_case
@each_decoding_codec
@pytest.mark.parametrize("num_quantizers", [8, 20])
def test_decoded(name, case, num_quantizers):
    """Waveforms here have an rms of 0.06, hence a tenth of the tolerance."""
    codec, reference = golden_codec(name), expected(name)
    waveform = codec.decode(reference[f"{case}.codes"][:num_quantizers])
    assert waveform.dtype == torch.float32
    assert largest_difference(waveform, reference[f"{case}.decoded_q{num_quantizers}"]) <= TOLERANCE / 10


AUDIO = load_file(GOLDEN / "audio" / "expected.safetensors")
RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000)


@pytest.mark.parametrize("rate", RATES)
def test_mel_filters(rate):
    """Mel magnitudes before the logarithm, of the resampled audio; relative to their peak."""
    config = CodecConfig.preset("mimo").mel
    magnitude = stft_magnitude(AUDIO[f"out.{rate}"][None], config.n_fft, config.window_size, config.hop_length)
    mel = magnitude @ mel_filters(config.sample_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)
    reference = AUDIO[f"mel128.{rate}"]
    assert largest_difference(mel[0].T, reference) <= 1e-5 * reference.max()


@pytest.mark.parametrize("scale", PAPER_SCALES, ids=str)
def test_multi_scale_mel(scale):
    """The reference was made from the audio that came at 16 kHz."""
    reference = AUDIO[f"multiscale_mel.{scale[0]}"]
    mel = multi_scale_mel(AUDIO["out.16000"][None], scale, sample_rate=24000)
    assert largest_difference(mel[0].T, reference) <= 1e-5 * reference.max()
