"""Exported codecs under ONNX Runtime against PyTorch, without PyTorch, and what is refused."""

import itertools
import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, make_speech
from exports import exported_once, tiny_export
from goldens import CASES, any_codec, each_kind, expected, segmented_codec, streaming_codec

from mimo_codec import AudioCodes, MimoCodec, MimoError, save_audio
from mimo_codec.onnx import OnnxCodec, session
from mimo_codec.onnx.codec import export as exporting
from mimo_codec.onnx.codec.check import Comparison, Difference, _judge, check_codec, compare
from mimo_codec.onnx.codec.export import export_codec
from mimo_codec.onnx.codec.metadata import CodecMetadata

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export(tmp_path_factory)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = segmented_codec("codec_base")
    return exported_once(tmp_path_factory, "base", lambda folder: export_codec(codec, folder, num_quantizers=8))


@pytest.fixture(scope="module")
def encoder_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = any_codec("codec_hybrid")
    return exported_once(tmp_path_factory, "hybrid", lambda folder: export_codec(codec, folder, num_quantizers=20))


def speech(seconds: float) -> np.ndarray:
    return make_speech(seconds).numpy()


def assert_same_codes(found: AudioCodes, reference: AudioCodes) -> None:
    assert np.array_equal(found.to_numpy(), reference.to_numpy())
    assert (found.num_samples, found.sample_rate, found.frame_rate) == (
        reference.num_samples,
        reference.sample_rate,
        reference.frame_rate,
    )


def assert_close(found: np.ndarray, reference: torch.Tensor, most: float = 1e-4) -> None:
    assert found.dtype == np.float32 and found.shape == tuple(reference.shape)
    assert np.abs(found - reference.numpy()).max(initial=0) < most


# ---- the same results ------------------------------------------------------------------------------------------------


def test_what_is_written(tiny):
    names = {"encoder.onnx", "encoder_step.onnx", "decoder.onnx", "decoder_step.onnx"}
    assert {path.name for path in tiny.iterdir()} == names
    ids = set()
    for name in names:
        model = onnx.load(tiny / name)
        onnx.checker.check_model(model)
        [about] = [json.loads(entry.value) for entry in model.metadata_props if entry.key == session.METADATA]
        ids.add(about["export_id"])
        assert about["config"]["d_model"] == 64 and about["num_quantizers"] == 8
        assert about["config"]["hop_length"] == 240 and about["licence"] == "that of the weights"
        assert about["version"] and about["graph"] == name.removesuffix(".onnx")
        assert not {node.domain for node in model.graph.node} - {""}
    assert len(ids) == 1


@pytest.mark.parametrize("num_samples", [1, 100, 480, 481, 959, 961, 24000, 21 * 24000 + 7])
def test_encode(tiny, num_samples):
    codec, waveform = streaming_codec(), speech(22.0)[:num_samples]
    assert_same_codes(OnnxCodec(tiny).encode(waveform, 24000), codec.encode(waveform, 24000))


def test_encode_file_at_another_rate(tiny, tmp_path):
    save_audio(tmp_path / "x.wav", make_speech(1.5, rate=16000), 16000)
    found, reference = (c.encode(tmp_path / "x.wav") for c in (OnnxCodec(tiny), streaming_codec()))
    assert_same_codes(found, reference)


@pytest.mark.parametrize("chunk", [37, 480, 481, 1000, 9600])
def test_encode_chunks(tiny, chunk):
    exported, waveform = OnnxCodec(tiny), speech(1.0)
    state, codes = None, []
    for start in range(0, len(waveform), chunk):
        piece, state = exported.encode_chunk(waveform[start : start + chunk], state, start + chunk >= len(waveform))
        codes.append(piece)
    assert np.array_equal(np.concatenate(codes, axis=1), exported.encode(waveform, 24000).to_numpy())
    assert exported.encode_chunk(np.zeros(0, np.float32), None, last=True)[0].shape == (8, 0)


