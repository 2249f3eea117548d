"""The benchmark commands at their smallest: the tables parse, the figures are possible, bad input is one line."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from goldens import streaming_codec

from mimo_codec import CodecConfig, MimoError
from mimo_codec.benchmarks import codec as benchmark


def run(*arguments: str, module: str = "mimo_codec.benchmarks.codec") -> subprocess.CompletedProcess[str]:
    """In a process of its own, because a child's peak memory begins at that of the process that starts it."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def table(output: str, first_column: str) -> list[dict[str, str]]:
    """The rows of the one table in `output`, keyed by its header."""
    lines = [re.split(r"\s{2,}", line) for line in output.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[0] == first_column)
    return [dict(zip(lines[start], line, strict=True)) for line in lines[start + 1 :]]


def test_speed(tiny_folder, tiny_codec):
    done = run("speed", "--models", str(tiny_folder), "--seconds", "1", "--repeats", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    (row,) = table(done.stdout, "model")
    assert row.pop("model") == str(tiny_folder)
    num_parameters = sum(p.numel() for p in tiny_codec.parameters())
    assert float(row["parameters (M)"]) == pytest.approx(num_parameters / 1e6, abs=0.05)
    for direction in ("encode", "decode"):
        assert 0 < float(row[f"{direction} min"]) <= float(row[f"{direction} median"])
    assert 50 < float(row["peak (MB)"]) < 4000  # torch alone needs more than 50 MB, tiny next to nothing


def test_stream(tiny_folder, tiny_codec):
    done = run("stream", "--model", str(tiny_folder), "--seconds", "0.4,1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout, "stream")
    expected = [(length, direction) for length in ("0.4 s", "1 s") for direction in ("encode", "decode", "both")]
    assert [(row["stream"], row["direction"]) for row in rows] == expected
    for row in rows:
        whole = float(row["whole"])
        assert whole > 0
        assert float(row["first 10 s"]) == float(row["last 10 s"]) == whole  # both are the whole of so short a stream
        if row["direction"] == "both":
            continue
        latency = tiny_codec.encode_latency if row["direction"] == "encode" else tiny_codec.decode_latency
        assert float(row["latency (ms)"]) == pytest.approx(1000 * latency, abs=0.5)


@pytest.mark.slow
def test_runtimes(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    streaming_codec(shallow=True).save_pretrained(tmp_path / "x")
    arguments = str(tmp_path / "x"), "--seconds", "1,0.5", "--repeats", "1", "--threads", "1"
    done = run(*arguments, "--runtimes", "eager,float32", module="mimo_codec.benchmarks.onnx")
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout, "runtime")
    expected = [("eager", "0.5"), ("float32", "0.5"), ("eager", "1"), ("float32", "1")]
    assert [(row["runtime"], row["seconds"]) for row in rows] == expected
    assert all(
        0 < float(row[f"{part} min"]) == float(row[f"{part} median"]) for row in rows for part in ("encode", "decode")
    )
    done = run(*arguments, "--runtimes", "eager,rocket", module="mimo_codec.benchmarks.onnx")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "rocket" in done.stderr


def test_language_model():
    pytest.importorskip("transformers", reason="needs the lm extra")
    small = "--shapes", "tiny", "--num-prompt", "3", "--num-new", "3", "--threads", "1", "--device", "cpu"
    done = run(*small, "--batch-sizes", "1,3", "--no-compiled", module="mimo_codec.benchmarks.lm")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["eager", "1"], ["eager", "3"]]
    assert all(float(row[3]) > 0 and 0 < int(row[5].rstrip("%")) <= 100 for row in rows)
    done = run(*small, "--dtype", "float8", module="mimo_codec.benchmarks.lm")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "float8" in done.stderr


@pytest.mark.slow
def test_memory(tiny_folder):
    done = run("memory", "--model", str(tiny_folder), "--minutes", "0.1,0.05")
    assert done.returncode == 0, done.stderr
    shortest, longest, ratio = table(done.stdout, "length")
    assert (shortest["length"], longest["length"], ratio["length"]) == ("0.05 min", "0.1 min", "longest/shortest")
    for direction in ("encode", "decode"):
        low, high = float(shortest[direction]), float(longest[direction])
        assert min(low, high) > 50
        assert float(ratio[direction]) == pytest.approx(high / low, abs=0.02)  # the printed peaks are rounded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("speed", "--models", "no-such-model", "--seconds", "0.1"), "unknown model 'no-such-model'"),
        (("memory", "--minutes", "5,many"), "--minutes '5,many'"),
        (("memory", "--minutes", "nan"), "--minutes 'nan'"),
        (("stream", "--seconds", "0"), "--seconds '0'"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and message in done.stderr
    assert done.stdout == ""


def test_command_failure_names_the_reason():
    with pytest.raises(benchmark.MimoError, match="^mimo-codec decode failed: .*--output"):
        benchmark._command_peak("decode", "speech.mimo")


@pytest.mark.parametrize("name", benchmark.RIVALS)
def test_missing_transformers_names_the_extra(monkeypatch, name):
    monkeypatch.setattr(benchmark, "find_spec", lambda _: None)
    with pytest.raises(benchmark.MimoError, match=rf"^{name}: .*'mimo-codec\[lm\]'"):
        benchmark.speed(f"no-such-model,{name}")


def cut_down_mimo() -> benchmark.Subject:
    config = CodecConfig.preset("mimo").replace(
        d_model=80, encoder_layers=3, encoder_ffn_dim=160, decoder_layers=1, decoder_ffn_dim=160, vocoder_num_layers=1
    )
    return benchmark._own(benchmark._random_codec(config))


@pytest.mark.parametrize(
    ("build", "ids_of"),
    [
        pytest.param(cut_down_mimo, lambda codes: codes.codes, id="mimo"),
        pytest.param(benchmark._mimi, lambda codes: codes, id="mimi"),
        pytest.param(benchmark._encodec, lambda codes: codes.audio_codes, id="encodec"),
    ],
)
def test_subjects_code_and_decode(build, ids_of):
    if build is not cut_down_mimo:
        pytest.importorskip("transformers", reason="the extra lm is not installed")
    torch.manual_seed(0)
    codec = build()
    speech = torch.from_numpy(next(benchmark.make_speech(0.5, benchmark.SAMPLE_RATE)))
    with torch.no_grad():
        codes = codec.encode(speech)
        waveform = codec.decode(codes)
    ids = ids_of(codes)
    assert ids.shape[-2] == 8  # 6 kbit/s of EnCodec are 8 codebooks too
    assert len(ids.unique()) > 1  # codebooks of zeros choose entry 0 everywhere
    assert len(speech) <= len(waveform) < len(speech) + benchmark.SAMPLE_RATE // 10
    assert waveform.isfinite().all() and waveform.std() > 0
    assert codec.num_parameters > 0


def test_full_size_has_the_released_number_of_parameters():
    with torch.device("meta"):
        codec = benchmark._own(benchmark._random_codec(CodecConfig.preset("mimo")))
    assert codec.num_parameters == pytest.approx(1.285e9, rel=1e-3)


def test_speech_does_not_depend_on_blocks():
    whole = np.concatenate(list(benchmark.make_speech(1.23, 8000)))
    blocks = list(benchmark.make_speech(1.23, 8000, block_seconds=0.04))
    assert len(whole) == 9840 and len(blocks[0]) == 320
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert 0.02 < whole.std() < 0.5 and np.abs(whole).max() < 1


def test_peaks_start_low():
    """The process that starts the measured ones must stay small, so it may not import torch."""
    code = "import sys, mimo_codec.benchmarks.codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_training_of_one_setting(speech_folder, monkeypatch, capsys):
    training = pytest.importorskip("mimo_codec.benchmarks.training")
    pytest.importorskip("lightning", reason="needs the train extra")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = (
        *training.ONE_PROCESS,
        *training.NO_WORKER,
        "--model.init_args.preset",
        "tiny",
        "--data.batch_size",
        "2",
        "--data.text_batch_size",
        "0",
    )
    slower = ("fused attention", "Muon in every process")
    monkeypatch.setattr(training, "SETTINGS", (training.Setting("small", arguments, slower, busy=True),))
    training.compare(speech_folder, rounds=1)
    header, row = capsys.readouterr().out.splitlines()
    assert "median" in header and row.startswith("small") and float(row.split()[-1]) > 0
    wrong = training.Setting("wrong", ("--data.batch_size", "0"))
    with pytest.raises(MimoError, match="wrong: .*batch_size"):
        training._measure(wrong, speech_folder)
