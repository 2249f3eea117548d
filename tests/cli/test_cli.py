"""The command line: help, the shell, interrupts, and commands that describe models and files."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import assert_same_waveform, files, random_codes, speech
from conftest import Outcome, assert_one_line_error
from goldens import each_kind, streaming_codec

from mimo_codec import AudioCodes, save_audio


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """The command in a process of its own, interruptible even where the tests are not."""
    return subprocess.Popen(
        [sys.executable, "-m", "mimo_codec", *map(str, arguments)],
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[call-overload]
    )


def shell(*arguments: object) -> Outcome:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


# ---- the command itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["encode", "-h"], ["--version"]])
def test_help_and_version_do_without_torch(arguments):
    script = (
        "import sys; from mimo_codec.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith("[]\n")
    assert ("0.1" if "--version" in arguments else "Usage: mimo-codec") in done.stdout


def test_help_names_the_defaults(run):
    text = " ".join(run("encode", "--help").out.split())
    assert all(f"[default: {value}]" in text for value in ("8", "nano", "120.0", "float32"))


def test_usage_errors_are_one_line(run):
    assert_one_line_error(run("sing"), "sing")
    assert_one_line_error(run("encode"), "IN")
    assert_one_line_error(run("encode", "a.wav"), "--output")
    assert_one_line_error(run("encode", "a.wav", "-o", "b.mimo", "-q", "many"), "--num-quantizers")
    assert_one_line_error(run("encode", "a.wav", "-o", "b.mimo", "--loudly"), "--loudly")
    assert_one_line_error(run("train"), "RECIPE")


@pytest.mark.parametrize("module", ["typer", "mimo_codec.cli.coding"])
def test_interrupted_while_it_is_imported(module, tmp_path):
    """Ctrl-C in the first moments, before any command runs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    process = start("info", env={**os.environ, "PYTHONPATH": path})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "mimo-codec: error: interrupted\n")