def test_evaluate(tiny, encoder_only, run, tmp_path):
    save_audio(tmp_path / "x.wav", make_speech(1.5), 24000)
    measure = ("evaluate", tmp_path / "x.wav", "--metrics", "mel_distance", "--baselines", "none", "--codebooks", "2")
    models = tiny, tiny.with_name("onnx-tiny-model")
    found, reference = (json.loads(run(*measure, "--json", "--model", model).out) for model in models)
    assert [system["name"] for system in found["systems"]] == [f"onnx-tiny-model q{n}" for n in (2, 8)]
    for ours, theirs in zip(found["systems"], reference["systems"], strict=True):
        assert ours["summary"]["mel_distance"]["mean"] == pytest.approx(theirs["summary"]["mel_distance"]["mean"], 1e-3)
    assert_one_line_error(run(*measure, "--model", tiny, "--dtype", "float16"), tiny, "dtype", "exported")
    assert_one_line_error(run(*measure, "--model", tiny, "-q", 9), "num_quantizers", "9")
    assert_one_line_error(run(*measure, "--model", encoder_only), "encoder only")


def test_batches(tiny):
    exported, codec = OnnxCodec(tiny), streaming_codec()
    waveforms = [speech(3.0)[:n] for n in (5000, 1, 60000, 700)]
    codes = exported.encode_batch(waveforms, 24000)
    for found, waveform in zip(codes, waveforms, strict=True):
        assert_same_codes(found, codec.encode(waveform, 24000))
    mixed = [codes[0], codes[2].first(3), codes[1], codes[2]]
    for found, item in zip(exported.decode_batch(mixed), mixed, strict=True):
        assert_close(
            found,
            codec.decode(
                AudioCodes(torch.from_numpy(item.to_numpy()), item.num_samples, 24000, 25.0, item.codebook_sizes)
            ),
        )


@pytest.mark.parametrize(("seconds", "count"), [(0.04, 8), (1.0, 1), (2.0, 5), (21.0, 8)])
def test_decode(tiny, seconds, count):
    codec = streaming_codec()
    codes = codec.encode(speech(seconds), 24000, num_quantizers=count)
    assert_close(OnnxCodec(tiny).decode(codes), codec.decode(codes))


@pytest.mark.parametrize("chunk", [1, 3, 25])
def test_decode_chunks(tiny, chunk):
    exported = OnnxCodec(tiny)
    codes = exported.encode(speech(2.03), 24000)
    pieces = [codes[i / 25 : (i + chunk) / 25] for i in range(0, codes.num_frames, chunk)]
    assert_close(np.concatenate(list(exported.decode_stream(pieces))), torch.from_numpy(exported.decode(codes)))


@each_kind
def test_each_kind(kind, tmp_path):
    """At once, in a batch and in chunks, against PyTorch; then int8, which leaves quantizers as they are."""
    codec, lines = streaming_codec(kind, shallow=True), []
    export_codec(codec, tmp_path / "x", check=lambda folder: check_codec(codec, folder, lines.append))
    assert "in chunks of 1 s:  codes equal 100.00 %" in lines[-1] and len(lines) >= 9
    exported = OnnxCodec(tmp_path / "x")
    codes = exported.encode(speech(1.0), 24000, 3)
    assert_same_codes(codes, codec.encode(speech(1.0), 24000, 3))
    assert codes.codebook_sizes == codec.codebook_sizes and codes.model == codec.model_id
    for count in (1, 3):
        assert_close(exported.decode(codes.first(count)), codec.decode(codes.first(count)))
    export_codec(codec, tmp_path / "x", dtype="int8", graphs=("decoder",), overwrite=True)
    for product in onnx.load(tmp_path / "x" / "decoder.onnx").graph.node:
        scopes = [entry.value for entry in product.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        assert product.op_type != "MatMulInteger" or "quantizer" not in " ".join(scopes)


@pytest.mark.parametrize("num_samples", [1, 47999, 48000, 48001, 48300, 48721, 96000, 100000, 21 * 24000])
def test_segments(segmented, num_samples):
    """Codes of each segment for itself, from mel frames of the whole."""
    codec, exported, waveform = segmented_codec("codec_base"), OnnxCodec(segmented), speech(22.0)[:num_samples]
    codes = codec.encode(waveform, 24000)
    found = exported.encode(waveform, 24000)
    assert found.num_frames == codes.num_frames
    equal = found.to_numpy() == codes.to_numpy()
    assert equal.mean() > 0.98  # random weights: rounding flips near ties
    assert equal[:, -1].all()  # whose last mel frame is reflected
    assert_close(exported.decode(codes), codec.decode(codes))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["codec_base", "codec_hybrid"])
