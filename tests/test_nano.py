"""The shipped model: small, intelligible, and exactly streamable."""

import pytest
import torch
from conftest import ROOT
from goldens import log_mel

from mimo_codec import MimoCodec, load_audio, resample
from mimo_codec.codec.checkpoint import shipped_models

SPEECH = ROOT / "examples" / "speech.wav"


@pytest.fixture(scope="module")
def nano() -> MimoCodec:
    return MimoCodec.from_pretrained()


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return resample(*load_audio(SPEECH), 24000)


def test_it_is_small_and_has_a_card():
    folder = shipped_models()["nano"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30e6
    assert all((folder / name).exists() for name in ("TRAINING.md", "utterances.txt", "held_out.jsonl"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("LibriSpeech", "LJSpeech", "Picovoice", "CC BY 4.0", "Limits"))


def test_rates_and_latencies(nano):
    assert (nano.sample_rate, nano.frame_rate, nano.codebook_sizes) == (24000, 25.0, (1024,) * 2 + (128,) * 6)
    assert nano.encode_latency <= 0.2 and nano.decode_latency <= 0.2
    assert nano.config.streams_encode and nano.config.streams_decode


def test_says_under_which_licence(nano):
    assert nano.config.source["license"] == "apache-2.0"


def test_latency_from_microphone_to_ear(nano, speech):
    """A sample comes out at most 175 ms after it came in: less than both latencies, as both count the frame."""
    encoder_state = decoder_state = None
    chunk, heard, played, delays = 240, 0, 0, []
    for samples in speech[:36000].split(chunk):
        codes, encoder_state = nano.encode_chunk(samples, encoder_state)
        heard += len(samples)
        if codes.shape[1]:
            waveform, decoder_state = nano.decode_chunk(codes, decoder_state)
            delays.append(heard - played)
            played += len(waveform)
    assert 0.160 <= max(delays[1:]) / nano.sample_rate <= 0.175 + chunk / nano.sample_rate


def test_listening_examples_are_those_of_this_model(nano):
    folder = SPEECH.parent / "listening"
    originals = sorted(folder.glob("*.original.ogg"))
    assert len(originals) == 8
    for path in originals:
        original, decoded = (
            resample(*load_audio(p), 24000) for p in (path, path.with_name(path.name.replace("original", "decoded")))
        )
        again = nano.decode(nano.encode(original, 24000))
        assert len(original) == len(decoded) == len(again)
        mel = [log_mel(nano, x).clamp(min=-6) for x in (original, decoded, again)]
        assert (mel[1] - mel[2]).abs().mean() < 0.5 * (mel[0] - mel[1]).abs().mean(), path.name


def test_speech_stays_intelligible(nano, speech):
    """A synthetic voice unlike those it was trained on; held-out human speech scores higher (see the model card)."""
    pystoi = pytest.importorskip("pystoi", reason="needs the eval extra")
    codes = nano.encode(SPEECH)
    decoded = nano.decode(codes)
    assert codes.bitrate == 1550 and codes.num_samples == len(speech) == len(decoded)
    scores = [pystoi.stoi(speech.numpy(), nano.decode(codes.first(q)).numpy(), 24000) for q in (1, 2, 4, 8)]
    assert scores[-1] > 0.75 and scores == sorted(scores), scores


@pytest.mark.parametrize("milliseconds", [10, 40, 333])
def test_streaming_encode_gives_the_codes_of_encoding_at_once(nano, speech, milliseconds):
    state, pieces = None, []
    chunks = speech.split(24 * milliseconds)
    for number, chunk in enumerate(chunks, start=1):
        codes, state = nano.encode_chunk(chunk, state, last=number == len(chunks))
        pieces.append(codes)
    assert torch.equal(torch.cat(pieces, dim=1), nano.encode(speech, 24000).codes)


@pytest.mark.parametrize("num_frames", [1, 3, 25])
def test_streaming_decode_equals_decoding_at_once(nano, speech, num_frames):
    codes = nano.encode(speech, 24000).codes
    at_once = nano.decoder(nano.quantizer.decode(codes)[None])[0]
    streamed = torch.cat(list(nano.decode_stream(codes.split(num_frames, dim=1))))
    assert streamed.shape == at_once.shape
    assert (streamed - at_once).abs().max() < 1e-5


def test_a_batch_gives_what_its_items_give_alone(nano, speech):
    items = [speech[i * 9000 : i * 9000 + 4000 * (i + 1) + 77] for i in range(10)]
    batch = nano.encode_batch(items, 24000)
    alone = [nano.encode(item, 24000) for item in items]
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(batch, alone, strict=True))
    for together, one in zip(nano.decode_batch(batch), map(nano.decode, alone), strict=True):
        assert together.shape == one.shape and (together - one).abs().max() < 1e-5


def test_states_of_streams_are_small(nano):
    """Whatever the chunks were, a state holds its own values and no more."""
    import pickle

    codes, encode_state = nano.encode_chunk(torch.zeros(20 * 24000))
    _, decode_state = nano.decode_chunk(codes)
    assert len(pickle.dumps(encode_state)) < 2e6 and len(pickle.dumps(decode_state)) < 2e6
