"""The contract of codecs, by PyTorch and by ONNX Runtime: the same properties, the same numbers, the same errors."""

import inspect
import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_speech
from exports import exported_once, tiny_export
from goldens import any_codec, streaming_codec
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mimo_codec import AudioCodes, MimoCodec, MimoError, save_audio
from mimo_codec.codec.base import Codec
from mimo_codec.common.arrays import is_array, to_numpy

pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from mimo_codec.onnx import OnnxCodec
from mimo_codec.onnx.codec.export import export_codec

RATE, FRAME = 24000, 960
SPEECH = make_speech(3.0).numpy()
EXACT = 1e-5  # of waveforms with peaks of about 0.1: what remains is float32 rounding, 1e-7

few = settings(max_examples=10, deadline=None)
Codecs = dict[str, Codec[Any]]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> Codecs:
    """One model in both backends."""
    return {"torch": streaming_codec(), "onnx": OnnxCodec(tiny_export(tmp_path_factory), ["cpu"])}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Codecs:
    """One model without a decoder, whose encoder is causal in segments, in both backends."""
    codec = any_codec("codec_hybrid")
    folder = exported_once(tmp_path_factory, "hybrid", lambda place: export_codec(codec, place, num_quantizers=20))
    return {"torch": codec, "onnx": OnnxCodec(folder, ["cpu"])}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def codec(request: pytest.FixtureRequest, codecs: Codecs) -> Codec[Any]:
    return codecs[request.param]


def as_numpy(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, torch.Tensor) else x