def test_golden_recordings(name, case, request):
    """With bands a million times below the peak, which a spectrum in float32 would fill with its rounding."""
    if name == "codec_base":
        codec, exported = segmented_codec(name), OnnxCodec(request.getfixturevalue("segmented"))
    else:
        codec, exported = any_codec(name), OnnxCodec(request.getfixturevalue("encoder_only"))
    found = compare(codec, exported, expected(name)[f"{case}.waveform"])
    print(name, found)
    assert len(found.differences) == found.num_ties
    assert found.error is None or found.error < 1e-4


def test_encoder_only(encoder_only):
    codec, exported, waveform = any_codec("codec_hybrid"), OnnxCodec(encoder_only), speech(3.0)
    codes = codec.encode(waveform, 24000, num_quantizers=codec.num_quantizers)
    assert_same_codes(exported.encode(waveform, 24000, codec.num_quantizers), codes)
    with pytest.raises(MimoError, match="is an encoder only"):
        exported.decode(codes)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least_equal"), [("float16", 0.9), ("int8", 0.3)])
def test_other_dtypes(dtype, least_equal, tmp_path, capsys):
    codec = streaming_codec(shallow=True)
    export_codec(codec, tmp_path / "x", dtype=dtype, graphs=("encoder", "decoder"))
    results = check_codec(codec, tmp_path / "x")
    long = OnnxCodec(tmp_path / "x").encode(speech(21.0), 24000)  # without steps: at once
    assert OnnxCodec(tmp_path / "x").decode(long).shape == (21 * 24000,)
    with pytest.raises(MimoError, match="without steps"):
        OnnxCodec(tmp_path / "x").decode_chunk(long)
    assert sum(r.num_different for r in results) < (1 - least_equal) * sum(r.num_codes for r in results)
    encoder = onnx.load(tmp_path / "x" / "encoder.onnx")
    kinds = {tensor.data_type for tensor in encoder.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.INT8) in kinds
    tables = [t for t in encoder.graph.initializer if list(t.dims) == [sum(codec.codebook_sizes), 64]]
    assert not tables or tables[0].data_type == onnx.TensorProto.FLOAT
    assert dtype in capsys.readouterr().out


def test_without_torch(tiny, tmp_path):
    save_audio(tmp_path / "x.wav", make_speech(1.0), 24000)
    code = """
import sys
sys.modules["torch"] = None
from mimo_codec import AudioCodes, save_audio
from mimo_codec.onnx import OnnxCodec
codec = OnnxCodec(sys.argv[1])
codec.encode(sys.argv[2]).save(sys.argv[2] + ".mimo")
waveform = codec.decode(AudioCodes.load(sys.argv[2] + ".mimo"))
save_audio(sys.argv[2] + ".out.wav", waveform, codec.sample_rate)
assert waveform.shape == (24000,) and not any(name.startswith("torch") for name in sys.modules if name != "torch")
"""
    done = subprocess.run([sys.executable, "-c", code, tiny, tmp_path / "x.wav"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.wav.out.wav").stat().st_size > 24000


# ---- what is refused -------------------------------------------------------------------------------------------------


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
        (lambda c: c.encode(np.full(5, 1e25, np.float32), 24000), "beyond 1e\\+12"),
        (lambda c: OnnxCodec(c.folder, num_threads="2"), "num_threads"),
        (
            lambda c: c.decode(AudioCodes(np.zeros((8, 1), np.int64), 1, 24000, 25.0, c.codebook_sizes, "x@12345678")),
            "made by x@12345678",
        ),
    ],
)
def test_bad_arguments(tiny, call, words):
    with pytest.raises(MimoError, match=words) as raised:
        call(OnnxCodec(tiny))
    assert "\n" not in str(raised.value)


def cut_state(codec: OnnxCodec) -> dict[str, object]:
    """Of the right names; arrays without their last place."""
    caches = codec._session("decoder_step").initial_state()
    cut = {f"caches.{name}": value[..., :-1] if value.ndim else value for name, value in caches.items()}
    return {"num_frames": 0, **cut}


