"""`mimo-codec evaluate`: what is compared, statistics, reports, and mistakes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_codec import MimoError, save_audio
from mimo_codec.evaluation.codec.items import find_items
from mimo_codec.evaluation.codec.results import Codebook, Evaluation, System
from mimo_codec.evaluation.codec.tables import REPORT_FILES, as_json
from mimo_codec.evaluation.summary import Summary
from mimo_codec.metrics.signal import MAX_SI_SDR

RATE = 16000

# ---- statistics ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
@settings(deadline=None, max_examples=30)
def test_the_interval_holds_the_mean_and_is_always_the_same(values):
    found = Summary.of([*values, math.nan])
    assert found == Summary.of(values) and found.num_files == len(values)
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high
    assert found.std == pytest.approx(np.std(values), abs=1e-9)


def test_the_interval_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3, 2, 400)
    assert Summary.of(list(values)).margin == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_too_few_files_have_no_interval():
    assert math.isnan(Summary.of([math.nan]).mean)
    one = Summary.of([2.5])
    assert one.mean == 2.5 and math.isnan(one.margin) and math.isnan(one.std)


def test_codebooks():
    assert Codebook.of(np.full(64, 5)) == Codebook(64, 1.0, pytest.approx(64))
    assert Codebook.of(np.eye(64, dtype=int)[3] * 9) == Codebook(64, 1 / 64, pytest.approx(1))
    assert Codebook.of(np.array([3, 1, 0, 0])).perplexity == pytest.approx(4 / 27**0.25)


def test_json_has_no_nan():
    scores = {"a.wav": {"stoi": math.nan}, "b.wav": {"stoi": 0.5}}
    facts = json.loads(as_json(Evaluation(("stoi",), (System("x", "files", scores),), 2.0)))
    assert facts["systems"][0]["files"] == {"a.wav": {"stoi": None}, "b.wav": {"stoi": 0.5}}
    assert facts["systems"][0]["summary"]["stoi"] == {
        "mean": 0.5,
        "std": None,
        "low": None,
        "high": None,
        "num_files": 1,
    }


# ---- what to compare -------------------------------------------------------------------------------------------------


def speech(path: Path, seconds: float = 0.6, rate: int = RATE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, make_speech(seconds, rate, seed), rate)
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_matched_by_path_without_suffix(tmp_path):
    originals = touch(tmp_path / "a", "x.flac", "deep/y.wav", "only.wav")
    decoded = touch(tmp_path / "b", "x.wav", "deep/y.ogg", "y.wav")
    items, notes = find_items(originals, decoded)
    assert {item.name: str(item.decoded.relative_to(decoded)) for item in items} == {
        "x.flac": "x.wav",
        "deep/y.wav": "deep/y.ogg",
    }
    assert notes == [f"left out, without a partner: {originals / 'only.wav'}, {decoded / 'y.wav'}"]


def test_folders_that_cannot_be_matched(tmp_path):
    originals = touch(tmp_path / "a", "x.flac")
    with pytest.raises(MimoError, match="no file of .* has a partner"):
        find_items(originals, touch(tmp_path / "b", "y.wav"))
    with pytest.raises(MimoError, match="x.flac and .*x.wav differ in the suffix alone"):
        find_items(originals, touch(tmp_path / "c", "x.flac", "x.wav"))
    with pytest.raises(MimoError, match="there is no such file or folder"):
        find_items(originals, tmp_path / "nowhere")


def test_manifest(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"path": "a.wav", "text": "hello"}\n\n{"path": "a.wav", "start": 0.25, "end": 0.5}\n', encoding="utf-8"
    )
    whole, part = find_items(manifest)[0]
    assert (whole.name, whole.path, whole.text) == ("a.wav", tmp_path / "a.wav", "hello")
    assert (part.name, part.text) == ("a.wav @ 0.25", None)
    speech(tmp_path / "a.wav")
    assert torch.equal(part.load()[0], whole.load()[0][4000:8000])
    with pytest.raises(MimoError, match="parts of files.*: a.wav @ 0.25"):
        find_items(manifest, tmp_path)
    wrong = {
        "{": "line 1",
        '{"text": "x"}': "line 1",
        "[1]": "line 1",
        '{"path": 3}': "line 1",
        "": "lists no files",
        '{"path": "a", "text": 3}': "line 1",
        '{"path": "a"}\n{"path": "a"}': "lists twice: a",
    }
    for text, reason in wrong.items():
        manifest.write_text(text, encoding="utf-8")
        with pytest.raises(MimoError, match=reason):
            find_items(manifest)


# ---- the command -----------------------------------------------------------------------------------------------------

QUICK = ("--metrics", "si_sdr,mel_distance", "--baselines", "none", "--workers", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for seed, name in enumerate(("a.wav", "b.flac", "deep/c.wav")):
        speech(folder / name, 0.5 + 0.1 * seed, 16000 if seed else 24000, seed)
    return folder


def test_a_model_and_its_prefixes(run, corpus, tiny_folder):
    done = run("evaluate", corpus, "--model", tiny_folder, "--codebooks", "1, 2", "-q", 4, *QUICK, "--json")
    assert done.code == 0 and done.err == ""
    found = json.loads(done.out)
    names = [system["name"] for system in found["systems"]]
    assert [name.split()[-1] for name in names] == ["q1", "q2", "q4"]
    rates = [system["bits_per_second"] for system in found["systems"]]
    assert rates == sorted(set(rates))
    for system in found["systems"]:
        assert set(system["files"]) == {"a.wav", "b.flac", "deep/c.wav"}
        assert set(system["summary"]) == {"si_sdr", "mel_distance"} == set(system["files"]["a.wav"])
        assert system["summary"]["si_sdr"]["low"] <= system["summary"]["si_sdr"]["mean"]
        assert system["encode_realtime_factor"] > 0 and system["decode_realtime_factor"] > 0
    assert len(found["codebooks"]) == 4 and all(1 <= c["perplexity"] <= c["size"] for c in found["codebooks"])
    assert found["num_files"] == 3 and found["seconds"] == pytest.approx(1.8, abs=0.01)
    assert found["metrics"]["si_sdr"] == {"label": "SI-SDR", "unit": "dB", "better": "higher"}


def test_the_table(run, corpus, tiny_folder):
    out = run("evaluate", corpus, "--model", tiny_folder, *QUICK).out
    assert out.startswith("3 files, 0.0 min; mean over files and its 95 % confidence interval\n")
    assert all(word in out for word in ("tiny q8", "kbit/s", "SI-SDR, dB", " +- ", "perplexity", "decode, s/s"))
    assert out.isascii()


def test_report_files(run, corpus, tiny_folder, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the eval extra")
    folder = tmp_path / "new" / "report"
    arguments = ("evaluate", corpus, "--model", tiny_folder, "--codebooks", 2, *QUICK, "-o", folder)
    done = run(*arguments)
    assert done.code == 0, done.err
    assert {path.name for path in folder.iterdir()} == set(REPORT_FILES) - {"per_speaker.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "| tiny q8 |" in report and "SI-SDR, dB ↑" in report and "mel distance ↓" in report
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["num_files"] == 3
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert_one_line_error(run(*arguments), "report.json", "--overwrite")
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert run(*arguments, "--overwrite").code == 0


def test_speakers_of_a_manifest_are_told_apart(run, corpus, tiny_folder, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the eval extra")
    names = ("a.wav", "b.flac", "deep/c.wav")
    rows = [{"path": str(corpus / name), "speaker": who} for name, who in zip(names, ("ann", "bo", "ann"), strict=True)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("evaluate", tmp_path / "m.jsonl", "--model", tiny_folder, *QUICK, "-o", tmp_path / "report")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "report").iterdir()} == set(REPORT_FILES)
    speakers = json.loads((tmp_path / "report" / "report.json").read_text())["speakers"]
    assert sorted(speakers.values()) == ["ann", "ann", "bo"] and len(speakers) == len(names)


def test_reports_appear_whole_or_not_at_all(run, corpus, tiny_folder, tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure", reason="needs the eval extra")

    def half(self: object, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", half)
    done = run("evaluate", corpus, "--model", tiny_folder, *QUICK, "-o", tmp_path / "report")
    assert_one_line_error(done, "rate_quality.png", "No space left")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.json", "report.md"]


def test_decoded_files(run, corpus, tmp_path):
    decoded = tmp_path / "decoded"
    shutil.copytree(corpus, decoded)
    (decoded / "b.flac").unlink()
    speech(decoded / "b.wav", 0.6, 24000, seed=7)
    done = run("evaluate", corpus, decoded, *QUICK, "--json")
    (system,) = json.loads(done.out)["systems"]
    assert (system["name"], system["kind"], system["bits_per_second"]) == ("decoded files", "files", None)
    assert system["files"]["a.wav"] == {"si_sdr": MAX_SI_SDR, "mel_distance": 0}
    assert system["files"]["b.flac"]["mel_distance"] > 0.05
    assert_one_line_error(run("evaluate", corpus, decoded, *QUICK, "--codebooks", "1"), "--codebooks")


def test_a_bad_file_among_many_is_reported_and_the_rest_goes_on(run, corpus, tiny_folder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(corpus, mixed)
    (mixed / "bad.wav").write_bytes(b"not audio")
    speech(mixed / "short.wav", 0.05)
    done = run("evaluate", mixed, "--model", tiny_folder, *QUICK, "--json")
    assert done.code == 1
    bad, short, total = done.err.splitlines()
    assert "bad.wav: is not audio" in bad and "short.wav: 0.050 s of sound is too short" in short
    assert total == "mimo-codec: error: 2 of 5 files failed"
    found = json.loads(done.out)
    assert found["num_files"] == 3 and set(found["failed"]) == {"bad.wav", "short.wav"}
    assert_one_line_error(run("evaluate", mixed / "bad.wav", "--model", tiny_folder, *QUICK), "is not audio")
    assert_one_line_error(run("evaluate", tmp_path / "nothing.wav", "--model", tiny_folder, *QUICK), "no such file")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics", "loudness"), ("loudness", "pesq_wb")),
        (("--baselines", "mp3"), ("mp3", "opus")),
        (("--codebooks", "two"), ("--codebooks", "'two'")),
        (("--codebooks", "9"), ("codebooks", "1 to 8", "9")),
        (("--workers", "0"), ("workers",)),
    ],
)
def test_mistakes_are_one_line(run, corpus, tiny_folder, options, words):
    assert_one_line_error(run("evaluate", corpus, "--model", tiny_folder, *QUICK, *options), *words)


def test_missing_programs_are_one_line_of_the_table(run, corpus, tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("evaluate", corpus / "a.wav", "--model", tiny_folder, *QUICK, "--baselines", "opus,codec2")
    assert done.code == 0 and done.out.count("is left out: there is no program") == 2


def test_processes_find_what_one_finds(run, corpus, tiny_folder):
    arguments = ("evaluate", corpus, "--model", tiny_folder, *QUICK, "--json")
    alone, together = (json.loads(run(*arguments, "--workers", number).out) for number in (1, 2))
    for one, two in zip(alone["systems"], together["systems"], strict=True):
        for file, scores in one["files"].items():
            assert two["files"][file] == pytest.approx(scores, abs=1e-3)


def test_precisions_other_than_float32_are_named(run, corpus, tiny_folder):
    done = run("evaluate", corpus / "a.wav", "--model", tiny_folder, *QUICK, "--json", "--dtype", "bfloat16")
    assert [system["name"] for system in json.loads(done.out)["systems"]] == ["tiny bfloat16 q8"]
