"""MimoCodec: what it is, what it takes and gives, prefixes of codebooks, models without a decoder."""

import copy

import numpy as np
import pytest
import torch
from chunks import EXACT, RATE, SPEECH
from conftest import GOLDEN, make_speech
from goldens import (
    CODECS,
    KINDS,
    any_codec,
    each_kind,
    encoder_output,
    expected,
    golden_codec,
    log_mel,
    segmented_codec,
    streaming_codec,
)

from mimo_codec import AudioCodes, CodecConfig, MimoCodec, MimoError, load_audio, resample, save_audio

# ---- what it is ------------------------------------------------------------------------------------------------------


def test_properties():
    codec = golden_codec("codec_variant")
    assert codec.sample_rate == 24000
    assert codec.frame_rate == 25
    assert codec.num_quantizers == 20
    assert codec.codebook_sizes == (1024, 1024) + (128,) * 18
    assert codec.config == CodecConfig.load(GOLDEN / "codec_variant" / "config.json")
    assert not codec.training


def test_codes_say_where_they_come_from(codes):
    assert (codes.sample_rate, codes.frame_rate, codes.num_samples) == (24000, 25, 72_000)
    assert codes.codebook_sizes == streaming_codec().codebook_sizes
    assert codes.model == streaming_codec().model_id
    assert codes.codes.dtype == torch.int64
    assert codes.codes.device.type == "cpu"
    golden = golden_codec("codec_base").encode(SPEECH, RATE)
    assert golden.model.startswith("codec_base@")
    assert golden.bitrate == 1550


def test_model_id_names_the_codebooks():
    codec = copy.deepcopy(streaming_codec())
    codec.name = "ä long/näme " * 20
    assert codec.model_id.rpartition("@")[2] == streaming_codec().model_id.rpartition("@")[2]
    assert codec.encode(SPEECH[:960], RATE).model == codec.model_id  # short and printable
    other = copy.deepcopy(MimoCodec(codec.config))
    assert other.model_id.rpartition("@")[2] != codec.model_id.rpartition("@")[2]


# ---- what encode takes -----------------------------------------------------------------------------------------------


def test_encode_takes_paths_arrays_and_tensors(tmp_path, codes):
    codec, path = streaming_codec(), tmp_path / "speech.wav"
    save_audio(path, SPEECH, RATE)
    waveform, rate = load_audio(path)
    from_file = codec.encode(path)
    assert from_file == codec.encode(str(path))
    assert from_file == codec.encode(waveform, rate)
    assert from_file == codec.encode(waveform.numpy(), rate)
    assert from_file == codec.encode((waveform * 2**15).to(torch.int16), rate)
    assert codec.encode(SPEECH, RATE) == codes