def test_states_may_be_copied(tiny):
    """To numpy, as to save them."""
    exported, codes = OnnxCodec(tiny), np.ones((8, 3), np.int64)
    state = exported.decode_chunk(codes)[1]
    copy = {name: value.numpy() if name.startswith("caches.") else value for name, value in state.items()}
    assert np.array_equal(exported.decode_chunk(codes, copy)[0], exported.decode_chunk(codes, state)[0])


def test_a_graph_in_the_place_of_another(tiny, tmp_path):
    shutil.copy(tiny / "decoder.onnx", tmp_path / "encoder.onnx")
    with pytest.raises(MimoError, match=r"encoder\.onnx: is no encoder of a codec"):
        OnnxCodec(tmp_path)


def test_bad_folders(tiny, segmented, tmp_path):
    with pytest.raises(MimoError, match=r"encoder\.onnx: there is no such file"):
        OnnxCodec(tmp_path)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "encoder.onnx").write_bytes((tiny / "encoder.onnx").read_bytes())
    exported = OnnxCodec(mixed)
    with pytest.raises(MimoError, match=r"decoder\.onnx: there is no such file"):
        exported.decode(np.zeros((8, 3), np.int64))
    (mixed / "decoder.onnx").write_bytes((segmented / "decoder.onnx").read_bytes())
    with pytest.raises(MimoError, match="of another export than encoder.onnx"):
        exported.decode(np.zeros((8, 3), np.int64))
    (mixed / "encoder.onnx").write_bytes(b"nonsense")
    with pytest.raises(MimoError, match="cannot be loaded"):
        OnnxCodec(mixed)


def test_graphs_of_others_and_of_the_future(tiny, tmp_path):
    model = onnx.load(tiny / "encoder.onnx")
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


def test_providers(tiny, monkeypatch):
    with pytest.raises(MimoError, match="rocket is not in this onnxruntime; it has"):
        OnnxCodec(tiny, ["rocket"])
    with pytest.raises(MimoError, match="a list is needed"):
        OnnxCodec(tiny, "cpu")
    everything = ["CPUExecutionProvider", "OtherExecutionProvider", *session.PROVIDERS[:2]]
    assert session.choose_providers(None, everything) == [(name, {}) for name in session.PROVIDERS]
    chosen = [("CUDAExecutionProvider", {"device_id": 1}), ("CPUExecutionProvider", {})]
    assert session.choose_providers([("cuda", {"device_id": 1}), "CPUExecutionProvider"], everything) == chosen
    for bad in ([], {}, 1, [1], ["cpu", None], [("cpu", "fast")], [("cpu",)], ("cuda", {"device_id": 1})):
        with pytest.raises(MimoError, match="providers: ") as raised:
            OnnxCodec(tiny, bad)
        assert "\n" not in str(raised.value)
    assert OnnxCodec(tiny, [("CPUExecutionProvider", {})]).num_quantizers == 8
    monkeypatch.setattr(session, "choose_providers", lambda *_: chosen)
    with pytest.raises(MimoError, match="CUDAExecutionProvider does not work on this machine; onnxruntime took CPU"):
        OnnxCodec(tiny, ["cuda", "cpu"])
    assert OnnxCodec(tiny).num_quantizers == 8
    monkeypatch.setattr(session, "_is_installed", lambda name: True)
    with pytest.raises(MimoError, match="both installed and overwrite each other: pip uninstall"):
        OnnxCodec(tiny)


class _OnGpu(onnxruntime.InferenceSession):
    """Says that it runs on the first provider; runs on the CPU."""

    def __init__(self, path, options, providers, enable_fallback):
        super().__init__(path, options, ["CPUExecutionProvider"])
        self.asked, self.places = providers, []

    def get_providers(self):
        return [name for name, _ in self.asked]

    def io_binding(self):
        binding = super().io_binding()
        bind = binding.bind_output
        binding.bind_output = lambda name, *place: (self.places.append(place), bind(name))
        return binding


@pytest.fixture
def gpu_runtime(monkeypatch) -> SimpleNamespace:
    """As onnxruntime-gpu; `preloaded` says with what it was told to load CUDA."""

    def preload_dlls(**options):
        print("Failed to load libcudart.so")
        fake.preloaded.append(options)

    fake = SimpleNamespace(
        **{**vars(onnxruntime), "InferenceSession": _OnGpu, "preload_dlls": preload_dlls}, preloaded=[]
    )
    fake.get_available_providers = lambda: list(session.PROVIDERS)
    monkeypatch.setattr(session, "import_runtime", lambda: fake)
    return fake


