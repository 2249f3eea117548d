"""Waveforms of any length, alone, in batches, and longer than a segment."""

import pytest
import torch
from chunks import EXACT, FRAME, RATE, SPEECH
from conftest import make_speech
from goldens import (
    CODECS,
    DECODING_CODECS,
    KINDS,
    any_codec,
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

from mimo_codec import CodecConfig, MimoCodec, MimoError, load_audio, save_audio

few = settings(max_examples=25, deadline=None)


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
