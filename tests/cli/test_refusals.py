"""What the command line refuses, in one line, and that bad files do not stop the others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from commands import assert_same_waveform, files, random_codes, speech
from conftest import assert_one_line_error

from mimo_codec import AudioCodes, CodecConfig, MimoCodec

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


def test_a_manifest_is_never_replaced_by_its_scan(run, tmp_path):
    manifest, link = tmp_path / "all.jsonl", tmp_path / "link.jsonl"
    manifest.write_text('{"path": "gone.wav"}\n')
    link.symlink_to(manifest)
    for source, output in ((manifest, manifest), (manifest, link), (link, tmp_path / "." / "all.jsonl")):
        done = run("data", "scan", source, "-o", output, "--overwrite")
        assert_one_line_error(done, "is an input and would be overwritten")
    assert manifest.read_text() == '{"path": "gone.wav"}\n'


def test_a_model_is_never_overwritten_by_what_is_made_of_it(run, tmp_path, tiny_folder):
    model, link = tmp_path / "model", tmp_path / "link"
    shutil.copytree(tiny_folder, model)
    link.symlink_to(model)
    for words in (("export", "codec"), ("export", "lm"), ("merge",)):
        adapter = (tmp_path / "adapter",) if words == ("merge",) else ()
        for output in (model, link, tmp_path / "." / "model" / ".." / "model"):
            done = run(*words, model, *adapter, "-o", output, "--overwrite")
            assert_one_line_error(done, "is an input and would be overwritten")
    assert files(model) == files(tiny_folder)


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


@pytest.mark.parametrize(
    "words", [("encode", "-o", "out.mimo"), ("decode", "-o", "out.wav"), ("reconstruct", "out.wav")]
)
def test_names_that_no_file_can_have(words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *output = words
    outcome = run(command, "a\x00b.wav", *output)
    assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome
    assert not list(tmp_path.iterdir())
