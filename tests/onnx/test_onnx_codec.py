"""Exported codecs under ONNX Runtime against PyTorch, and without PyTorch."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, make_speech
from goldens import CASES, any_codec, expected, segmented_codec, streaming_codec
from results import assert_close, assert_same_codes, speech

from mimo_codec import AudioCodes, MimoError, save_audio
from mimo_codec.onnx import OnnxCodec, session
from mimo_codec.onnx.codec import export as exporting
from mimo_codec.onnx.codec.check import check_codec, compare
from mimo_codec.onnx.codec.export import codec_graphs, export_codec

onnx = pytest.importorskip("onnx")

# ---- the same results ------------------------------------------------------------------------------------------------


def test_what_is_written(tiny_onnx):
    names = {"encoder.onnx", "encoder_step.onnx", "decoder.onnx", "decoder_step.onnx"}
    assert {path.name for path in tiny_onnx.iterdir()} == names
    ids = set()
    for name in names:
        model = onnx.load(tiny_onnx / name)
        onnx.checker.check_model(model)
        [about] = [json.loads(entry.value) for entry in model.metadata_props if entry.key == session.METADATA]
        ids.add(about["export_id"])
        assert about["config"]["d_model"] == 64 and about["num_quantizers"] == 8
        assert about["config"]["hop_length"] == 240 and about["licence"] == "that of the weights"
        assert about["version"] and about["graph"] == name.removesuffix(".onnx")
        assert not {node.domain for node in model.graph.node} - {""}
    assert len(ids) == 1


@pytest.mark.parametrize("num_samples", [1, 100, 480, 481, 959, 961, 24000, 21 * 24000 + 7])
def test_encode(tiny_onnx, num_samples):
    codec, waveform = streaming_codec(), speech(22.0)[:num_samples]
    assert_same_codes(OnnxCodec(tiny_onnx).encode(waveform, 24000), codec.encode(waveform, 24000))


def test_encode_file_at_another_rate(tiny_onnx, tmp_path):
    save_audio(tmp_path / "x.wav", make_speech(1.5, rate=16000), 16000)
    found, reference = (c.encode(tmp_path / "x.wav") for c in (OnnxCodec(tiny_onnx), streaming_codec()))
    assert_same_codes(found, reference)


@pytest.mark.parametrize("chunk", [37, 480, 481, 1000, 9600])
def test_encode_chunks(tiny_onnx, chunk):
    exported, waveform = OnnxCodec(tiny_onnx), speech(1.0)
    state, codes = None, []
    for start in range(0, len(waveform), chunk):
        piece, state = exported.encode_chunk(waveform[start : start + chunk], state, start + chunk >= len(waveform))
        codes.append(piece)
    assert np.array_equal(np.concatenate(codes, axis=1), exported.encode(waveform, 24000).to_numpy())
    assert exported.encode_chunk(np.zeros(0, np.float32), None, last=True)[0].shape == (8, 0)


def test_evaluate(tiny_onnx, encoder_only_onnx, run, tmp_path):
    save_audio(tmp_path / "x.wav", make_speech(1.5), 24000)
    measure = ("evaluate", tmp_path / "x.wav", "--metrics", "mel_distance", "--baselines", "none", "--codebooks", "2")
    models = tiny_onnx, tiny_onnx.with_name("onnx-tiny-model")
    found, reference = (json.loads(run(*measure, "--json", "--model", model).out) for model in models)
    assert [system["name"] for system in found["systems"]] == [f"onnx-tiny-model q{n}" for n in (2, 8)]
    for ours, theirs in zip(found["systems"], reference["systems"], strict=True):
        assert ours["summary"]["mel_distance"]["mean"] == pytest.approx(theirs["summary"]["mel_distance"]["mean"], 1e-3)
    assert_one_line_error(run(*measure, "--model", tiny_onnx, "--dtype", "float16"), tiny_onnx, "dtype", "exported")
    assert_one_line_error(run(*measure, "--model", tiny_onnx, "-q", 9), "num_quantizers", "9")
    assert_one_line_error(run(*measure, "--model", encoder_only_onnx), "encoder only")


def test_batches(tiny_onnx):
    exported, codec = OnnxCodec(tiny_onnx), streaming_codec()
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
def test_decode(tiny_onnx, seconds, count):
    codec = streaming_codec()
    codes = codec.encode(speech(seconds), 24000, num_quantizers=count)
    assert_close(OnnxCodec(tiny_onnx).decode(codes), codec.decode(codes))


@pytest.mark.parametrize("chunk", [1, 3, 25])
def test_decode_chunks(tiny_onnx, chunk):
    exported = OnnxCodec(tiny_onnx)
    codes = exported.encode(speech(2.03), 24000)
    pieces = [codes[i / 25 : (i + chunk) / 25] for i in range(0, codes.num_frames, chunk)]
    assert_close(np.concatenate(list(exported.decode_stream(pieces))), torch.from_numpy(exported.decode(codes)))


@pytest.mark.parametrize("kind", ["rfsq+convnext", "convnext-centred"])
@pytest.mark.slow
def test_each_kind(kind, tmp_path):
    """At once, in a batch and in chunks, against PyTorch; then int8, which leaves quantizers as they are.

    Every quantizer and vocoder is exported once. The steps of the encoder are those of "tiny" where the quantizer is.
    """
    codec, lines = streaming_codec(kind, shallow=True), []
    of_quantizer = codec.config.quantizer_type != "rvq"
    graphs = [name for name in codec_graphs(codec, 3) if of_quantizer or name != "encoder_step"]
    export_codec(codec, tmp_path / "x", graphs=graphs, check=lambda folder: check_codec(codec, folder, lines.append))
    assert lines[-1].startswith("in chunks of 1 s:") and len(lines) >= 9
    assert ("codes equal 100.00 %" in lines[-1]) == of_quantizer
    exported = OnnxCodec(tmp_path / "x")
    codes = exported.encode(speech(1.0), 24000, 3)
    assert_same_codes(codes, codec.encode(speech(1.0), 24000, 3))
    assert codes.codebook_sizes == codec.codebook_sizes and codes.model == codec.model_id
    for count in (1, 3):
        assert_close(exported.decode(codes.first(count)), codec.decode(codes.first(count)))
    if not of_quantizer:
        return
    export_codec(codec, tmp_path / "x", dtype="int8", graphs=("decoder",), overwrite=True)
    for product in onnx.load(tmp_path / "x" / "decoder.onnx").graph.node:
        scopes = [entry.value for entry in product.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        assert product.op_type != "MatMulInteger" or "quantizer" not in " ".join(scopes)


@pytest.mark.parametrize("num_samples", [1, 47999, 48000, 48001, 48300, 48721, 96000, 100000, 21 * 24000])
def test_segments(segmented_onnx, num_samples):
    """Codes of each segment for itself, from mel frames of the whole."""
    codec, exported, waveform = segmented_codec("codec_base"), OnnxCodec(segmented_onnx), speech(22.0)[:num_samples]
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
        codec, exported = segmented_codec(name), OnnxCodec(request.getfixturevalue("segmented_onnx"))
    else:
        codec, exported = any_codec(name), OnnxCodec(request.getfixturevalue("encoder_only_onnx"))
    found = compare(codec, exported, expected(name)[f"{case}.waveform"])
    print(name, found)
    assert len(found.differences) == found.num_ties
    assert found.error is None or found.error < 1e-4


def test_encoder_only(encoder_only_onnx):
    codec, exported, waveform = any_codec("codec_hybrid"), OnnxCodec(encoder_only_onnx), speech(3.0)
    codes = codec.encode(waveform, 24000, num_quantizers=codec.num_quantizers)
    assert_same_codes(exported.encode(waveform, 24000, codec.num_quantizers), codes)
    with pytest.raises(MimoError, match="is an encoder only"):
        exported.decode(codes)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least_equal"), [("float16", 0.9), ("int8", 0.3)])
def test_other_dtypes(dtype, least_equal, tmp_path, capsys, monkeypatch):
    """int8 as of graphs that are too large for one file: nothing of the wide weights stays."""
    codec, graphs = streaming_codec(shallow=True), ("encoder", "decoder")
    if dtype == "int8":
        monkeypatch.setattr(exporting, "MAX_INLINE_BYTES", 1000)
    export_codec(codec, tmp_path / "x", dtype=dtype, graphs=graphs)
    files = {f"{name}.onnx{suffix}" for name in graphs for suffix in ("", ".data") if not suffix or dtype == "int8"}
    assert {path.name for path in (tmp_path / "x").iterdir()} == files
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
    said = capsys.readouterr()
    assert dtype in said.out and "WARNING" not in said.err


def test_without_torch(tiny_onnx, tmp_path):
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
    done = subprocess.run([sys.executable, "-c", code, tiny_onnx, tmp_path / "x.wav"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.wav.out.wav").stat().st_size > 24000


# ---- sent to another process ----------------------------------------------------------------------------------------


def test_a_codec_and_its_states_can_be_pickled(tiny_onnx):
    """As to send them to another process: the copy loads its graphs for itself."""
    exported, codes = OnnxCodec(tiny_onnx), np.ones((8, 3), np.int64)
    state = exported.decode_chunk(codes)[1]
    copy, sent = pickle.loads(pickle.dumps((exported, state)))
    assert np.array_equal(copy.decode_chunk(codes, sent)[0], exported.decode_chunk(codes, state)[0])