def cut(x: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """`x` in pieces of `sizes` along its last dimension, the rest of it at the end."""
    ends = np.minimum(np.cumsum(sizes, dtype=int), x.shape[-1])
    return np.split(x, ends, axis=-1)


def stream(step: Callable[..., Any], pieces: list[np.ndarray]) -> np.ndarray:
    """All output of encode_chunk or decode_chunk; the last piece ends the stream."""
    outputs, state = [], None
    for i, piece in enumerate(pieces):
        output, state = step(piece, state, i == len(pieces) - 1)
        outputs.append(as_numpy(output))
    return np.concatenate(outputs, axis=-1)


# ---- one contract ----------------------------------------------------------------------------------------------------


def test_what_users_call_is_written_once():
    """Backends define what is abstract, and nothing else of the contract."""
    for name, member in vars(Codec).items():
        if callable(member) and not getattr(member, "__isabstractmethod__", False) and not name.startswith("__"):
            assert name not in vars(MimoCodec) and name not in vars(OnnxCodec), name


def test_signatures_are_the_same():
    for name in ("encode", "decode", "encode_batch", "decode_batch", "encode_chunk", "decode_chunk", "decode_stream"):
        assert inspect.signature(getattr(MimoCodec, name)) == inspect.signature(getattr(OnnxCodec, name))


def test_what_one_backend_has_more():
    """How it is loaded and saved, and the modules that PyTorch's is made of."""
    own = {name for name in dir(MimoCodec) if not name.startswith("_")} - set(dir(nn.Module)) - set(dir(Codec))
    assert own == {"from_pretrained", "save_pretrained", "device", "dtype", "require_decoder"}
    assert {name for name in dir(OnnxCodec) if not name.startswith("_")} - set(dir(Codec)) == {"dtype"}


@pytest.mark.parametrize(
    "fact",
    [
        "sample_rate",
        "frame_rate",
        "num_quantizers",
        "codebook_sizes",
        "model_id",
        "encode_latency",
        "decode_latency",
        "decode_delay",
        "encodes_streams",
        "decodes_streams",
    ],
)
def test_facts(codecs, fact):
    # the codec was exported from a folder, under whose name it goes
    own, other = (str(getattr(codec, fact)).rpartition("@")[2] for codec in codecs.values())
    assert own == other


def test_encoders_alone(encoders):
    for codec in encoders.values():
        assert codec.decode_delay is None and not codec.decodes_streams
        with pytest.raises(MimoError, match=r"codec_hybrid.*is an encoder only"):
            codec.check_decodes()


# ---- the same samples ------------------------------------------------------------------------------------------------


INPUTS = {
    "tensor": (torch.from_numpy(SPEECH), RATE),
    "array": (SPEECH, RATE),
    "float64": (torch.from_numpy(SPEECH).double(), RATE),
    "bfloat16": (torch.from_numpy(SPEECH).bfloat16(), RATE),
    "pcm": ((SPEECH * 2**15).astype(np.int16), RATE),
    "channels": (torch.from_numpy(np.stack((SPEECH, SPEECH[::-1], SPEECH / 3))), RATE),
    "16 kHz": (SPEECH, 16000),
    "44.1 kHz": (torch.from_numpy(SPEECH), 44100),
    "odd rate": (torch.stack((torch.from_numpy(SPEECH),) * 2), 23999),
}


def listening(codec: Codec[Any], patch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the networks of a codec will be given."""
    heard: list[np.ndarray] = []
    items, step = codec._encode_items, codec._encode_step

    def encode_items(waveforms, *arguments):
        heard.extend(waveforms)
        return items(waveforms, *arguments)

    def encode_step(chunk, *arguments):
        heard.extend(chunk)
        return step(chunk, *arguments)

    patch.setattr(codec, "_encode_items", encode_items)
    patch.setattr(codec, "_encode_step", encode_step)
    return heard


@pytest.mark.parametrize("name", INPUTS)
def test_both_hear_the_same_samples(codecs, monkeypatch, name, tmp_path):
    """Bit for bit, from memory and from a file."""
    audio, rate = INPUTS[name]
    sources = [(audio, rate)]
    if name not in ("float64", "bfloat16"):
        save_audio(tmp_path / "x.wav", audio, rate)
        sources.append((tmp_path / "x.wav", None))
    for source in sources:
        heard, codes = [], []
        for codec in codecs.values():
            with monkeypatch.context() as patch:
                samples = listening(codec, patch)
                codes.append(codec.encode(*source))
            heard.append(np.concatenate(samples))
        assert len(heard[0]) == codes[0].num_samples and np.array_equal(heard[0], heard[1])
        assert codes[0] == replace(codes[1], model=codes[0].model)


def test_arrays_of_either_kind_come_in_and_those_of_the_backend_out(codec):
    kind = torch.Tensor if isinstance(codec, MimoCodec) else np.ndarray
    codes = codec.encode(SPEECH, RATE)
    assert isinstance(codes.codes, kind) and codes == codec.encode(torch.from_numpy(SPEECH), RATE)
    ids = codes.to_numpy()
    decoded = codec.decode(codes)
    for same in (ids, torch.from_numpy(ids), AudioCodes(ids, 72000, RATE, 25.0, codes.codebook_sizes, codes.model)):
        waveform = codec.decode(same)
        assert isinstance(waveform, kind) and np.array_equal(as_numpy(waveform)[:72000], as_numpy(decoded))
        piece, state = codec.decode_chunk(same)
        assert isinstance(piece, kind)
        assert isinstance(codec.decode_batch([same, same])[1], kind)
        assert all(isinstance(part, kind) for part in codec.decode_stream([same]))
    for chunk in (SPEECH, torch.from_numpy(SPEECH), (SPEECH * 2**15).astype(np.int16)):
        found, state = codec.encode_chunk(chunk)
        assert isinstance(found, kind) and type(state) is dict


# ---- the same results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 239, 480, 481, 959, 960, 961, 24_000, 21 * RATE + 7])
def test_lengths(codec, num_samples):
    waveform = np.resize(SPEECH, num_samples)
    codes = codec.encode(waveform, RATE)
    assert codes.num_samples == num_samples and codes.num_frames == codec.config.num_frames(num_samples)
    assert codes.model == codec.model_id and codes.num_quantizers == 8
    assert codec.decode(codes).shape == (num_samples,)
    assert codec.decode(codes.codes).shape == (codes.num_frames * FRAME,)
    assert sum(len(piece) for piece in codec.decode_pieces(codes)) == num_samples


@few
@given(num_samples=st.integers(1, 30_000), count=st.integers(1, 8))
def test_both_give_the_same(codecs, num_samples, count):
    codes = [codec.encode(SPEECH[:num_samples], RATE, count) for codec in codecs.values()]
    assert np.array_equal(codes[0].to_numpy(), codes[1].to_numpy())
    waveforms = [as_numpy(codec.decode(codes[0].to_numpy())) for codec in codecs.values()]
    assert np.abs(waveforms[0] - waveforms[1]).max() < EXACT


@few
@given(lengths=st.lists(st.integers(1, 30_000), min_size=1, max_size=5), most=st.sampled_from([0.01, 2.0, 120.0]))
def test_a_batch_gives_what_its_items_give_alone(codec, lengths, most):
    items = [np.roll(SPEECH, i)[:length] for i, length in enumerate(lengths)]
    alone = [codec.encode(item, RATE) for item in items]
    batch = codec.encode_batch(items, RATE, batch_seconds=most)
    assert all(np.array_equal(one.to_numpy(), other.to_numpy()) for one, other in zip(batch, alone, strict=True))
    mixed = [codes.first(1 + i % 8) for i, codes in enumerate(alone)]
    for one, codes in zip(codec.decode_batch(mixed, batch_seconds=most), mixed, strict=True):
        assert np.abs(as_numpy(one) - as_numpy(codec.decode(codes))).max() < EXACT


@few
@given(num_samples=st.integers(1, 40_000), sizes=st.lists(st.integers(0, 9000), max_size=12))
def test_encoding_in_chunks_is_encoding_at_once(codec, num_samples, sizes):
    waveform = SPEECH[:num_samples]
    assert np.array_equal(stream(codec.encode_chunk, cut(waveform, sizes)), codec.encode(waveform, RATE).to_numpy())


@few
@given(num_frames=st.integers(1, 76), sizes=st.lists(st.integers(0, 30), max_size=8))
def test_decoding_in_chunks_is_decoding_at_once(codec, num_frames, sizes):
    ids = codec.encode(SPEECH, RATE).to_numpy()[:, :num_frames]
    waveform = stream(codec.decode_chunk, cut(ids, sizes))
    assert waveform.shape == (num_frames * FRAME,)
    assert np.abs(waveform - as_numpy(codec.decode(ids))).max() < EXACT


@pytest.mark.parametrize("num_samples", [1, 960, 961, 50_000])
def test_a_stream_of_codes_has_the_original_length(codec, num_samples):
    codes = codec.encode(SPEECH[:num_samples], RATE)
    times = [*np.arange(0, codes.duration, 0.4), codes.duration]
    chunks = [codes[start:stop] for start, stop in itertools.pairwise(times)]
    waveform = np.concatenate([as_numpy(piece) for piece in codec.decode_stream(chunks)])
    assert waveform.shape == (num_samples,)
    assert np.abs(waveform - as_numpy(codec.decode(codes))).max() < EXACT


def test_streams_without_anything(codec):
    for chunk in (np.zeros(0, np.float32), torch.zeros(0)):
        codes, state = codec.encode_chunk(chunk, num_quantizers=3)
        assert codes.shape == (3, 0)
        assert codec.encode_chunk(chunk, state, last=True)[0].shape == (8, 0)
    for ids in (np.zeros((8, 0), np.int64), torch.zeros(3, 0, dtype=torch.int64)):
        waveform, state = codec.decode_chunk(ids)
        assert waveform.shape == (0,) and codec.decode_chunk(ids, state, last=True)[0].shape == (0,)
    assert list(codec.decode_stream([])) == codec.decode_batch([]) == codec.encode_batch([]) == []


@pytest.mark.parametrize("seconds", [0.5, 21.0])
def test_published_number_of_codebooks(codecs, encoders, seconds):
    """8 of 20, and all of a model that has fewer; by every way to encode."""
    waveform = np.resize(SPEECH, round(seconds * RATE))
    for codec in encoders.values():
        assert codec.num_quantizers == 20 and codec.encode(waveform, RATE).num_quantizers == 8
        assert codec.encode_batch([waveform], RATE)[0].num_quantizers == 8
        assert codec.encode(waveform, RATE, 20).first(8) == codec.encode(waveform, RATE, None)
    small = streaming_codec(shallow=True)
    assert small.num_quantizers == small.encode(waveform, RATE).num_quantizers == 3
    assert small.encode_chunk(waveform)[0].shape[0] == 3


# ---- the same errors -------------------------------------------------------------------------------------------------


def codes_of(codec: Codec[Any], **changes: Any) -> AudioCodes:
    fields = {"num_samples": 1, "sample_rate": RATE, "frame_rate": 25.0, "codebook_sizes": codec.codebook_sizes}
    return AudioCodes(np.zeros((8, 2), np.int64), **(fields | changes))


IDS = np.zeros((8, 3), np.int64)
MISTAKES: dict[str, tuple[Callable[[Codec[Any]], object], str]] = {
    "no rate": (lambda c: c.encode(SPEECH), "audio: its sample rate is not known"),
    "bad rate": (lambda c: c.encode(SPEECH, 12.5), "audio: sample_rate: 12.5 is not a sample rate"),
    "shape": (lambda c: c.encode(np.zeros((2, 3, 4), np.float32), RATE), r"audio: .*\[S\] or \[channels, S\]"),
    "list": (lambda c: c.encode([0.0, 0.1], RATE), "audio: is a list"),
    "empty": (lambda c: c.encode(np.zeros(0), RATE), "audio: holds no samples"),
    "nan": (lambda c: c.encode(torch.tensor([0.0, float("nan")]), RATE), "audio: sample 1 is NaN"),
    "loud": (lambda c: c.encode(np.full(5, 1e25, np.float32), RATE), r"audio: has samples beyond 1e\+12"),
    "loud chunk": (lambda c: c.encode_chunk(np.full(5, 1e25, np.float32)), r"audio: has samples beyond 1e\+12"),
    "no file": (lambda c: c.encode("no-such.wav"), "no-such.wav: there is no such file"),
    "codebooks": (lambda c: c.encode(SPEECH, RATE, 9), r"num_quantizers = 9: .* ask for 1\.\.8"),
    "codebooks of a batch": (lambda c: c.encode_batch([SPEECH], RATE, 0), r"ask for 1\.\.8"),
    "codebooks of a stream": (lambda c: c.encode_chunk(SPEECH, num_quantizers="8"), r"num_quantizers = '8'"),
    "one for a batch": (lambda c: c.encode_batch(SPEECH, RATE), "audio: is a single ndarray; a list of items"),
    "rates": (lambda c: c.encode_batch([SPEECH], [RATE, 1]), "2 rates were given for 1 items"),
    "batch of nan": (lambda c: c.encode_batch([SPEECH, np.array([np.nan])], RATE), r"audio\[1\]: sample 0 is NaN"),
    "batch seconds": (lambda c: c.encode_batch([SPEECH], RATE, batch_seconds=float("nan")), "batch_seconds"),
    "chunk": (lambda c: c.encode_chunk([0.0]), "audio: is a list"),
    "encode state": (lambda c: c.encode_chunk(SPEECH, {"a": 1}), "not what encode_chunk of this model returned"),
    "no state": (lambda c: c.encode_chunk(SPEECH, "a"), "None starts a new stream"),
    "decode state": (lambda c: c.decode_chunk(IDS, c.encode_chunk(SPEECH)[1]), "not what decode_chunk of this model"),
    "range": (lambda c: c.decode(np.full((8, 3), 5000)), "code out of range at codebook 0, frame 0: 5000"),
    "floats": (lambda c: c.decode(np.zeros((8, 3))), "codes must be integers"),
    "too many rows": (lambda c: c.decode(np.zeros((9, 3), np.int64)), r"ask for 1\.\.8"),
    "dimensions": (lambda c: c.decode(np.zeros(3, np.int64)), r"codes: has shape \[3\]; \[Q, T\] is needed"),
    "list of codes": (lambda c: c.decode([1, 2]), "codes: is a list; AudioCodes, or a tensor or array"),
    "chunk of codes": (lambda c: c.decode_chunk(np.zeros((9, 0), np.int64)), r"ask for 1\.\.8"),
    "one to decode": (lambda c: c.decode_batch(IDS), "codes: is a single ndarray; a list of items"),
    "no codes": (lambda c: c.decode(IDS[:, :0]), "at least one codebook and frame"),
    "stranger": (lambda c: c.decode(codes_of(c, model="x@12345678")), "codes: made by x@12345678, this model is "),
    "sizes": (lambda c: c.decode(codes_of(c, codebook_sizes=(64,) * 8)), "codebook sizes .* do not fit"),
    "frame rate": (lambda c: c.decode_chunk(codes_of(c, frame_rate=12.5)), "12.5 frames of audio .* do not fit"),
    "sample rate": (lambda c: c.decode_batch([codes_of(c, sample_rate=48000)]), "at 48000 Hz a second do not fit"),
    "after the end": (lambda c: list(c.decode_stream([codes_of(c)] * 2)), "must be the last of its stream"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_same_mistakes_have_the_same_errors(codecs, mistake):
    use, words = MISTAKES[mistake]
    texts = []
    for codec in codecs.values():
        with pytest.raises(MimoError, match=words) as raised:
            use(codec)
        texts.append(str(raised.value).replace(codec.model_id, "MODEL"))
    assert texts[0] == texts[1] and "\n" not in texts[0]


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.decode(IDS),
        lambda c: c.decode_batch([IDS]),
        lambda c: c.decode_chunk(IDS),
        lambda c: list(c.decode_stream([IDS])),
        lambda c: c.decode_latency,
    ],
)
def test_without_a_decoder(encoders, use):
    texts = []
    for codec in encoders.values():
        with pytest.raises(MimoError, match="is an encoder only") as raised:
            use(codec)
        texts.append(str(raised.value).replace(codec.name, "NAME"))
    assert texts[0] == texts[1]


# ---- states ----------------------------------------------------------------------------------------------------------


def both_states(codec: Codec) -> dict[str, tuple[Callable, Any, dict]]:
    """Of a stream in each direction: the function, a chunk for it and the state after long chunks and short ones."""
    ids, states = np.ones((8, 100), np.int64), {}
    for name, step, chunk in (("encode", codec.encode_chunk, SPEECH), ("decode", codec.decode_chunk, ids)):
        state = step(chunk)[1]
        states[name] = step, chunk[..., :40], step(chunk[..., :960], state)[1]
    return states


def test_pickled_states(codec):
    """A saved state continues the stream, and holds nothing but its own values."""
    for step, chunk, state in both_states(codec).values():
        pickled = pickle.dumps(state)
        numbers = [to_numpy(v if is_array(v) else v.numpy()).nbytes for v in state.values() if hasattr(v, "shape")]
        assert len(pickled) < sum(numbers) + 20_000
        loaded = pickle.loads(pickled)
        assert np.array_equal(as_numpy(step(chunk, loaded)[0]), as_numpy(step(chunk, state)[0]))


def test_states_of_streams_that_have_ended(codec):
    for step, chunk, state in both_states(codec).values():
        ended = step(chunk, state, last=True)[1]
        with pytest.raises(MimoError, match="state: its stream has ended, with last=True; None starts a new stream"):
            step(chunk, ended)
        with pytest.raises(MimoError, match="its stream has ended"):
            step(chunk, step(chunk, None, last=True)[1], last=True)


def test_states_that_were_changed(codec):
    """Each value in turn: missing, of another type, of another shape, another number, or of another model."""
    for name, (step, chunk, state) in both_states(codec).items():
        for key, value in state.items():
            others = ["x", None, -1, 0.5, {}]
            if getattr(value, "shape", ()) and not callable(value.shape):
                others += [value[..., None], value[0], np.zeros((3, 7, 5))]
            changed = [{**state, key: other} for other in others] + [{k: v for k, v in state.items() if k != key}]
            for bad in changed:
                with pytest.raises(MimoError, match=f"state: is not what {name}_chunk of this model returned"):
                    step(chunk, bad)
        with pytest.raises(MimoError, match=f"not what {name}_chunk of this model"):
            step(chunk, {**state, "model": state["model"] + 1})