def test_cuda_computes_in_float32(tiny, gpu_runtime):
    path, plain = tiny / "decoder_step.onnx", {"use_tf32": "0", "enable_cuda_graph": "0"}
    tensorrt, cuda, cpu = session.PROVIDERS
    assert session.Session(path)._session.asked == [(tensorrt, {}), (cuda, plain), (cpu, {})]
    gpu_runtime.__version__ = "1.31.0"
    recorded = session.Session(path, cuda_graphs=True)
    assert recorded._session.asked == [(cuda, {**plain, "enable_cuda_graph": "1"})]


def test_cuda_from_pip(tiny, gpu_runtime, capsys):
    session.Session(tiny / "encoder.onnx", ["cpu"])
    assert gpu_runtime.preloaded == []
    session.Session(tiny / "encoder.onnx", ["tensorrt"])
    session.Session(tiny / "encoder.onnx", ["cuda", "cpu"])
    assert gpu_runtime.preloaded == [{"directory": ""}] * 2
    assert capsys.readouterr().out == ""
    del gpu_runtime.preload_dlls  # before 1.21
    session.Session(tiny / "encoder.onnx", ["cuda"])


def test_another_gpu(tiny, gpu_runtime):
    found = session.Session(tiny / "decoder_step.onnx", [("cuda", {"device_id": 1}), "cpu"])
    assert found._session.asked[0][1]["device_id"] == 1
    found.run({"codes": np.ones((1, 8, 2), np.int64), "num_valid": np.array(2), **found.initial_state()})
    assert set(found._session.places) == {("cpu", 0), ("cuda", 1)}


def test_a_failing_check_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "write_graph", lambda graph, path, metadata, opset: path.write_bytes(b"graph"))
    codec = streaming_codec()

    def fail(folder: Path) -> None:
        assert (folder / "encoder.onnx").is_file()
        raise MimoError("differs")

    with pytest.raises(MimoError, match="differs"):
        export_codec(codec, tmp_path / "x", check=fail)
    with pytest.raises(MimoError, match="differs"):
        export_codec(codec, tmp_path / "a" / "b" / "c", check=fail)
    assert list(tmp_path.iterdir()) == []
    export_codec(codec, tmp_path / "x")
    with pytest.raises(MimoError, match="already exists"):
        export_codec(codec, tmp_path / "x")
    with pytest.raises(MimoError, match="differs"):
        export_codec(codec, tmp_path / "x", overwrite=True, check=fail)
    assert (tmp_path / "x" / "decoder.onnx").read_bytes() == b"graph" and len(list(tmp_path.iterdir())) == 1


