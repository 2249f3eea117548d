"""Whole runs: recordings in, shards out, whatever ends in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import assert_one_line_error
from recordings import RATE, example, join, noise, write

if not all(map(find_spec, ("pyarrow", "silero_vad", "onnxruntime", "simpleeval", "pyloudnorm"))):
    pytest.skip("needs the corpus and onnx extras", allow_module_level=True)

from mimo_codec import AudioCodes, MimoError, load_codec
from mimo_codec.corpus.config import Pipeline, make_pipeline
from mimo_codec.corpus.run import Outcome, Run
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step
from mimo_codec.data.find import find_utterances
from mimo_codec.data.parquet import read_parquet
from mimo_codec.train.lm.files import find_row_files, read_rows


class Fatal(Step):
    """Ends its process for recordings whose name says so, once or always."""

    columns: ClassVar = {"heard": "bool"}

    def describe(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            path = Path(segment.row["path"])
            segment.row["heard"] = True
            if path.stem == "fatal":
                os.abort()
            mark = path.with_suffix(".killed")
            if path.stem == "killed" and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


class Slow(Step):
    """Takes a while, so that it can be killed meanwhile."""

    columns: ClassVar = {"slow": "float32"}

    def describe(self, segments: Sequence[Segment]) -> None:
        time.sleep(0.1)
        for segment in segments:
            segment.row["slow"] = segment.seconds


class Endless(Step):
    """Never ends, and says in which process."""

    columns: ClassVar = {"endless": "bool"}

    def describe(self, segments: Sequence[Segment]) -> None:
        Path(f"{os.getpid()}.begun").touch()
        time.sleep(600)


def content(codec: Path, workers: int = 1, **parts: Any) -> dict[str, Any]:
    """A pipeline with small tasks and shards."""
    return {
        "segment": {"min_seconds": 0.5, "max_seconds": 8.0, "pause_seconds": 0.6},
        "describe": ["loudness", "quality"],
        "select": {"keep": {"noise": "snr_db > 5"}},
        "tokenize": {"codec": str(codec), "num_quantizers": 2},
        "engine": {"workers": workers, "task_minutes": 0.15, "shard_hours": 0.002},
        **parts,
    }


def pipeline(codec: Path, workers: int = 1, **parts: Any) -> Pipeline:
    return make_pipeline(content(codec, workers, **parts))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech with pauses; a copy of one in another format, noise, silence, and files that are broken."""
    folder = tmp_path_factory.mktemp("recordings")
    speech = example()
    pieces = [speech[start : start + 3 * RATE] for start in range(0, 12 * RATE, 3 * RATE)]
    samples, _ = join(pieces[:3], [0.8, 1.0, 1.0, 0.8])
    write(folder / "a.wav", samples)
    write(folder / "deep" / "b.flac", join(pieces[3:], [0.7, 0.7])[0])
    write(folder / "copy.ogg", samples, format="OGG", subtype="VORBIS")
    write(folder / "noise.wav", noise(4.0, 0.1))
    write(folder / "silence.wav", np.zeros(2 * RATE, np.float32))
    (folder / "broken.wav").write_bytes(b"RIFF and nothing more")
    (folder / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:120_000])
    (folder / "deep" / "b.txt").write_text("All of it.")
    return folder


def shards(folder: Path) -> dict[str, bytes]:
    """All that a run promises to be the same."""
    names = [*sorted((folder / "shards").iterdir()), folder / "manifest.json", folder / "quarantine.jsonl"]
    return {path.name: path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def done(recordings: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("corpus") / "out"
    return folder, Run(pipeline(tiny_folder), str(recordings), folder)()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "shards").iterdir()) for row in read_parquet(path)]


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


