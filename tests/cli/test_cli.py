"""The command line: what it writes where, what it refuses and how, and that nothing half-written stays behind."""

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

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import Outcome, assert_one_line_error, make_speech
from goldens import each_kind, streaming_codec
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec import AudioCodes, CodecConfig, MimoCodec, load_audio, save_audio
from mimo_codec.audio.formats import AUDIO, WRITABLE
from mimo_codec.audio.writer import AudioWriter
from mimo_codec.cli.batch import _batches
from mimo_codec.cli.plan import Job

LSB = 2**-15
"""Step of a 16-bit file: waveforms that agree within 1e-5 may round to neighbours."""


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


def speech(path: Path, seconds: float = 1.0, rate: int = 24000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, make_speech(seconds, rate, seed), rate)
    return path


def files(folder: Path) -> list[str]:
    """Everything below a folder that is not a folder, hidden files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def assert_same_waveform(path: Path, expected: torch.Tensor, tolerance: float = 2 * LSB) -> None:
    waveform, rate = load_audio(path)
    assert rate == 24000 and len(waveform) == len(expected)
    assert (waveform - expected.clamp(-1, 1)).abs().max() < tolerance


def random_codes(codec: MimoCodec, num_frames: int, seed: int = 0) -> AudioCodes:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(size, (num_frames,), generator=generator) for size in codec.codebook_sizes]
    num_samples = num_frames * 960 - 123
    return AudioCodes(torch.stack(rows), num_samples, 24000, 25.0, codec.codebook_sizes, codec.model_id)


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


# ---- many files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    speech(root / "b.wav", 0.4)
    speech(root / "a" / "b.FLAC", 1.1, 16000, seed=1)
    speech(root / "a" / "c" / "d.e.ogg", 2.3, 44100, seed=2)
    speech(root / "a" / "long.wav", 4.5, seed=3)
    speech(root / ".hidden" / "b.wav", 0.1)
    (root / "a" / ".b.wav").write_bytes(b"of another program")
    (root / "notes.txt").write_text("no audio")
    return root


NAMES = ["a/b", "a/c/d.e", "a/long", "b"]


def test_tree_is_mirrored_and_batches_equal_files_alone(run, tmp_path, tree, tiny_folder, tiny_codec, monkeypatch):
    batch_sizes = []
    encode_batch = MimoCodec.encode_batch

    def counted(self, audio, *args, **kwargs):
        batch_sizes.append(len(audio))
        return encode_batch(self, audio, *args, **kwargs)

    monkeypatch.setattr(MimoCodec, "encode_batch", counted)
    out = tmp_path / "out"
    assert run("encode", tree, "-o", out, "-m", tiny_folder, "--batch-seconds", 4) == (0, "", "")
    assert files(out) == [f"{name}.mimo" for name in NAMES]
    assert batch_sizes == [2]  # 4.5 s and 2.3 s alone
    alone = {Path(path).stem: tiny_codec.encode(tree / path) for path in ("b.wav", "a/long.wav", "a/c/d.e.ogg")}
    assert AudioCodes.load(out / "b.mimo") == alone["b"]
    assert AudioCodes.load(out / "a" / "b.mimo") == tiny_codec.encode(tree / "a" / "b.FLAC")
    assert AudioCodes.load(out / "a" / "c" / "d.e.mimo") == alone["d.e"]
    assert AudioCodes.load(out / "a" / "long.mimo") == alone["long"]

    assert run("decode", out, "-o", tmp_path / "wavs", "-m", tiny_folder, "--format", "flac") == (0, "", "")
    assert files(tmp_path / "wavs") == [f"{name}.flac" for name in NAMES]
    for name in NAMES:
        expected = tiny_codec.decode(AudioCodes.load(out / f"{name}.mimo"))
        assert_same_waveform(tmp_path / "wavs" / f"{name}.flac", expected)


def test_codes_may_lie_beside_the_audio(run, tree, tiny_folder):
    before = files(tree)
    assert run("encode", tree, "-o", tree, "-m", tiny_folder).code == 0
    assert files(tree) == sorted([*before, *(f"{name}.mimo" for name in NAMES)])


def test_several_files_and_a_folder(run, tmp_path, tiny_folder):
    inputs = [speech(tmp_path / "x.wav"), speech(tmp_path / "y.flac"), speech(tmp_path / "in" / "z.wav").parent]
    assert run("encode", *inputs, "-o", tmp_path / "out", "-m", tiny_folder) == (0, "", "")
    assert files(tmp_path / "out") == ["x.mimo", "y.mimo", "z.mimo"]


@pytest.mark.parametrize("existing", [False, True])
def test_one_file_into_a_folder(run, tmp_path, tiny_folder, existing):
    source, out = speech(tmp_path / "x.wav"), tmp_path / "out"
    if existing:
        out.mkdir()
    assert run("encode", source, "-o", out if existing else f"{out}/", "-m", tiny_folder) == (0, "", "")
    assert files(out) == ["x.mimo"]


def test_reconstruct_keeps_every_length(run, tmp_path, tiny_folder):
    lengths = {"one": (1, 16000), "hop": (239, 8000), "frame": (960, 24000), "odd": (12345, 11025), "cd": (7777, 44100)}
    (tmp_path / "in").mkdir()
    for name, (num_samples, rate) in lengths.items():
        save_audio(tmp_path / "in" / f"{name}.wav", make_speech(2, rate)[:num_samples], rate)
    outcome = run("reconstruct", tmp_path / "in", tmp_path / "out", "-m", tiny_folder)
    assert outcome == (0, "", "")
    for name, (num_samples, rate) in lengths.items():
        waveform, new_rate = load_audio(tmp_path / "out" / f"{name}.wav")
        assert (len(waveform), new_rate) == (math.ceil(num_samples * 24000 / rate), 24000)


@given(
    st.lists(st.one_of(st.floats(0, 300), st.just(math.inf)), min_size=1, max_size=30),
    st.floats(0.1, 1000),
)
def test_batches_hold_every_job_once_within_the_limit(seconds, most):
    lengths = {Job(Path(str(i)), Path("out")): length for i, length in enumerate(seconds)}
    batches = list(_batches(lengths, most))
    assert sorted(str(job.source) for batch in batches for job in batch) == sorted(map(str, range(len(seconds))))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[job] for job in batch) <= most


def test_progress_shows_on_a_terminal_only(run, tmp_path, tiny_folder, monkeypatch):
    speech(tmp_path / "in" / "x.wav")
    bad = tmp_path / "in" / f"{'long' * 20}.wav"
    bad.write_text("not audio")
    arguments = ["encode", tmp_path / "in", "-o", tmp_path / "out", "-m", tiny_folder, "--overwrite"]
    assert "2/2" not in run(*arguments).err
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    outcome = run(*arguments)
    assert "encode 2/2" in outcome.err and outcome.code == 1
    assert f"mimo-codec: error: {bad}: is not audio" in outcome.err


def test_the_formats_offered_are_those_that_can_be_written(run):
    assert set(WRITABLE) <= set(AUDIO)
    offered = run("decode", "--help").out
    assert all(suffix.removeprefix(".") in offered for suffix in WRITABLE)


# ---- long files ------------------------------------------------------------------------------------------------------


def test_long_codes_are_decoded_and_written_in_pieces(run, tmp_path, tiny_folder, tiny_codec, monkeypatch):
    sizes = []
    write = AudioWriter.write

    def counted(self, waveform):
        sizes.append(len(waveform))
        write(self, waveform)

    monkeypatch.setattr(AudioWriter, "write", counted)
    codes = random_codes(tiny_codec, 25 * 45)
    codes.save(tmp_path / "x.mimo")
    assert run("decode", tmp_path / "x.mimo", "-o", tmp_path / "x.wav", "-m", tiny_folder).code == 0
    assert sum(sizes) == codes.num_samples and max(sizes) <= 21 * 24000
    assert_same_waveform(tmp_path / "x.wav", tiny_codec.decode(codes))


def test_models_that_do_not_stream_decode_segment_by_segment(run, tmp_path):
    torch.manual_seed(1)
    codec = MimoCodec(CodecConfig.preset("tiny").replace(decoder_conv_norm="group", segment_seconds=1)).eval()
    codec.save_pretrained(tmp_path / "model")
    source = speech(tmp_path / "x.wav", 3.4)
    model = ["-m", tmp_path / "model"]
    assert run("encode", source, "-o", tmp_path / "x.mimo", *model).code == 0
    assert run("decode", tmp_path / "x.mimo", "-o", tmp_path / "y.wav", *model).code == 0
    codes = AudioCodes.load(tmp_path / "x.mimo")
    assert torch.equal(torch.as_tensor(codes.codes), torch.as_tensor(codec.encode(source).codes))
    assert_same_waveform(tmp_path / "y.wav", codec.decode(codec.encode(source)))


# ---- what is refused before work starts ------------------------------------------------------------------------------


def test_two_inputs_with_one_output(run, tmp_path, tiny_folder):
    wav, flac = speech(tmp_path / "in" / "b.wav"), speech(tmp_path / "in" / "b.flac")
    out = tmp_path / "out"
    assert_one_line_error(run("encode", wav.parent, "-o", out, "-m", tiny_folder), wav, flac, out / "b.mimo")
    assert_one_line_error(run("encode", wav, wav, "-o", out, "-m", tiny_folder), wav)
    assert not out.exists()


def test_existing_outputs_need_overwrite(run, tmp_path, tiny_folder, tiny_codec):
    sources = [speech(tmp_path / "in" / f"{name}.wav", 0.5, seed=seed) for seed, name in enumerate("abc")]
    out = tmp_path / "out"
    out.mkdir()
    for name in "ab":
        (out / f"{name}.mimo").write_text("mine")
    arguments = ["encode", *sources, "-o", out, "-m", tiny_folder]
    assert_one_line_error(run(*arguments), out / "a.mimo", "1 more of 3", "--overwrite")
    assert files(out) == ["a.mimo", "b.mimo"] and (out / "a.mimo").read_text() == "mine"
    assert_one_line_error(run("encode", sources[0], "-o", out / "a.mimo", "-m", tiny_folder), "--overwrite")
    assert run(*arguments, "--overwrite") == (0, "", "")
    assert AudioCodes.load(out / "b.mimo") == tiny_codec.encode(sources[1])


def test_inputs_are_never_overwritten(run, tmp_path, tiny_folder):
    source = speech(tmp_path / "in" / "x.wav")
    before = source.read_bytes()
    options = ["-m", tiny_folder, "--overwrite"]
    assert_one_line_error(run("reconstruct", source, source, *options), "is an input")
    assert_one_line_error(run("reconstruct", source.parent, source.parent, *options), "inside")
    assert_one_line_error(run("reconstruct", source.parent, source.parent / "out", *options), "inside")
    assert source.read_bytes() == before and files(tmp_path) == ["in/x.wav"]


def test_outputs_that_cannot_be_written(run, tmp_path, tiny_folder):
    source = speech(tmp_path / "x.wav")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "x.mimo").mkdir(parents=True)
    model = ["-m", tiny_folder]
    assert_one_line_error(run("encode", source, "-o", tmp_path / "y.txt", *model), "y.txt", ".mimo")
    assert_one_line_error(run("decode", source, "-o", tmp_path / "y.aac", *model), "y.aac", ".flac")
    assert_one_line_error(run("encode", source, "-o", f"{tmp_path / 'file'}/", *model), "file: cannot make")
    assert_one_line_error(run("encode", source, "-o", tmp_path / "file" / "y.mimo", *model), "file: cannot make")
    assert_one_line_error(run("encode", source, "-o", tmp_path / "out", *model), "x.mimo is a folder")
    assert_one_line_error(run("decode", tmp_path, "-o", tmp_path / "new", "--format", "aac", *model), "'aac'", "ogg")
    assert (tmp_path / "file").read_text() == "mine"
    assert files(tmp_path) == ["file", "x.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(run, tmp_path, tiny_folder):
    source, out = speech(tmp_path / "x.wav"), tmp_path / "out"
    out.mkdir(mode=0o500)
    assert_one_line_error(run("encode", source, "-o", out, "-m", tiny_folder), out, "permission")


def test_folders_without_files(run, tmp_path, tiny_folder):
    assert_one_line_error(run("encode", tmp_path, "-o", tmp_path / "out", "-m", tiny_folder), tmp_path, ".flac")
    assert_one_line_error(run("decode", tmp_path, "-o", tmp_path / "out", "-m", tiny_folder), tmp_path, ".mimo")


def test_options_that_do_not_fit(run, tmp_path, tiny_folder):
    speech(tmp_path / "in" / "x.wav")
    speech(tmp_path / "in" / "y.wav")
    arguments = ["encode", tmp_path / "in", "-o", tmp_path / "out"]
    model = ["-m", tiny_folder]
    assert_one_line_error(run(*arguments, "-m", "giant"), "'giant'", "XiaomiMiMo/MiMo-Audio-Tokenizer")
    assert_one_line_error(run(*arguments, *model, "-q", 9), "9", "8 codebooks")
    assert_one_line_error(run(*arguments, *model, "-q", 0), "0")
    assert_one_line_error(run(*arguments, *model, "--batch-seconds", "nan"), "nan")
    assert_one_line_error(run(*arguments, *model, "--dtype", "int8"), "int8", "bfloat16")
    assert_one_line_error(run(*arguments, *model, "--device", "abacus"), "abacus")
    assert files(tmp_path) == ["in/x.wav", "in/y.wav"]


# ---- bad files -------------------------------------------------------------------------------------------------------


def write_bad(folder: Path) -> dict[str, str]:
    """Bad files by name, and a word of what is said about each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is not audio")
    nan = np.full(12000, 0.1, dtype=np.float32)
    nan[500] = np.nan
    sf.write(folder / "nan.wav", nan, 24000, subtype="FLOAT")
    sf.write(folder / "silent.wav", nan[:0], 24000)
    return {"empty.wav": "empty", "text.wav": "not audio", "nan.wav": "sample 500 is NaN", "silent.wav": "no samples"}