def test_overwriting_removes_only_older_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "write_graph", lambda graph, path, metadata, opset: path.write_bytes(b"graph"))
    others = {"whisper.onnx", "whisper.onnx.data", "backbone.onnx", "notes.txt"}
    for name in (*others, "decoder.onnx", "decoder.onnx.data", "encoder.onnx.data", "encoder.onnx"):
        (tmp_path / name).write_bytes(b"old")
    export_codec(streaming_codec(), tmp_path, graphs=("encoder",), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.onnx", *others}
    assert (tmp_path / "encoder.onnx").read_bytes() == b"graph"


def test_the_check_finds_what_is_wrong(tiny):
    other = streaming_codec()
    other = MimoCodec(other.config).eval()
    other.load_state_dict(streaming_codec().state_dict())
    with torch.no_grad():
        other.require_decoder().vocoder.head.out.bias += 0.01
    with pytest.raises(MimoError, match="do not do what the codec does"):
        check_codec(other, tiny)


def test_the_check_finds_steps_that_are_wrong(tiny, tmp_path):
    codec, folder = streaming_codec(), shutil.copytree(tiny, tmp_path / "x")
    for name in ("encoder_step", "decoder_step"):
        model = onnx.load(folder / f"{name}.onnx")
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        largest.raw_data = bytes(len(largest.raw_data))
        onnx.save(model, folder / f"{name}.onnx")
        with pytest.raises(MimoError, match=f"{name}.onnx does not do what"):
            check_codec(codec, folder, lambda line: None)
        shutil.copy(tiny / f"{name}.onnx", folder)


@pytest.mark.parametrize(
    ("graph", "spoilt", "breaks"),
    [
        ("encoder", "codes", lambda inputs: len(inputs["waveform"]) > 1),
        ("decoder", "waveform", lambda inputs: len(inputs["codes"]) > 1),
        ("decoder", "waveform", lambda inputs: inputs["codes"].shape[1] < 8),
    ],
    ids=["encoder in a batch", "decoder in a batch", "fewer codebooks"],
)
def test_the_check_knows_batches_and_fewer_codebooks(tiny, monkeypatch, graph, spoilt, breaks):
    run_session = session.Session.run

    def run(self, inputs):
        found = run_session(self, inputs)
        if self.path.stem == graph and breaks(inputs):
            found[spoilt] = np.roll(found[spoilt], 5, axis=-1)
        return found

    monkeypatch.setattr(session.Session, "run", run)
    with pytest.raises(MimoError, match="do not do what the codec does"):
        check_codec(streaming_codec(), tiny, lambda line: None)


def test_the_check_lists_codes_that_differ(tiny):
    """Ten lines, and how many are not shown."""
    other, lines = MimoCodec(streaming_codec().config).eval(), []
    other.load_state_dict(streaming_codec().state_dict())
    with torch.no_grad():
        for weight in other.encoder.parameters():
            weight *= 1.01
    with pytest.raises(MimoError, match="do not do what the codec does"):
        check_codec(other, tiny, lines.append)
    listed = [line for line in lines if "other code in" in line]
    assert len(listed) == 10 and any(re.match(r"  \.\.\. and \d+ more$", line) for line in lines)
    for line in listed:
        assert re.match(r"  other code in \d+\.\d\d s( in a batch)?, frame \d+, codebook \d: distances within ", line)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_check_refuses_what_is_no_number_and_other_codes(dtype):
    good = Comparison("1.00 s", 1.0, 25, 200, 0, 1.0, (), 0.0, 90.0, ())
    _judge([good], dtype)
    for bad in (
        replace(good, error=np.nan, snr_db=np.nan),
        replace(good, first_equal=0.2, differences=(Difference(0, 0, 0.1),) * 20),
    ):
        with pytest.raises(MimoError, match="codes"):
            _judge([good, bad], dtype)


def test_weights_of_8_bits_beside_a_graph(tmp_path, monkeypatch, capsys):
    """Of graphs that are too large for one file; nothing of the wide weights stays."""
    monkeypatch.setattr(exporting, "MAX_INLINE_BYTES", 1000)
    export_codec(streaming_codec(shallow=True), tmp_path / "x", dtype="int8", graphs=("encoder",))
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"encoder.onnx", "encoder.onnx.data"}
    assert OnnxCodec(tmp_path / "x").encode(speech(0.5), 24000).num_frames == 13
    assert "WARNING" not in capsys.readouterr().err


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


def test_a_codec_and_its_states_can_be_pickled(tiny):
    """As to send them to another process: the copy loads its graphs for itself."""
    exported, codes = OnnxCodec(tiny), np.ones((8, 3), np.int64)
    state = exported.decode_chunk(codes)[1]
    copy, sent = pickle.loads(pickle.dumps((exported, state)))
    assert np.array_equal(copy.decode_chunk(codes, sent)[0], exported.decode_chunk(codes, state)[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("num_quantizers", "dtype", "graphs", "decode_delay"), (None, [], {}, -1, "\n", [[]], 1.5)),
        *itertools.product(("model_id", "export_id"), (None, [], {}, -1, [[]], 1.5)),
        *(("model_id", "\n"), ("config", []), ("config", {"sampling_rate": 1})),
        *(("graphs", ["decoder"]), ("num_quantizers", 9), ("num_quantizers", 10**400)),
    ],
)
def test_metadata_of_wrong_types(tiny, name, value):
    found = OnnxCodec(tiny).metadata
    CodecMetadata.from_dict(found)
    with pytest.raises(MimoError, match=name if name != "graphs" else "graph"):
        CodecMetadata.from_dict({**found, name: value})
