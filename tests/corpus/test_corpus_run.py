"""Whole runs: recordings in, shards out, whatever ends in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error
from recordings import RATE, example, join, write
from runs import content, make_recordings, pipeline, rows_of, shards

from mimo_codec import AudioCodes, MimoError, load_codec
from mimo_codec.corpus.describe import Describer
from mimo_codec.corpus.run import Outcome, Run
from mimo_codec.data.find import find_utterances
from mimo_codec.train.lm.files import find_row_files, read_rows


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def done(recordings: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("corpus") / "out"
    return folder, Run(pipeline(tiny_folder), str(recordings), folder)()


def test_rows_say_where_they_come_from_and_what_they_are(recordings, tiny_folder, done):
    folder, outcome = done
    rows, codec = rows_of(folder), load_codec(tiny_folder)
    assert len({row["id"] for row in rows}) == len(rows) == outcome.manifest["rows"] > 3
    assert len(outcome.manifest["shards"]) > 1
    for row in rows:
        codes = AudioCodes.from_bytes(row["codes"])
        assert codes.model == row["codec"] == codec.model_id and codes.num_quantizers == 2
        assert codes.duration == pytest.approx(row["seconds"], abs=0.01) and row["sample_rate"] == RATE
        assert row["end"] - row["start"] == pytest.approx(row["seconds"], abs=1e-3) and row["snr_db"] > 5
    assert {row["source"] for row in rows} == {recordings.name}
    assert all(row["bandwidth_hz"] <= RATE / 2 for row in rows)
    texts = {Path(row["path"]).name: row["text"] for row in rows}
    assert texts["a.wav"] is None and texts["b.flac"] == "All of it."
    assert next(row for row in rows if row["text"])["start"] == 0.0, "transcribed recordings stay whole"


def test_what_is_not_used_is_told(recordings, done):
    folder, outcome = done
    assert not any("copy.ogg" in row["path"] and "a.wav" in row["path"] for row in rows_of(folder))
    removed = outcome.manifest["removed"]
    assert removed["near duplicates"] + removed["exact duplicates"] >= 3, "the copy, and what the cut file has left"
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in outcome.quarantine}
    assert set(reasons) == {"broken.wav", "cut.wav", "silence.wav", *(["noise.wav"] if "noise.wav" in reasons else [])}
    assert "ends at sample" in reasons["cut.wav"] and "no segment of speech" in reasons["silence.wav"]
    assert not any(str(recordings) in reason for reason in reasons.values())
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == outcome.quarantine


def test_the_same_command_again_changes_nothing(recordings, tiny_folder, done):
    folder, _ = done
    before = shards(folder)
    Run(pipeline(tiny_folder), str(recordings), folder)()
    assert shards(folder) == before


def test_two_processes_make_what_one_makes(recordings, tiny_folder, done, tmp_path):
    Run(pipeline(tiny_folder, workers=2), str(recordings), tmp_path / "out")()
    assert shards(tmp_path / "out") == shards(done[0])


def test_another_place_of_the_input_changes_no_ids(recordings, tiny_folder, done, tmp_path):
    shutil.copytree(recordings, tmp_path / "elsewhere")
    other = Run(pipeline(tiny_folder, read={"source": "mine"}), str(tmp_path / "elsewhere"), tmp_path / "out")()
    assert other.manifest["options"]["read"]["source"] == "mine"
    assert [row["id"] for row in rows_of(tmp_path / "out")] == [row["id"] for row in rows_of(done[0])]


def test_sources_of_a_manifest_are_kept_also_in_a_corpus_of_a_corpus(recordings, tiny_folder, tmp_path):
    rows = [{"path": str(recordings / "a.wav"), "source": "one", "license": "CC0"}]
    rows += [{"path": str(recordings / "deep" / "b.flac")}]
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = Run(pipeline(tiny_folder, tokenize=None), str(tmp_path / "both.jsonl"), tmp_path / "first")
    second = Run(pipeline(tiny_folder, segment=None, tokenize=None), str(tmp_path / "first"), tmp_path / "second")
    for task in (first, second):
        task()
        about = {Path(r["path"]).name: (r["source"], r["licence"]) for r in rows_of(task.folder)}
        assert about == {"a.wav": ("one", "CC0"), "b.flac": ("both.jsonl", None)}
    named = Run(pipeline(tiny_folder, read={"source": "mine", "licence": "ours"}), first.source, tmp_path / "third")
    named()
    assert {(r["source"], r["licence"]) for r in rows_of(named.folder)} == {("mine", "ours")}


def test_other_runs_are_not_mixed(recordings, tiny_folder, done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done[0], folder)
    for changed in ({"select": {"share": 0.5}}, {"segment": None}):
        with pytest.raises(MimoError, match="begun with another pipeline"):
            Run(pipeline(tiny_folder, **changed), str(recordings), folder)()
    other = tmp_path / recordings.name
    shutil.copytree(recordings, other)
    (other / "silence.wav").unlink()
    with pytest.raises(MimoError, match="begun with another input"):
        Run(pipeline(tiny_folder), str(other), folder)()
    with pytest.raises(MimoError, match="has other files"):
        Run(pipeline(tiny_folder), str(recordings), recordings)()
    assert shards(folder) == shards(done[0])


def test_another_selection_uses_the_same_segments(recordings, tiny_folder, done, tmp_path, monkeypatch):
    folder, changed = tmp_path / "out", {"select": {"near_duplicates": False}, "tokenize": None}
    shutil.copytree(done[0], folder)
    Run(pipeline(tiny_folder, **changed), str(recordings), tmp_path / "alone")()
    with monkeypatch.context() as patch:
        patch.setattr(Describer, "__call__", lambda *arguments: pytest.fail("described again"))
        Run(pipeline(tiny_folder, **changed), str(recordings), folder, reselect=True)()
    assert shards(folder) == shards(tmp_path / "alone") and shards(folder) != shards(done[0])
    with pytest.raises(MimoError, match="reselect"):
        Run(pipeline(tiny_folder), str(recordings), folder)()
    with pytest.raises(MimoError, match="read, segment, describe"):
        Run(pipeline(tiny_folder, segment=None), str(recordings), folder, reselect=True)()


def test_a_selection_that_was_killed_while_shards_were_removed_goes_on(recordings, tiny_folder, done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done[0], folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        Run(pipeline(tiny_folder, tokenize=None), str(recordings), folder, reselect=True)()
    assert not (folder / "manifest.json").exists()
    Run(pipeline(tiny_folder), str(recordings), folder)()
    assert shards(folder) == shards(done[0])


def test_a_finished_corpus_without_what_it_was_made_of_is_named(recordings, tiny_folder, done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done[0], folder, ignore=shutil.ignore_patterns("work"))
    with pytest.raises(MimoError, match="finished corpus without its folder work"):
        Run(pipeline(tiny_folder), str(recordings), folder)()


def test_both_trainers_read_the_output(done, recordings):
    folder, outcome = done
    utterances, faults = find_utterances(folder)
    assert len(utterances) == outcome.manifest["rows"] and not faults
    assert {u.path.parent.name for u in utterances} <= {recordings.name, "deep"}
    (spoken,) = [u for u in utterances if u.text]
    assert spoken.end is not None and spoken.seconds == pytest.approx(spoken.end - spoken.start, abs=1e-3)
    entries = [entry for path in find_row_files(folder) for entry in read_rows(path)]
    assert len(entries) == len(utterances) and all(entry.fault is None for entry in entries)
    assert all(set(entry.row) <= {"audio", "text", "words"} for entry in entries)
    (folder / "shards" / "shard-000000.parquet").rename(folder / "hidden")
    with pytest.raises(MimoError, match="shard-000000.parquet is missing"):
        find_utterances(folder)
    (folder / "hidden").rename(folder / "shards" / "shard-000000.parquet")


def test_the_command(run, recordings, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mimo_codec.cli.console.MESSAGE_SECONDS", 0.0)
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(content(tiny_folder)))
    outcome = run("corpus", "run", config, "-i", recordings, "-o", tmp_path / "out")
    assert outcome.code == 0 and "times realtime on one core" in outcome.out, outcome
    assert "describe: 1 of " in outcome.err and "hours, 0 min left" in outcome.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<audio") > 3 and "<svg" in page and "near duplicates" in page and 'src="http' not in page
    planned = run("corpus", "plan", config, "-i", recordings, "--hours", 10, "--minutes", 0.2)
    assert planned.code == 0 and "100,000,000" in planned.out and "core hours" in planned.out, planned


def test_steps_of_a_users_own_lie_beside_the_pipeline(run, recordings, tiny_folder, tmp_path, monkeypatch):
    """The step of the documentation, in another folder than the current one; also in the processes of workers."""
    (example,) = re.findall(r"# my_steps.py\n(.+?)\n +```", (ROOT / "docs" / "corpus.md").read_text(), re.DOTALL)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_steps.py").write_text(textwrap.dedent("    " + example.lstrip()))
    config, source = tmp_path / "pipeline.yaml", tmp_path / "in"
    config.write_text(json.dumps(content(tiny_folder, 2, describe=[{"class_path": "my_steps.Year"}], select={})))
    source.mkdir()
    for name in ("1987-03-14_interview.wav", "2026_talk.wav"):
        shutil.copy(recordings / "a.wav", source / name)
    outcome = run("corpus", "run", config, "-i", source, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert {row["year"] for row in rows_of(tmp_path / "out")} == {1987}, "the other is a copy"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"select": {"keep": {"loud": "loudness > 3"}}}, ("keep: loud", "no column loudness")),
        ({"select": {"keep": {"none": "seconds > 1000"}}}, ("none of", "by none")),
        ({"describe": ["quality", {"loudness": {"peak": 7}}]}, ("loudness", "peak")),
        ({"tokenize": {"codec": "no/such-codec"}}, ("no/such-codec",)),
        ({"tokenize": {"codec": "nano", "num_quantizers": 99}}, ("99",)),
    ],
)
def test_mistakes_are_one_line(parts, words, run, recordings, tiny_folder, tmp_path):
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(content(tiny_folder, **parts)))
    assert_one_line_error(run("corpus", "run", config, "-i", recordings, "-o", tmp_path / "out"), *words)


def test_an_input_without_speech_is_an_error(run, recordings, tiny_folder, tmp_path):
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(content(tiny_folder)))
    write(tmp_path / "in" / "a.wav", np.zeros(RATE, np.float32))
    assert_one_line_error(run("corpus", "run", config, "-i", tmp_path / "in", "-o", tmp_path / "out"), "no segment")
    assert_one_line_error(run("corpus", "run", config, "-i", tmp_path / "no", "-o", tmp_path / "out2"), "no")
    assert_one_line_error(run("corpus", "plan", config, "-i", tmp_path / "in"), "no segment")


def test_options_of_no_use_are_refused(run, recordings, tmp_path):
    call = ["corpus", "run", "speech", "-i", recordings, "-o", tmp_path / "out"]
    assert_one_line_error(run(*call, "--address", "auto"), "engine ray")
    assert_one_line_error(run(*call, "--engine", "spark"), "local, ray")


@pytest.mark.slow
def test_the_benchmark_compares_runs(tmp_path, monkeypatch, capsys):
    from mimo_codec.benchmarks import corpus as benchmark

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    recording = write(tmp_path / "a.wav", join([example()], [0.5, 0.5])[0])
    benchmark.measure(str(recording), hours="0.004", engines="local", workers="1,2", config="speech")
    header, one, two = capsys.readouterr().out.splitlines()
    assert "times realtime" in header and one.split()[3] == "1" and two.split()[3] == "2"


@pytest.mark.slow
def test_the_benchmark_finds_what_is_planted(tmp_path, capsys):
    """Two pieces of speech and a copy of their recording; the figures are those of docs/corpus.md for hours of it."""
    from mimo_codec.benchmarks import corpus_truth

    shutil.copy(ROOT / "examples" / "speech.wav", tmp_path / "speech.wav")
    corpus_truth.measure(str(tmp_path), hours=0.02, minutes=0.5, seed=0, workers=1)
    lines = {line.split("  ")[0]: line.split() for line in reversed(capsys.readouterr().out.splitlines()) if line}
    assert lines["all pieces, within 0.2 s"][-3:] == ["4", "4", "100.0"]
    assert lines["copies removed, recording"][-3:] == ["2", "2", "100.0"]
    assert lines["others removed"][-3:] == ["2", "0", "0.0"]
    assert float(lines["snr_db"][-3]) == pytest.approx(30, abs=2)