def test_bad_files_do_not_stop_the_others(run, tmp_path, tiny_folder, tiny_codec):
    bad = write_bad(tmp_path / "in")
    good = [speech(tmp_path / "in" / f"good{i}.wav", 0.3 + i / 10, seed=i) for i in range(3)]
    out = tmp_path / "out"
    missing = tmp_path / "missing.wav"
    outcome = run("encode", tmp_path / "in", missing, "-o", out, "-m", tiny_folder)
    *lines, summary = outcome.err.splitlines()
    assert outcome.code == 1 and summary == "mimo-codec: error: 5 of 8 files failed"
    for path, words in [(tmp_path / "in" / name, words) for name, words in bad.items()] + [(missing, "no such file")]:
        assert sum(line.startswith(f"mimo-codec: error: {path}:") and words in line for line in lines) == 1
    assert len(lines) == 5
    assert files(out) == ["good0.mimo", "good1.mimo", "good2.mimo"]
    assert all(AudioCodes.load(out / f"{path.stem}.mimo") == tiny_codec.encode(path) for path in good)

    outcome = run("reconstruct", tmp_path / "in", tmp_path / "wavs", "-m", tiny_folder)
    assert outcome.code == 1 and "4 of 7 files failed" in outcome.err
    assert files(tmp_path / "wavs") == ["good0.wav", "good1.wav", "good2.wav"]