def test_encode_averages_channels(codes):
    noise = torch.randn(72_000, generator=torch.Generator().manual_seed(3)) * 0.01
    codec = streaming_codec()
    assert codec.encode(torch.stack((SPEECH + noise, SPEECH + noise)), RATE) == codec.encode(SPEECH + noise, RATE)
    averaged = codec.encode(np.stack(((SPEECH + noise).numpy(), (SPEECH - noise).numpy())), RATE)
    assert (averaged.codes == codes.codes).float().mean() > 0.99  # their mean is SPEECH up to rounding
    assert codec.encode(SPEECH[None], RATE) == codes


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_encode_resamples(tmp_path, rate):
    codec, waveform = streaming_codec(), make_speech(1.0, rate)[:-7]
    codes = codec.encode(waveform, rate)
    assert codes == codec.encode(resample(waveform, rate, RATE), RATE)
    assert codes.num_samples == -(-len(waveform) * RATE // rate)
    save_audio(tmp_path / "speech.flac", waveform, rate)
    assert codec.encode(tmp_path / "speech.flac").num_samples == codes.num_samples


def test_encode_reads_long_files_in_blocks(tmp_path):
    """Longer than the blocks in which files are read: the same codes as from memory."""
    path, waveform = tmp_path / "long.wav", make_speech(45.0, 16000)
    save_audio(path, waveform, 16000)
    loaded, _ = load_audio(path)
    for codec in (streaming_codec(), segmented_codec("codec_hybrid")):
        assert codec.encode(path) == codec.encode(loaded, 16000)


def test_encode_is_an_inference_step():
    """Also of a codec that is being trained: no gradients, and the codebooks stay as they are."""
    codec = copy.deepcopy(streaming_codec()).train()
    before = codec.quantizer.codebook(0).clone()
    codes = codec.encode(SPEECH, RATE)
    assert torch.equal(codec.quantizer.codebook(0), before)
    assert not codec.decode(codes).requires_grad
    assert codes == streaming_codec().encode(SPEECH, RATE)


# ---- batches ---------------------------------------------------------------------------------------------------------

each_codec = pytest.mark.parametrize("name", ["tiny", *KINDS, *CODECS])


# ---- other quantizers and vocoders ----------------------------------------------------------------------------------


@each_kind
def test_each_kind_goes_to_a_file_and_back(kind, tmp_path):
    codec = streaming_codec(kind)
    codes = codec.encode(SPEECH, RATE, codec.num_quantizers)
    assert codes.codebook_sizes == codec.codebook_sizes and codes.model == codec.model_id
    codes.save(tmp_path / "x.mimo")
    loaded = AudioCodes.load(tmp_path / "x.mimo")
    assert loaded == codes
    torch.testing.assert_close(codec.decode(loaded), codec.decode(codes), atol=0, rtol=0)
    with pytest.raises(MimoError, match="codes: made by"):
        any_codec("codec_base").decode(codes)


# ---- codebooks and steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 8])
def test_fewer_codebooks_are_the_first_ones(codes, count):
    codec = streaming_codec()
    fewer = codec.encode(SPEECH, RATE, num_quantizers=count)
    assert fewer == codes.first(count)
    assert codec.encode_batch([SPEECH, SPEECH[:999]], RATE, count)[0] == fewer
    assert len(codec.decode(fewer)) == 72_000


def test_more_codebooks_come_nearer_to_the_features():
    codec = golden_codec("codec_base")
    features = expected("codec_base")["long.features"]
    quantizer = codec.quantizer
    errors = [
        (quantizer.decode(quantizer.encode(features, count)) - features).square().mean() for count in (1, 2, 4, 8, 20)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


@each_codec
@torch.no_grad()
def test_the_steps_compose_to_encode_and_decode(name):
    codec = any_codec(name)
    codes = codec.encode(SPEECH, RATE)
    mel = log_mel(codec, SPEECH)
    features = encoder_output(codec, SPEECH)
    torch.testing.assert_close(codec.encoder(mel[None])[0], features, atol=1e-4, rtol=0)
    assert torch.equal(codec.quantizer.encode(features, codes.num_quantizers), codes.codes)
    quantized = codec.quantizer.decode(codes.codes)
    assert quantized.shape == features.shape
    assert quantized.dtype == torch.float32
    if codec.decoder is not None:
        waveform = codec.decoder(quantized[None])[0, : codes.num_samples]
        torch.testing.assert_close(waveform, codec.decode(codes), atol=EXACT, rtol=0)


def test_features_have_gradients_for_those_who_train():
    codec, waveform = copy.deepcopy(streaming_codec()), SPEECH[:9600].clone().requires_grad_()
    encoder_output(codec, waveform).square().mean().backward()
    assert waveform.grad.abs().sum() > 0


def test_quantization_is_the_nearest_entry():
    """By brute force in float64, codebook by codebook."""
    codec = golden_codec("codec_hybrid")
    features = expected("codec_hybrid")["odd.features"]
    codes, residual = codec.quantizer.encode(features, 4), features.double()
    for index in range(4):
        entries = codec.quantizer.codebook(index).double()
        distances = (residual[:, None] - entries).norm(dim=-1)
        assert torch.equal(distances.argmin(-1), codes[index])
        residual = residual - entries[codes[index]]


# ---- without a decoder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda codec, codes: codec.decode(codes),
        lambda codec, codes: codec.decode_batch([codes]),
        lambda codec, codes: codec.decode_chunk(codes),
        lambda codec, codes: list(codec.decode_stream([codes])),
        lambda codec, codes: codec.decode_latency,
    ],
)
def test_an_encoder_only_checkpoint_says_why_it_cannot_decode(use):
    codec = golden_codec("codec_hybrid")
    codes = codec.encode(SPEECH, RATE)
    with pytest.raises(MimoError, match="codec_hybrid.*encoder only"):
        use(codec, codes)


# ---- unusual use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_batches_give_what_items_give_alone(tiny_codec, dtype):
    codec = copy.deepcopy(tiny_codec).to(dtype)
    items = [make_speech(seconds, seed=i) for i, seconds in enumerate((0.3, 0.5, 0.8))]
    batch = codec.encode_batch(items, 24000)
    assert batch == [codec.encode(item, 24000) for item in items]
    for together, one in zip(codec.decode_batch(batch), map(codec.decode, batch), strict=True):
        assert torch.equal(together, one)


def test_features_that_are_not_finite_are_refused(tiny_codec):
    with pytest.raises(MimoError, match="NaN or infinite"):
        tiny_codec.quantizer.encode(torch.full((4, 64), float("nan")), 8)


def test_states_of_another_function_are_refused(tiny_codec):
    _, encode_state = tiny_codec.encode_chunk(torch.zeros(4000))
    _, decode_state = tiny_codec.decode_chunk(torch.zeros(8, 2, dtype=torch.int64))
    with pytest.raises(MimoError, match="state: is not what encode_chunk"):
        tiny_codec.encode_chunk(torch.zeros(10), decode_state)
    for state in (encode_state, {}, "state"):
        with pytest.raises(MimoError, match="state: is not what decode_chunk"):
            tiny_codec.decode_chunk(torch.zeros(8, 2, dtype=torch.int64), state)


def test_single_items_are_no_batch(tiny_codec, tmp_path):
    codes = tiny_codec.encode(make_speech(0.2), 24000)
    for single in (codes, codes.codes):
        with pytest.raises(MimoError, match="a list of items"):
            tiny_codec.decode_batch(single)
    for single in ("speech.wav", tmp_path, torch.zeros(100)):
        with pytest.raises(MimoError, match="a list of items"):
            tiny_codec.encode_batch(single, 24000)


def test_numpy_integers_are_integers(tiny_codec):
    speech = make_speech(0.2)
    assert tiny_codec.encode(speech, np.int64(24000), np.int64(3)) == tiny_codec.encode(speech, 24000, 3)
    batch = tiny_codec.encode_batch([speech, speech[::2]], np.array([24000, 12000]))
    assert batch[0] == tiny_codec.encode(speech, 24000)
    with pytest.raises(MimoError, match="num_quantizers = True"):
        tiny_codec.encode(speech, 24000, True)
