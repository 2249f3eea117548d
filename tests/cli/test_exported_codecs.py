"""Every command that takes a codec takes an exported one: what it writes and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, make_speech
from exports import exported_once, tiny_export, tiny_model
from goldens import any_codec, streaming_codec

from mimo_codec import AudioCodes, load_audio, save_audio
from mimo_codec.cli import demo_server

pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from mimo_codec.onnx.codec.export import export_codec


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export(tmp_path_factory)


@pytest.fixture(scope="module")
def encoder_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = any_codec("codec_hybrid")
    return exported_once(tmp_path_factory, "hybrid", lambda place: export_codec(codec, place, num_quantizers=20))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two short files, which make a batch, one of another rate, and one of more than a block."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seconds, rate in (("a", 0.7, 24000), ("b", 1.1, 24000), ("c", 0.9, 16000), ("long", 21.5, 24000)):
        save_audio(folder / f"{name}.wav", make_speech(seconds, rate, seed=len(name)), rate)
    return folder


def test_encode_and_decode(run, tmp_path, folder, graphs):
    """Into the same codes as by PyTorch, and from those into the same sound."""
    codes, wavs, codec = tmp_path / "codes", tmp_path / "wavs", streaming_codec()
    assert run("encode", folder, "-o", codes, "-m", graphs, "--device", "cpu", "--batch-seconds", 10) == (0, "", "")
    assert run("decode", codes, "-o", wavs, "-m", graphs) == (0, "", "")
    for name in ("a", "b", "c", "long"):
        found, expected = AudioCodes.load(codes / f"{name}.mimo"), codec.encode(folder / f"{name}.wav")
        assert np.array_equal(found.to_numpy(), expected.to_numpy()) and found.num_samples == expected.num_samples
        waveform, rate = load_audio(wavs / f"{name}.wav")
        assert rate == 24000 and (waveform - codec.decode(expected)).abs().max() < 2**-14


def test_codes_go_from_one_backend_to_the_other(run, tmp_path, folder, graphs):
    model = tiny_model(graphs)
    for encoder, decoder in ((model, graphs), (graphs, model)):
        assert run("encode", folder / "a.wav", "-o", tmp_path / "a.mimo", "-m", encoder, "--overwrite").code == 0
        assert run("decode", tmp_path / "a.mimo", "-o", tmp_path / "a.wav", "-m", decoder, "--overwrite").code == 0


def test_reconstruct(run, tmp_path, folder, graphs):
    done = run("reconstruct", folder / "a.wav", tmp_path / "a.flac", "-m", graphs, "-q", 3)
    assert done.code == 0 and done.out.startswith("0.700 s, 3 x 18 codes, 0.68 kbit/s, ")
    codec = streaming_codec()
    expected = codec.decode(codec.encode(folder / "a.wav", num_quantizers=3))
    assert (load_audio(tmp_path / "a.flac")[0] - expected).abs().max() < 2**-14


def test_the_default_number_of_codebooks(run, tmp_path, folder, encoder_only):
    """8 of 20; and all of a model that has fewer."""
    assert run("encode", folder / "a.wav", "-o", tmp_path / "a.mimo", "-m", encoder_only).code == 0
    assert AudioCodes.load(tmp_path / "a.mimo").num_quantizers == 8
    streaming_codec(shallow=True).save_pretrained(tmp_path / "small")
    assert run("encode", folder / "a.wav", "-o", tmp_path / "b.mimo", "-m", tmp_path / "small").code == 0
    assert AudioCodes.load(tmp_path / "b.mimo").num_quantizers == 3


def test_evaluate(run, folder, graphs):
    measure = (
        "evaluate",
        folder / "a.wav",
        "--metrics",
        "mel_distance",
        "--baselines",
        "none",
        "--json",
        "--codebooks",
    )
    found, expected = (json.loads(run(*measure, "1", "-m", m).out) for m in (graphs, tiny_model(graphs)))
    assert [system["name"] for system in found["systems"]] == ["onnx-tiny-model q1", "onnx-tiny-model q8"]
    for ours, theirs in zip(found["systems"], expected["systems"], strict=True):
        assert ours["summary"]["mel_distance"]["mean"] == pytest.approx(theirs["summary"]["mel_distance"]["mean"], 1e-3)


def test_info(run, graphs, encoder_only):
    found, expected = (json.loads(run("info", m, "--json").out) for m in (graphs, tiny_model(graphs)))
    assert found["model"] == expected["model"] == "onnx-tiny-model"
    assert (found.pop("folder"), expected.pop("folder")) == (str(graphs), str(tiny_model(graphs)))
    assert found == expected
    alone = json.loads(run("info", encoder_only, "--json").out)
    assert alone["decoder_parameters"] is alone["decode_latency_seconds"] is None
    assert (alone["codebooks"], alone["streams_encode"], alone["streams_decode"]) == (20, False, False)


def test_demo_serves_exported_codecs_and_exports_others(run, monkeypatch, tmp_path, graphs):
    served = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo_server, "served_files", lambda page, folder: served.append(folder) or {})

    def interrupted(files: object, port: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_server, "make_server", interrupted)

    for option in ("--model", "-m", "--graphs"):
        assert run("demo", "--port", 0, option, graphs).code == 130
    assert served == [graphs] * 3
    streaming_codec(shallow=True).save_pretrained(tmp_path / "small")
    assert run("demo", "--port", 0, "-m", tmp_path / "small").code == 130
    assert served[-1].is_relative_to(tmp_path / "mimo-codec") and served[-1].name.startswith("small-")
    assert {path.name for path in served[-1].iterdir()} == {"encoder.onnx", "decoder.onnx"}


def test_what_is_refused(run, tmp_path, folder, graphs, encoder_only):
    encode = ("encode", folder / "a.wav", "-o", tmp_path / "x.mimo", "-m", graphs)
    assert_one_line_error(run(*encode, "--dtype", "float16"), graphs, "dtype", "exported")
    assert_one_line_error(run(*encode, "--device", "abacus"), "device: 'abacus' cannot be used", "cpu")
    assert_one_line_error(run(*encode, "-q", 9), "num_quantizers = 9", "ask for 1..8")
    streaming_codec().encode(torch.zeros(1000), 24000).save(tmp_path / "y.mimo")
    decode = ("decode", tmp_path / "y.mimo", "-o", tmp_path / "y.wav", "-m")
    assert_one_line_error(run(*decode, encoder_only), "encoder only")
    assert_one_line_error(run("reconstruct", folder, tmp_path / "z/", "-m", encoder_only), "encoder only")
    assert_one_line_error(run("evaluate", folder / "a.wav", "--baselines", "none", "-m", encoder_only), "encoder only")
    assert_one_line_error(run("export", "codec", graphs, "-o", tmp_path / "again"), graphs, "holds an exported model")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "encoder.onnx").write_bytes(b"nonsense")
    for command in (["info"], ["encode", folder / "a.wav", "-o", tmp_path / "x.mimo", "-m"]):
        assert_one_line_error(run(*command, tmp_path / "broken"), "encoder.onnx", "cannot be loaded")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "in", "y.mimo"]