def test_a_single_bad_file_is_one_line(run, tmp_path, tiny_folder):
    for name, words in write_bad(tmp_path).items():
        outcome = run("encode", tmp_path / name, "-o", tmp_path / "out" / "x.mimo", "-m", tiny_folder)
        assert_one_line_error(outcome, tmp_path / name, words)
    outcome = run("encode", tmp_path / "two\nlines.wav", "-o", tmp_path / "out" / "x.mimo", "-m", tiny_folder)
    assert_one_line_error(outcome, "two lines.wav", "no such file")
    assert files(tmp_path / "out") == []


def test_bad_codes(run, tmp_path, tiny_folder, tiny_codec):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    codes = random_codes(tiny_codec, 10)
    codes.save(folder / "good.mimo")
    data = bytearray(codes.to_bytes())
    (folder / "truncated.mimo").write_bytes(data[:-7])
    data[-20] ^= 1
    (folder / "flipped.mimo").write_bytes(data)
    torch.manual_seed(5)
    random_codes(MimoCodec(CodecConfig.preset("tiny")), 10).save(folder / "stranger.mimo")
    for name in ("truncated", "flipped", "stranger"):
        outcome = run("decode", folder / f"{name}.mimo", "-o", out / "x.wav", "-m", tiny_folder)
        assert_one_line_error(outcome, folder / f"{name}.mimo")
    outcome = run("decode", folder, "-o", out, "-m", tiny_folder)
    assert outcome.code == 1 and "3 of 4 files failed" in outcome.err
    assert f"{folder / 'stranger.mimo'}: codes: made by custom@" in outcome.err
    assert files(out) == ["good.wav"]
    assert_same_waveform(out / "good.wav", tiny_codec.decode(codes))