def test_closed_stdout_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    process = start(stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 1


# ---- from the shell --------------------------------------------------------------------------------------------------


def test_shell_round_trip(tmp_path, tiny_folder, tiny_codec):
    source = speech(tmp_path / "speech.wav", seconds=1.7, rate=22050)
    encoded = shell("encode", source, "-o", tmp_path / "speech.mimo", "-m", tiny_folder)
    assert encoded == (0, "", "")
    codes = AudioCodes.load(tmp_path / "speech.mimo")
    assert codes == tiny_codec.encode(source)
    assert codes.num_samples == math.ceil(round(1.7 * 22050) * 24000 / 22050)

    decoded = shell("decode", tmp_path / "speech.mimo", "-o", tmp_path / "decoded.flac", "-m", tiny_folder)
    assert decoded == (0, "", "")
    assert_same_waveform(tmp_path / "decoded.flac", tiny_codec.decode(codes))

    rebuilt = shell("reconstruct", source, tmp_path / "new" / "rebuilt.wav", "-m", tiny_folder, "-q", 3)
    assert (rebuilt.code, rebuilt.err) == (0, "")
    assert rebuilt.out.startswith("1.700 s, 3 x 43 codes, 0.68 kbit/s, ") and rebuilt.out.count("\n") == 1
    assert_same_waveform(tmp_path / "new" / "rebuilt.wav", tiny_codec.decode(codes.first(3)))


def test_shell_error_has_no_traceback(tmp_path, tiny_folder):
    (tmp_path / "bad.wav").write_text("not audio")
    outcome = shell("encode", tmp_path / "bad.wav", "-o", tmp_path / "bad.mimo", "-m", tiny_folder)
    assert_one_line_error(outcome, "bad.wav: is not audio")


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "ended or hung before it could be interrupted"
        time.sleep(0.01)


def test_terminated_decode_leaves_nothing(tmp_path, tiny_folder, tiny_codec):
    random_codes(tiny_codec, 25 * 1800).save(tmp_path / "long.mimo")
    out = tmp_path / "out"
    process = start("decode", tmp_path / "long.mimo", "-o", out / "long.wav", "-m", tiny_folder)
    wait_until(lambda: any(path.stat().st_size > 10_000 for path in out.glob(".*.wav")), process)
    process.send_signal(signal.SIGTERM)
    outcome = Outcome(process.wait(60), *process.communicate())
    assert_one_line_error(outcome, "terminated", code=143)
    assert files(out) == []


def test_interrupted_encode_leaves_whole_files_only(tmp_path, tiny_folder):
    first = speech(tmp_path / "in" / "000.wav", seconds=2)
    num_files = 300
    for i in range(1, num_files):
        (tmp_path / "in" / f"{i:03}.wav").hardlink_to(first)
    out = tmp_path / "out"
    process = start("encode", tmp_path / "in", "-o", out, "-m", tiny_folder, "--batch-seconds", 1)
    wait_until(lambda: len(list(out.glob("[0-9]*.mimo"))) > 1, process)  # none of the temporary ones, .*.mimo
    process.send_signal(signal.SIGINT)
    outcome = Outcome(process.wait(60), *process.communicate())
    assert_one_line_error(outcome, "interrupted", code=130)
    written = files(out)
    assert 1 < len(written) < num_files and all(name.endswith(".mimo") and name[0] != "." for name in written)
    assert all(AudioCodes.load(out / name).num_samples == 48000 for name in written)


# ---- info, models, train ---------------------------------------------------------------------------------------------


def test_info_on_codes(run, tmp_path, tiny_codec):
    path = tmp_path / "x.mimo"
    random_codes(tiny_codec, 250).save(path)
    facts = json.loads(run("info", path, "--json").out)
    assert facts["duration_seconds"] == pytest.approx(10 - 123 / 24000)
    assert (facts["codebooks"], facts["frames"], facts["model"]) == (8, 250, tiny_codec.model_id)
    assert facts["nominal_bitrate_kbps"] == pytest.approx(1.55)
    size = path.stat().st_size
    assert facts["size_bytes"] == size
    assert facts["real_bitrate_kbps"] == pytest.approx(size * 8 / facts["duration_seconds"] / 1000)
    lines = {" ".join(line.split()) for line in run("info", path).out.splitlines()}
    assert {"duration 9.99488 s", "codebooks 8", "frames 250", "nominal bitrate 1.55 kbit/s"} <= lines


def test_info_on_audio(run, tmp_path):
    path = tmp_path / "x.flac"
    save_audio(path, torch.zeros(2, 8000), 16000)
    facts = json.loads(run("info", path, "--json").out)
    assert facts["duration_seconds"] == 0.5 and facts["sample_rate_hz"] == 16000
    assert facts["channels"] == 2 and facts["format"] == "FLAC/PCM_16"
    assert "sample rate           16,000 Hz" in run("info", path).out.splitlines()


def test_info_on_a_model(run, tiny_folder, tiny_codec):
    facts = json.loads(run("info", tiny_folder, "--json").out)
    assert facts["encoder_parameters"] == sum(p.numel() for p in tiny_codec.encoder.parameters())
    assert facts["decoder_parameters"] == sum(p.numel() for p in tiny_codec.decoder.parameters())
    assert facts["quantizer_parameters"] == 64 * (2 * 1024 + 6 * 128)
    assert (facts["quantizer"], facts["vocoder"]) == ("rvq", "transformer")
    assert facts["encode_latency_seconds"] == tiny_codec.encode_latency
    assert facts["decode_latency_seconds"] == tiny_codec.decode_latency
    assert facts["streams_encode"] and facts["streams_decode"]
    assert (facts["dtype"], facts["folder"], facts["codebooks"]) == ("float32", str(tiny_folder), 8)
    assert "streams decode        yes" in run("info", tiny_folder).out.splitlines()


@each_kind
def test_info_on_each_kind(run, tmp_path, kind):
    codec = streaming_codec(kind)
    codec.save_pretrained(tmp_path / "model")
    facts = json.loads(run("info", tmp_path / "model", "--json").out)
    assert (facts["quantizer"], facts["vocoder"]) == (codec.config.quantizer_type, codec.config.vocoder_type)
    assert facts["codebook_sizes"] == list(codec.codebook_sizes)
    assert facts["quantizer_parameters"] == codec.quantizer.num_weights
    assert facts["decoder_parameters"] == sum(p.numel() for p in codec.decoder.parameters())
    assert facts["decode_latency_seconds"] == codec.decode_latency and facts["streams_decode"]


def test_info_on_nothing(run, tmp_path):
    missing = os.path.relpath(tmp_path / "missing.wav")
    assert_one_line_error(run("info", missing), missing, "no such file")
    assert_one_line_error(run("info", "folder/missing.mimo"), "missing.mimo")
    assert_one_line_error(run("info", tmp_path), tmp_path, "config.json")
    assert_one_line_error(run("info", "giant"), "'giant'", "XiaomiMiMo/MiMo-Audio-Tokenizer")
    assert_one_line_error(run("info", "x" * 5000))


def test_models_lists_shipped_cached_and_presets(run, tiny_folder, monkeypatch):
    monkeypatch.setattr("mimo_codec.codec.checkpoint.shipped_models", lambda: {"tiny": tiny_folder})
    monkeypatch.setattr("mimo_codec.codec.checkpoint.cached_models", lambda: {"owner/name": Path("/cache/name")})
    rows = [line.split(maxsplit=2) for line in run("models").out.splitlines()]
    assert rows[:2] == [["shipped", "tiny", str(tiny_folder)], ["cached", "owner/name", "/cache/name"]]
    assert ["preset", "mimo"] in [row[:2] for row in rows]


def test_train_hands_its_arguments_over(run, monkeypatch):
    calls = []
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # and what the user chose stays
    monkeypatch.setattr("mimo_codec.train.run.train", lambda *words, all_cores, plan: calls.append((*words, all_cores)))
    assert run("train", "recipe.yaml", "--data.root", "x", "--trainer.max_steps", "10").code == 0
    assert run("train", "recipe.yaml", "--help", "-q").code == 0
    assert calls == [
        ("recipe.yaml", ["--data.root", "x", "--trainer.max_steps", "10"], True),
        ("recipe.yaml", ["--help", "-q"], True),
    ]
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "RECIPE" in run("train", "--help").out and len(calls) == 2


def test_train_needs_a_recipe_that_is_there(run):
    assert_one_line_error(run("train", "no-such-recipe"), "no-such-recipe")
