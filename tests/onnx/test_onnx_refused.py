"""Arguments, states, files and metadata that exported codecs refuse, and commands that export nothing."""

import itertools
import json
import shutil

import numpy as np
import pytest
from conftest import assert_one_line_error
from results import speech

from mimo_codec import AudioCodes, MimoError
from mimo_codec.onnx import OnnxCodec, session
from mimo_codec.onnx.codec.metadata import CodecMetadata

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.encode(np.zeros(100, np.float32)), "pass sample_rate"),
        (lambda c: c.encode(np.zeros((2, 3, 4), np.float32), 24000), r"\[S\] or \[channels, S\]"),
        (lambda c: c.encode(np.zeros(100, np.float32), 24000, 9), "ask for 1..8"),
        (lambda c: c.decode(np.full((8, 3), 5000)), "out of range"),
        (lambda c: c.decode(np.zeros((9, 3), np.int64)), "ask for 1..8"),
        (lambda c: c.decode(np.zeros(3, np.int64)), r"\[Q, T\] is needed"),
        (lambda c: c.decode([1, 2]), "is a list"),
        (lambda c: c.encode_batch(np.zeros(5), 24000), "a list of items"),
        (lambda c: c.encode_batch([np.zeros(5)], [24000, 1]), "2 rates were given for 1"),
        (lambda c: c.encode_chunk(np.zeros(5, np.float32), {"a": 1}), "None starts a new stream"),
        (lambda c: c.encode_chunk(np.zeros(5, np.float32), "a"), "None starts a new stream"),
        (lambda c: c.decode_chunk(np.zeros((8, 3), np.int64), {"samples": 1}), "decode_chunk.*None starts"),
        (lambda c: c.decode_chunk(np.zeros((8, 3), np.int64), {"num_frames": 0}), "decode_chunk.*None starts"),
        (lambda c: c.decode_chunk(np.zeros((8, 3), np.int64), cut_state(c)), "decode_chunk"),
        (lambda c: c.encode_chunk(speech(0.5), {**c.encode_chunk(speech(0.5))[1], "caches.a": 1}), "encode_chunk"),
        (lambda c: c.encode_chunk(speech(0.5), spoilt(c, num_frames=2**62)), "encode_chunk"),
        (lambda c: c.encode_chunk(speech(0.5), spoilt(c, num_frames=1)), "encode_chunk"),
        (lambda c: c.encode_chunk(speech(0.5), spoilt(c, samples=np.zeros((1, 0), np.float32))), "encode_chunk"),
        (lambda c: c.encode_chunk(speech(0.5)[:0], spoilt(c, started=False), last=True), "encode_chunk"),
        (lambda c: c.encode_chunk(speech(0.5), last="no"), "last must be True or False"),
        (lambda c: c.encode(np.full(5, 1e25, np.float32), 24000), "beyond 1e\\+12"),
        (lambda c: OnnxCodec(c.folder, num_threads="2"), "num_threads"),
        (
            lambda c: c.decode(AudioCodes(np.zeros((8, 1), np.int64), 1, 24000, 25.0, c.codebook_sizes, "x@12345678")),
            "made by x@12345678",
        ),
    ],
)
def test_bad_arguments(tiny_onnx, call, words):
    with pytest.raises(MimoError, match=words) as raised:
        call(OnnxCodec(tiny_onnx))
    assert "\n" not in str(raised.value)


def spoilt(codec: OnnxCodec, **values: object) -> dict[str, object]:
    """The state of a stream with other values."""
    return {**codec.encode_chunk(speech(0.5))[1], **values}


def cut_state(codec: OnnxCodec) -> dict[str, object]:
    """Of the right names; arrays without their last place."""
    caches = codec._session("decoder_step").initial_state()
    cut = {f"caches.{name}": value[..., :-1] if value.ndim else value for name, value in caches.items()}
    return {"num_frames": 0, **cut}