def test_encoder_only_models_encode_but_do_not_decode(run, tmp_path, tiny_folder):
    source = speech(tmp_path / "x.wav", 0.5)
    codec = MimoCodec(CodecConfig.preset("tiny"), decoder=False)
    codec.save_pretrained(tmp_path / "model")
    model = ["-m", tmp_path / "model"]
    assert run("encode", source, "-o", tmp_path / "x.mimo", *model).code == 0
    assert_one_line_error(run("decode", tmp_path / "x.mimo", "-o", tmp_path / "y.wav", *model), "encoder only")
    assert_one_line_error(run("reconstruct", source, tmp_path / "y.wav", *model), "encoder only")
    assert json.loads(run("info", tmp_path / "model", "--json").out)["decoder_parameters"] is None


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
    monkeypatch.setattr("mimo_codec.train.run.train", lambda *words, all_cores: calls.append((*words, all_cores)))
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


# ---- damaged audio ---------------------------------------------------------------------------------------------------


def test_half_a_file_is_a_warning_and_with_strict_an_error(run, tmp_path, tiny_folder):
    whole, half = speech(tmp_path / "in" / "whole.wav"), speech(tmp_path / "in" / "half.wav")
    half.write_bytes(half.read_bytes()[:24_000])
    done = run("encode", half.parent, "-o", tmp_path / "out", "-m", tiny_folder)
    assert done.code == 0 and files(tmp_path / "out") == ["half.mimo", "whole.mimo"]
    (line,) = done.err.splitlines()
    assert line.startswith(f"mimo-codec: warning: {half}: ends at sample 11978: ")
    done = run("encode", half.parent, "-o", tmp_path / "strict", "-m", tiny_folder, "--strict")
    assert done.code == 1 and files(tmp_path / "strict") == ["whole.mimo"]
    assert f"error: {half}: ends at sample 11978" in done.err
    assert_one_line_error(run("encode", half, "-o", tmp_path / "a.mimo", "-m", tiny_folder, "--strict"), half)
    assert run("encode", whole, "-o", tmp_path / "a.mimo", "-m", tiny_folder, "--strict").code == 0


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text")
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_names_that_are_no_text(locale, tmp_path, tiny_folder):
    """Bytes that are not UTF-8, characters that the terminal has not, escape sequences and line breaks."""
    data = speech(tmp_path / "good.wav").read_bytes()
    names = [b"latin\xff", "日本".encode(), b"red\x1b[31m", b"two\nlines"]
    source = os.fsencode(tmp_path / "in")
    os.mkdir(source)
    for name in names:
        with open(source + b"/" + name + b".wav", "wb") as file:
            file.write(data)
    with open(source + b"/broken\xfe\x1b[2J.wav", "wb") as file:
        file.write(b"no audio")
    command = [sys.executable, "-m", "mimo_codec"]
    options = {"capture_output": True, "env": {**os.environ, **locale}}
    done = subprocess.run([*command, "encode", source, "-o", tmp_path / "out", "-m", tiny_folder], **options)
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(name + b".mimo" for name in names)
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and b"\x1b" not in done.stderr and rb"\x1b[2J.wav: is not audio" in lines[0]
    for name in names:
        told = subprocess.run([*command, "info", source + b"/" + name + b".wav"], **options)
        assert told.returncode == 0 and b"\x1b" not in told.stdout, told.stderr


