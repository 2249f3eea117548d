"""MimoCodec: what it takes and gives, lengths, batches, prefixes of codebooks, dtypes, long audio, and refusals."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, make_speech
from goldens import (
    CODECS,
    DECODING_CODECS,
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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimo_codec import AudioCodes, CodecConfig, MimoCodec, MimoError, load_audio, resample, save_audio

RATE = 24000
FRAME = 960
SPEECH = make_speech(3.0)
EXACT = 1e-5  # of waveforms with peaks of about 0.1

few = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def codes() -> AudioCodes:
    return streaming_codec().encode(SPEECH, RATE)


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


# ---- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 2, 100, 239, 240, 241, 479, 480, 481, 959, 960, 961, 1919, 1920, 24_000])
def test_lengths(num_samples):
    assert_lengths(num_samples)


@few
@given(extra=st.integers(0, 2000))
def test_lengths_around_a_second(extra):
    assert_lengths(24_000 + extra)


def assert_lengths(num_samples: int) -> None:
    for codec in (streaming_codec(), golden_codec("codec_base")):
        waveform = SPEECH[:num_samples]
        codes = codec.encode(waveform, RATE)
        assert codes.num_samples == num_samples
        assert codes.num_frames == codec.config.num_frames(num_samples)
        assert log_mel(codec, waveform).shape == (1 + num_samples // 240, 128)
        assert encoder_output(codec, waveform).shape == (codes.num_frames, codec.config.d_model)
        decoded = codec.decode(codes)
        assert decoded.shape == (num_samples,)
        assert decoded.dtype == torch.float32
        assert decoded.isfinite().all()
        assert len(codec.decode(codes.codes)) == codes.num_frames * FRAME


@few
@given(num_samples=st.integers(1, 4000), pool=st.sampled_from([1, 2, 4]), nfft=st.sampled_from([512, 960, 1024]))
def test_lengths_of_other_configurations(num_samples, pool, nfft):
    """The released defaults have no pooling; batch items are as long as alone."""
    codec = other_codec(pool, nfft)
    codes = codec.encode(SPEECH[:num_samples], RATE)
    assert codes.num_frames == codec.config.num_frames(num_samples)
    assert len(codec.decode(codes)) == num_samples
    batch = codec.encode_batch([SPEECH[:num_samples], SPEECH[:3000]], RATE)
    assert batch[0].num_frames == codes.num_frames
    assert torch.equal(batch[0].codes, codes.codes)


def other_codec(pool: int, nfft: int) -> MimoCodec:
    torch.manual_seed(0)
    config = CodecConfig.preset("tiny").replace(
        avg_pooler=pool, nfft=nfft, window_size=nfft, encoder_layers=1, decoder_layers=1, vocoder_num_layers=1
    )
    return MimoCodec(config).eval()


# ---- batches ---------------------------------------------------------------------------------------------------------

LENGTHS = [1, 700, 959, 960, 961, 7200, 14_399, 24_001, 36_808, 60_000]


def ten_items() -> list[Tensor]:
    return [make_speech(3.0, seed=i)[:length] for i, length in enumerate(LENGTHS)]


each_codec = pytest.mark.parametrize("name", ["tiny", *KINDS, *CODECS])


@each_codec
def test_a_batch_gives_what_its_items_give_alone(name):
    codec = any_codec(name)
    items, count = ten_items(), min(8, codec.num_quantizers)
    alone = [codec.encode(item, RATE, count) for item in items]
    batch = codec.encode_batch(items, RATE, count)
    for one, other in zip(batch, alone, strict=True):
        assert torch.equal(one.codes, other.codes)
        assert one == other
    if codec.decoder is None:
        return
    for waveform, one in zip(codec.decode_batch(batch), alone, strict=True):
        assert len(waveform) == one.num_samples
        torch.testing.assert_close(waveform, codec.decode(one), atol=EXACT, rtol=0)


def test_a_batch_of_files_of_several_rates(tmp_path):
    codec, paths = streaming_codec(), []
    for i, rate in enumerate((8000, 16000, 24000, 44100, 48000)):
        paths.append(tmp_path / f"{i}.wav")
        save_audio(paths[-1], make_speech(0.7 + 0.2 * i, rate, seed=i), rate)
    for one, path in zip(codec.encode_batch(paths), paths, strict=True):
        assert one == codec.encode(path)
    arrays, rates = zip(*map(load_audio, paths), strict=True)
    assert codec.encode_batch(arrays, rates) == [codec.encode(path) for path in paths]


@pytest.mark.parametrize("batch_seconds", [0.01, 1.0, 5.0])
def test_batches_of_any_size(batch_seconds):
    codec, items = streaming_codec(), ten_items()[3:]
    alone = [codec.encode(item, RATE) for item in items]
    assert codec.encode_batch(items, RATE, batch_seconds=batch_seconds) == alone
    for waveform, one in zip(codec.decode_batch(alone, batch_seconds=batch_seconds), alone, strict=True):
        torch.testing.assert_close(waveform, codec.decode(one), atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", DECODING_CODECS)
def test_a_batch_with_items_longer_than_a_segment(name):
    codec = segmented_codec(name)
    items = [make_speech(seconds, seed=i) for i, seconds in enumerate((5.0, 0.5, 2.0, 1.9999, 3.0))]
    batch = codec.encode_batch(items, RATE)
    assert batch == [codec.encode(item, RATE) for item in items]
    for waveform, one in zip(codec.decode_batch(batch), batch, strict=True):
        torch.testing.assert_close(waveform, codec.decode(one), atol=EXACT, rtol=0)


def test_a_batch_of_codes_with_several_numbers_of_codebooks(codes):
    codec = streaming_codec()
    items = [codes, codes.first(3), codes[:1.0].first(1), codes.codes[:5, :20], codes.to_numpy()[:2]]
    for waveform, item in zip(codec.decode_batch(items), items, strict=True):
        torch.testing.assert_close(waveform, codec.decode(item), atol=EXACT, rtol=0)


def test_an_empty_batch():
    assert streaming_codec().encode_batch([]) == []
    assert streaming_codec().decode_batch([]) == []


def test_a_batch_names_its_bad_item():
    items = [SPEECH, torch.full((100,), float("nan"))]
    with pytest.raises(MimoError, match=r"audio\[1\]: sample 0 is NaN"):
        streaming_codec().encode_batch(items, RATE)
    with pytest.raises(MimoError, match=r"audio\[0\].*sample_rate"):
        streaming_codec().encode_batch(items)
    with pytest.raises(MimoError, match="1 rates were given for 2 items"):
        streaming_codec().encode_batch(items, [RATE])


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


# ---- dtypes ----------------------------------------------------------------------------------------------------------


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


# ---- long audio ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_segments_are_encoded_as_if_alone(name):
    """Cut in mel frames, as released: the last frame of a segment sees samples of the next one in its window."""
    codec, waveform = segmented_codec(name), make_speech(5.0)
    mel = log_mel(codec, waveform)
    parts = [codec.encoder(part[None])[0] for part in mel.split(200)]
    assert [len(part) for part in parts] == [50, 50, 26]
    codes = codec.encode(waveform, RATE, 20)
    assert codes.num_frames == codec.config.num_frames(len(waveform))
    assert torch.equal(codes.codes, codec.quantizer.encode(torch.cat(parts), 20))
    unsegmented = golden_codec(name).encode(waveform, RATE, 20)
    assert not torch.equal(codes.codes, unsegmented.codes)


@pytest.mark.parametrize("num_samples", [47_999, 48_000, 48_001, 48_239, 48_240, 96_000])
def test_lengths_around_a_segment(num_samples):
    codec, waveform = segmented_codec("codec_base"), make_speech(4.0)[:num_samples]
    codes = codec.encode(waveform, RATE)
    assert codes.num_frames == codec.config.num_frames(num_samples)
    assert len(codec.decode(codes)) == num_samples


@pytest.mark.parametrize("name", DECODING_CODECS)
@torch.no_grad()
def test_segments_are_decoded_as_if_alone(name):
    codec, ids = segmented_codec(name), expected(name)["long.codes"][:8].long()
    parts = [codec.decoder(codec.quantizer.decode(part)[None])[0] for part in ids.split(50, dim=1)]
    assert torch.equal(codec.decode(ids), torch.cat(parts))
    assert not torch.allclose(codec.decode(ids), golden_codec(name).decode(ids), atol=1e-4)


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


# ---- bad input -------------------------------------------------------------------------------------------------------

RATES = [None, 0, -24000, 999, 10**6, 24000.5, "24000", float("nan"), True]


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_bad_sample_rates(rate):
    with pytest.raises(MimoError, match="sample_rate|sample rate"):
        streaming_codec().encode(SPEECH, rate)


BAD_AUDIO = [
    (torch.zeros(0), "no samples"),
    (torch.zeros(2, 0), "no samples"),
    (torch.zeros(1, 2, 100), "shape"),
    (torch.tensor(1.0), "shape"),
    (np.zeros((24000, 2), np.float32), "transpose"),
    (torch.tensor([0.0, float("nan")]), "sample 1 is NaN"),
    (torch.tensor([0.0, 0.0, -float("inf")]), "sample 2 is infinite"),
    (torch.zeros(100, dtype=torch.complex64), "dtype"),
    (np.array(["a", "b"]), "dtype"),
    (np.zeros(100, bool), "dtype"),
    ([0.0, 0.1], "list"),
    (None, "NoneType"),
]


@pytest.mark.parametrize(("audio", "message"), BAD_AUDIO)
def test_bad_arrays(audio, message):
    codec = streaming_codec()
    for use in (lambda: codec.encode(audio, RATE), lambda: codec.encode_batch([audio], RATE)):
        with pytest.raises(MimoError, match=f"audio.*{message}"):
            use()


def test_bad_files(tmp_path):
    empty, text = tmp_path / "empty.wav", tmp_path / "text.wav"
    empty.write_bytes(b"")
    text.write_text("no audio")
    for path in (empty, text, tmp_path, tmp_path / "none.wav", Path("/dev/null")):
        with pytest.raises(MimoError, match=f"^{path}: .*") as caught:
            streaming_codec().encode(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 9, 2.0, "8"])
def test_bad_numbers_of_codebooks(count):
    codec = streaming_codec()
    for use in (
        lambda: codec.encode(SPEECH, RATE, count),
        lambda: codec.encode_batch([SPEECH], RATE, count),
        lambda: codec.quantizer.encode(torch.zeros(3, 64), count),
    ):
        with pytest.raises(MimoError, match=r"num_quantizers = .*8 codebooks, ask for 1\.\.8"):
            use()


BAD_CODES = [
    (torch.full((8, 3), 128), "out of range"),
    (torch.full((1, 3), 1024), "codebook 0, frame 0: 1024"),
    (torch.full((8, 3), -1), "out of range"),
    (torch.zeros(8, 3), "integers"),
    (torch.zeros(8, 3, dtype=torch.bool), "integers"),
    (np.zeros((8, 3)), "integers"),
    (torch.zeros(3, dtype=torch.int64), "shape"),
    (torch.zeros(1, 8, 3, dtype=torch.int64), "shape"),
    (torch.zeros(9, 3, dtype=torch.int64), "this model has 8"),
    ([[0, 1]], "is a list"),
    ("speech.mimo", "is a str"),
    (None, "is a NoneType"),
]


@pytest.mark.parametrize(("codes", "message"), BAD_CODES)
def test_bad_codes(codes, message):
    codec = streaming_codec()
    uses = (
        codec.decode,
        codec.decode_chunk,
        lambda c: codec.decode_batch([c]),
        lambda c: list(codec.decode_stream([c])),
    )
    for use in uses:
        with pytest.raises(MimoError, match=message) as caught:
            use(codes)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(8, 0), (0, 0), (0, 5)])
def test_no_codes(shape):
    with pytest.raises(MimoError):
        streaming_codec().decode(torch.zeros(shape, dtype=torch.int64))


def test_codes_of_another_model(codes):
    for other in (golden_codec("codec_base"), MimoCodec(streaming_codec().config)):
        for use in (other.decode, other.decode_chunk, lambda c: other.decode_batch([c])):  # noqa: B023
            with pytest.raises(MimoError, match=rf"made by {codes.model}.*{other.model_id}"):
                use(codes)


def test_codes_of_the_same_codebooks_under_another_name(codes):
    renamed = copy.deepcopy(streaming_codec())
    renamed.name = "renamed"
    torch.testing.assert_close(renamed.decode(codes), streaming_codec().decode(codes))


@pytest.mark.parametrize(
    "changes",
    [
        {"codebook_sizes": (1024,) * 8},
        {"sample_rate": 16000},
        {"sample_rate": 16000, "num_samples": 40_000},
        {"sample_rate": 48000, "frame_rate": 50.0},
        {"frame_rate": 12.5},
    ],
)
def test_codes_of_other_rates_or_sizes(codes, changes):
    fields = {"num_samples": 40_000, "sample_rate": RATE, "frame_rate": 25.0, "codebook_sizes": codes.codebook_sizes}
    plain = AudioCodes(codes.codes, **fields)
    assert torch.equal(streaming_codec().decode(plain), streaming_codec().decode(codes)[:40_000])
    for model in (None, codes.model):
        other = AudioCodes(codes.codes, **fields | changes, model=model)
        with pytest.raises(MimoError, match=r"codes: .*do not fit"):
            streaming_codec().decode(other)


def test_codes_as_arrays(codes):
    codec, decoded = streaming_codec(), streaming_codec().decode(codes.codes)
    for array in (codes.to_numpy(), codes.to_numpy().astype(np.int16), np.asfortranarray(codes.to_numpy())):
        torch.testing.assert_close(codec.decode(array), decoded, atol=EXACT, rtol=0)
    reverse = codes.to_numpy()[:, ::-1]
    torch.testing.assert_close(codec.decode(reverse), codec.decode(codes.codes.flip(1)), atol=EXACT, rtol=0)


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