def test_states_may_be_copied(tiny_onnx):
    """To numpy, as to save them."""
    exported, codes = OnnxCodec(tiny_onnx), np.ones((8, 3), np.int64)
    state = exported.decode_chunk(codes)[1]
    copy = {name: value.numpy() if name.startswith("caches.") else value for name, value in state.items()}
    assert np.array_equal(exported.decode_chunk(codes, copy)[0], exported.decode_chunk(codes, state)[0])


def test_a_graph_in_the_place_of_another(tiny_onnx, tmp_path):
    shutil.copy(tiny_onnx / "decoder.onnx", tmp_path / "encoder.onnx")
    with pytest.raises(MimoError, match=r"encoder\.onnx: is no encoder of a codec"):
        OnnxCodec(tmp_path)


def test_bad_folders(tiny_onnx, segmented_onnx, tmp_path):
    with pytest.raises(MimoError, match=r"encoder\.onnx: there is no such file"):
        OnnxCodec(tmp_path)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "encoder.onnx").write_bytes((tiny_onnx / "encoder.onnx").read_bytes())
    exported = OnnxCodec(mixed)
    with pytest.raises(MimoError, match=r"decoder\.onnx: there is no such file"):
        exported.decode(np.zeros((8, 3), np.int64))
    (mixed / "decoder.onnx").write_bytes((segmented_onnx / "decoder.onnx").read_bytes())
    with pytest.raises(MimoError, match="of another export than encoder.onnx"):
        exported.decode(np.zeros((8, 3), np.int64))
    whole = (tiny_onnx / "encoder.onnx").read_bytes()
    for damaged in (b"", b"nonsense", whole[:-1], whole[:1000]):
        (mixed / "encoder.onnx").write_bytes(damaged)
        with pytest.raises(MimoError, match=r"encoder\.onnx: cannot be loaded"):
            OnnxCodec(mixed)


def test_what_a_file_says_of_itself_is_checked_before_its_graph_is_loaded(tiny_onnx, tmp_path, monkeypatch):
    """A graph of a stranger takes half a second to load, and whatever its nodes ask for."""
    model = onnx.load(tiny_onnx / "encoder.onnx")
    [entry] = [entry for entry in model.metadata_props if entry.key == session.METADATA]
    entry.value = json.dumps({**json.loads(entry.value), "num_quantizers": 10**9})
    onnx.save(model, tmp_path / "encoder.onnx")
    monkeypatch.setattr(session, "import_runtime", lambda: pytest.fail("a graph is loaded"))
    with pytest.raises(MimoError, match=r"encoder\.onnx: metadata: num_quantizers"):
        OnnxCodec(tmp_path)


def test_graphs_of_others_and_of_the_future(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx / "encoder.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(MimoError, match="too new for this onnxruntime") as raised:
        OnnxCodec(tmp_path)
    assert "\n" not in str(raised.value)
    model.opset_import[0].version = 20
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(MimoError, match="was not exported by mimo-codec"):
        OnnxCodec(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nano", "--dtype", "float8"], ["float8", "float32, float16, int8"]),
        (["nano", "-q", "9"], ["9", "1..8"]),
        (["nano", "--opset", "3"], ["opset", "18"]),
        (["no-such-model"], ["no-such-model"]),
    ],
)
def test_command_line_mistakes(run, tmp_path, arguments, words):
    assert_one_line_error(run("export", "codec", *arguments, "-o", tmp_path / "x"), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("num_quantizers", "dtype", "graphs", "decode_delay"), (None, [], {}, -1, "\n", [[]], 1.5)),
        *itertools.product(("model_id", "export_id"), (None, [], {}, -1, [[]], 1.5)),
        *(("model_id", "\n"), ("config", []), ("config", {"sampling_rate": 1})),
        *(("graphs", ["decoder"]), ("num_quantizers", 9), ("num_quantizers", 10**400)),
    ],
)
def test_metadata_of_wrong_types(tiny_onnx, name, value):
    found = OnnxCodec(tiny_onnx).metadata
    CodecMetadata.from_dict(found)
    with pytest.raises(MimoError, match=name if name != "graphs" else "graph"):
        CodecMetadata.from_dict({**found, name: value})