def test_an_interrupted_batch_goes_on(run, tmp_path, tiny_folder):
    first, second = speech(tmp_path / "in" / "a.wav"), speech(tmp_path / "in" / "b.wav", seed=1)
    arguments = ("encode", first.parent, "-o", tmp_path / "out", "-m", tiny_folder)
    assert run(*arguments).code == 0
    expected = (tmp_path / "out" / "b.mimo").read_bytes()
    (tmp_path / "out" / "b.mimo").unlink()
    (tmp_path / "out" / "a.mimo").write_bytes(b"kept as it is")
    assert_one_line_error(run(*arguments), "a.mimo exists", "--skip-existing")
    assert run(*arguments, "--skip-existing").code == 0
    assert (tmp_path / "out" / "a.mimo").read_bytes() == b"kept as it is"
    assert (tmp_path / "out" / "b.mimo").read_bytes() == expected
    done = run(*arguments, "--skip-existing")
    assert done.code == 0 and done.err == "mimo-codec: all outputs exist\n"
    done = run("reconstruct", second, tmp_path / "new.wav", "-m", tiny_folder, "--skip-existing")
    assert done.code == 0 and (tmp_path / "new.wav").exists()
    assert run("reconstruct", second, tmp_path / "new.wav", "-m", tiny_folder, "--skip-existing").code == 0
    assert_one_line_error(run(*arguments, "--skip-existing", "--overwrite"), "exclude each other")
