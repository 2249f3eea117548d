"""Every command that takes a codec takes an exported one: what it writes and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, make_speech
from exports import tiny_model
from goldens import streaming_codec

from mimo_codec import AudioCodes, load_audio, save_audio
from mimo_codec.cli import demo_server

pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from mimo_codec.onnx.codec import export as exporting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two short files, which make a batch, one of another rate, and one of more than a block."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seconds, rate in (("a", 0.7, 24000), ("b", 1.1, 24000), ("c", 0.9, 16000), ("long", 21.5, 24000)):
        save_audio(folder / f"{name}.wav", make_speech(seconds, rate, seed=len(name)), rate)
    return folder


def test_encode_and_decode(run, tmp_path, folder, tiny_onnx):
    """Into the same codes as by PyTorch, and from those into the same sound."""
    codes, wavs, codec = tmp_path / "codes", tmp_path / "wavs", streaming_codec()
    assert run("encode", folder, "-o", codes, "-m", tiny_onnx, "--device", "cpu", "--batch-seconds", 10) == (0, "", "")
    assert run("decode", codes, "-o", wavs, "-m", tiny_onnx) == (0, "", "")
    for name in ("a", "b", "c", "long"):
        found, expected = AudioCodes.load(codes / f"{name}.mimo"), codec.encode(folder / f"{name}.wav")
        assert np.array_equal(found.to_numpy(), expected.to_numpy()) and found.num_samples == expected.num_samples
        waveform, rate = load_audio(wavs / f"{name}.wav")
        assert rate == 24000 and (waveform - codec.decode(expected)).abs().max() < 2**-14


def test_codes_go_from_one_backend_to_the_other(run, tmp_path, folder, tiny_onnx):
    model = tiny_model(tiny_onnx)
    for encoder, decoder in ((model, tiny_onnx), (tiny_onnx, model)):
        assert run("encode", folder / "a.wav", "-o", tmp_path / "a.mimo", "-m", encoder, "--overwrite").code == 0
        assert run("decode", tmp_path / "a.mimo", "-o", tmp_path / "a.wav", "-m", decoder, "--overwrite").code == 0


def test_reconstruct(run, tmp_path, folder, tiny_onnx):
    done = run("reconstruct", folder / "a.wav", tmp_path / "a.flac", "-m", tiny_onnx, "-q", 3)
    assert done.code == 0 and done.out.startswith("0.700 s, 3 x 18 codes, 0.68 kbit/s, ")
    codec = streaming_codec()
    expected = codec.decode(codec.encode(folder / "a.wav", num_quantizers=3))
    assert (load_audio(tmp_path / "a.flac")[0] - expected).abs().max() < 2**-14


def test_the_default_number_of_codebooks(run, tmp_path, folder, encoder_only_onnx):
    """8 of 20; and all of a model that has fewer."""
    assert run("encode", folder / "a.wav", "-o", tmp_path / "a.mimo", "-m", encoder_only_onnx).code == 0
    assert AudioCodes.load(tmp_path / "a.mimo").num_quantizers == 8
    streaming_codec(shallow=True).save_pretrained(tmp_path / "small")
    assert run("encode", folder / "a.wav", "-o", tmp_path / "b.mimo", "-m", tmp_path / "small").code == 0
    assert AudioCodes.load(tmp_path / "b.mimo").num_quantizers == 3


def test_evaluate(run, folder, tiny_onnx):
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
    found, expected = (json.loads(run(*measure, "1", "-m", m).out) for m in (tiny_onnx, tiny_model(tiny_onnx)))
    assert [system["name"] for system in found["systems"]] == ["onnx-tiny-model q1", "onnx-tiny-model q8"]
    for ours, theirs in zip(found["systems"], expected["systems"], strict=True):
        assert ours["summary"]["mel_distance"]["mean"] == pytest.approx(theirs["summary"]["mel_distance"]["mean"], 1e-3)


def test_info(run, tiny_onnx, encoder_only_onnx):
    found, expected = (json.loads(run("info", m, "--json").out) for m in (tiny_onnx, tiny_model(tiny_onnx)))
    assert found["model"] == expected["model"] == "onnx-tiny-model"
    assert (found.pop("folder"), expected.pop("folder")) == (str(tiny_onnx), str(tiny_model(tiny_onnx)))
    assert found == expected
    alone = json.loads(run("info", encoder_only_onnx, "--json").out)
    assert alone["decoder_parameters"] is alone["decode_latency_seconds"] is None
    assert (alone["codebooks"], alone["streams_encode"], alone["streams_decode"]) == (20, False, False)


def test_demo_serves_exported_codecs_and_exports_others(run, monkeypatch, tmp_path, tiny_onnx):
    served = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo_server, "served_files", lambda page, folder: served.append(folder) or {})

    def interrupted(files: object, port: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_server, "make_server", interrupted)

    for option in ("--model", "-m", "--graphs"):
        assert run("demo", "--port", 0, option, tiny_onnx).code == 130
    assert served == [tiny_onnx] * 3
    monkeypatch.setattr(exporting, "write_graph", lambda graph, path, *_: path.write_bytes(b"graph"))
    streaming_codec(shallow=True).save_pretrained(tmp_path / "small")
    assert run("demo", "--port", 0, "-m", tmp_path / "small").code == 130
    assert served[-1].is_relative_to(tmp_path / "mimo-codec") and served[-1].name.startswith("small-")
    assert {path.name for path in served[-1].iterdir()} == {"encoder.onnx", "decoder.onnx"}


def test_what_is_refused(run, tmp_path, folder, tiny_onnx, encoder_only_onnx):
    encode = ("encode", folder / "a.wav", "-o", tmp_path / "x.mimo", "-m", tiny_onnx)
    assert_one_line_error(run(*encode, "--dtype", "float16"), tiny_onnx, "dtype", "exported")
    assert_one_line_error(run(*encode, "--device", "abacus"), "device: 'abacus' cannot be used", "cpu")
    assert_one_line_error(run(*encode, "-q", 9), "num_quantizers = 9", "ask for 1..8")
    streaming_codec().encode(torch.zeros(1000), 24000).save(tmp_path / "y.mimo")
    decode = ("decode", tmp_path / "y.mimo", "-o", tmp_path / "y.wav", "-m")
    assert_one_line_error(run(*decode, encoder_only_onnx), "encoder only")
    assert_one_line_error(run("reconstruct", folder, tmp_path / "z/", "-m", encoder_only_onnx), "encoder only")
    assert_one_line_error(
        run("evaluate", folder / "a.wav", "--baselines", "none", "-m", encoder_only_onnx), "encoder only"
    )
    assert_one_line_error(
        run("export", "codec", tiny_onnx, "-o", tmp_path / "again"), tiny_onnx, "holds an exported model"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "encoder.onnx").write_bytes(b"nonsense")
    for command in (["info"], ["encode", folder / "a.wav", "-o", tmp_path / "x.mimo", "-m"]):
        assert_one_line_error(run(*command, tmp_path / "broken"), "encoder.onnx", "cannot be loaded")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "in", "y.mimo"]