def test_other_runs_are_not_mixed(recordings, tiny_folder, done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done[0], folder)
    with pytest.raises(MimoError, match="begun with another pipeline"):
        Run(pipeline(tiny_folder, select={"share": 0.5}), str(recordings), folder)()
    other = tmp_path / recordings.name
    shutil.copytree(recordings, other)
    (other / "silence.wav").unlink()
    with pytest.raises(MimoError, match="begun with another input"):
        Run(pipeline(tiny_folder), str(other), folder)()
    with pytest.raises(MimoError, match="has other files"):
        Run(pipeline(tiny_folder), str(recordings), recordings)()
    assert shards(folder) == shards(done[0])


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(recordings, tiny_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("killed", "other", "third"):
        shutil.copy(recordings / "a.wav", source / f"{name}.wav")
    parts = {"describe": [f"{__name__}.Fatal"], "select": {"near_duplicates": False, "exact_duplicates": False}}
    one = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "one")()
    assert (source / "killed.killed").exists() and not one.quarantine
    again = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "two")()
    assert again.manifest["rows"] == 9 and shards(tmp_path / "one") == shards(tmp_path / "two")


@pytest.mark.slow
def test_a_recording_that_ends_the_process_is_quarantined(recordings, tiny_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("fatal", "other"):
        shutil.copy(recordings / "a.wav", source / f"{name}.wav")
    parts = {"describe": [f"{__name__}.Fatal"], "select": {"near_duplicates": False, "exact_duplicates": False}}
    outcome = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "out")()
    (entry,) = outcome.quarantine
    assert Path(entry["path"]).name == "fatal.wav" and "ended the process: Aborted" in entry["reason"]
    assert outcome.manifest["rows"] == 3


@pytest.mark.slow
def test_a_killed_driver_goes_on(recordings, tiny_folder, done, tmp_path):
    """Killed again and again, with its workers; nothing is lost, doubled or left over."""
    parts = content(tiny_folder, 2, describe=["loudness", "quality", f"{__name__}.Slow"])
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(parts))
    Run(make_pipeline({**parts, "engine": {**parts["engine"], "workers": 1}}), str(recordings), tmp_path / "whole")()
    call = [sys.executable, "-m", "mimo_codec", "corpus", "run", str(config), "-i", str(recordings), "-o"]
    call.append(str(tmp_path / "out"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    kills = 0
    for delay in (3.0, 4.0, 5.0, 6.0):
        process = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    finished = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".mimo-codec-*")) and kills


@pytest.mark.slow
def test_interrupts_do_not_wait_for_workers(recordings, tiny_folder, tmp_path):
    """A task may take half an hour; Ctrl-C ends the run at once, with its workers."""
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(content(tiny_folder, 2, describe=["loudness", "quality", f"{__name__}.Endless"])))
    call = [sys.executable, "-m", "mimo_codec", "corpus", "run", str(config), "-i", str(recordings), "-o", "out"]
    process = subprocess.Popen(
        call,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (begun := list(tmp_path.glob("*.begun"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert begun and process.returncode == 130 and err == "mimo-codec: error: interrupted\n", err
    assert not any(Path(f"/proc/{path.stem}").exists() for path in begun)


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
@pytest.mark.skipif(not find_spec("ray"), reason="needs the corpus extra")
def test_ray_makes_what_one_process_makes(recordings, tiny_folder, done, tmp_path):
    Run(pipeline(tiny_folder, workers=2), str(recordings), tmp_path / "out", engine="ray")()
    assert shards(tmp_path / "out") == shards(done[0])


@pytest.mark.slow
def test_the_benchmark_compares_runs(tmp_path, monkeypatch, capsys):
    from mimo_codec.benchmarks import corpus as benchmark

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    recording = write(tmp_path / "a.wav", join([example()], [0.5, 0.5])[0])
    benchmark.measure(str(recording), hours="0.004", engines="local", workers="1,2", config="speech")
    header, one, two = capsys.readouterr().out.splitlines()
    assert "times realtime" in header and one.split()[3] == "1" and two.split()[3] == "2"
