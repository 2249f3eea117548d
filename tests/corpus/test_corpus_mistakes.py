"""What users get wrong, and what happens to a corpus on a disk: errors are one line, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import assert_one_line_error
from recordings import RATE, example, join, write
from runs import content, pipeline, rows_of, shards

from mimo_codec import MimoError
from mimo_codec.common.engines import run_locally
from mimo_codec.corpus.cost import measure
from mimo_codec.corpus.recordings import as_text
from mimo_codec.corpus.run import Run
from mimo_codec.corpus.segment import Segment
from mimo_codec.corpus.steps.base import Step
from mimo_codec.data.find import find_utterances
from mimo_codec.train.lm.files import find_row_files


class Row(Step):
    """Steps that change a row."""

    columns: ClassVar = {"year": "int32"}
    value: ClassVar[dict[str, Any]] = {}

    def describe(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            segment.row |= self.value


class Raises(Row):
    def describe(self, segments: Sequence[Segment]) -> None:
        int("talk")


class Finishes(Row):
    def finish(self, rows: Sequence[dict[str, Any]]) -> None:
        rows[0]["start"] = 7.0


class Refuses(Row):
    def describe(self, segments: Sequence[Segment]) -> None:
        raise MimoError("is not\nof our time")


class Typed(Row):
    value: ClassVar = {"year": "talk"}


class Large(Row):
    value: ClassVar = {"year": 2**70}


class Surrogates(Row):
    columns: ClassVar = {"year": "string"}
    value: ClassVar = {"year": "\udce9"}


class Moves(Row):
    value: ClassVar = {"seconds": None}


class Unknown(Row):
    columns: ClassVar = {"year": "strung"}


class Listed(Row):
    columns: ClassVar = ["year"]  # type: ignore[assignment]


class Renames(Row):
    columns: ClassVar = {"id": "int32"}


class Codes(Row):
    columns: ClassVar = {"codes": "string"}


class Retypes(Row):
    columns: ClassVar = {"text": "int32"}


class Unmade(Row):
    def __init__(self) -> None:
        raise KeyError("weights")


class Unmounts(Row):
    """Takes the file away, as if it were on a disk that is gone."""

    def describe(self, segments: Sequence[Segment]) -> None:
        Path(segments[0].row["path"]).rename(Path(segments[0].row["path"]).with_suffix(".gone"))
        raise MimoError("no such file")


class Nothing(Step):
    """Has no method `describe`."""


WRONG = {
    "Raises": "a.wav: ValueError: invalid literal .*'talk' .*test_corpus_mistakes.py, line",
    "Finishes": "a.wav: TypeError: Finishes changed start",
    "Refuses": "no segment .*; of 1 recordings: is not of our time",
    "Typed": "year a value that is no int32",
    "Large": "year a value that is no int32",
    "Surrogates": "year a value that is no string",
    "Moves": "a.wav: TypeError: Moves changed seconds",
    "Unknown": "Unknown: columns: year: .*strung",
    "Listed": "columns must be a dictionary",
    "Renames": "id is a column of every row",
    "Codes": "codes is a column of every row",
    "Retypes": "text has the type string, not int32",
    "Unmade": "Unmade: cannot be made: 'weights'",
    "Nothing": "Nothing has no method describe",
}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write(folder / "a.wav", join([example()[: 3 * RATE], example()[4 * RATE : 7 * RATE]], [0.8, 1.0, 0.8])[0])
    return folder


@pytest.mark.parametrize("step", WRONG)
def test_steps_that_go_wrong_are_named(step, recordings, tiny_folder, tmp_path):
    parts = {"describe": [{"class_path": f"{__name__}.{step}"}], "select": {}}
    with pytest.raises(MimoError, match=WRONG[step]) as raised:
        Run(pipeline(tiny_folder, **parts), str(recordings), tmp_path / "out")()
    assert "\n" not in str(raised.value) and not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("text", ["def f(:", "1 / 0", "import no_such_package"])
def test_files_of_steps_that_cannot_be_imported(text, run, recordings, tiny_folder, tmp_path):
    module = f"steps_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{module}.py").write_text(text)
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(content(tiny_folder, describe=[f"{module}.Step"], select={})))
    outcome = run("corpus", "run", config, "-i", recordings, "-o", tmp_path / "out")
    assert_one_line_error(outcome, f"{module}.Step cannot be imported")


def test_expressions_are_checked_before_anything_is_read(recordings, tiny_folder, tmp_path):
    for expression in ("loudness > 3", "codes is None"):
        with pytest.raises(MimoError, match="keep: loud: there is no column"):
            Run(pipeline(tiny_folder, select={"keep": {"loud": expression}}), str(recordings), tmp_path / "out")


def test_every_column_can_be_selected_by(recordings, tiny_folder, tmp_path):
    keep = {"words": "words is None or len(words) > 0", "text": "text is None", "name": "len(recording) == 16"}
    made = Run(pipeline(tiny_folder, select={"keep": keep}), str(recordings), tmp_path / "out")()
    assert made.manifest["rows"] == 2


def test_a_plan_too_knows_columns_that_a_step_leaves_empty(recordings, tiny_folder):
    parts = {"describe": [f"{__name__}.Row"], "select": {"keep": {"year": "year is None or year > 2000"}}}
    assert measure(pipeline(tiny_folder, **parts), str(recordings), 1.0).kept_hours > 0


def test_a_mistake_that_is_mended_needs_no_other_folder(recordings, tiny_folder, tmp_path):
    with pytest.raises(MimoError, match="talk"):
        Run(pipeline(tiny_folder, describe=[f"{__name__}.Raises"], select={}), str(recordings), tmp_path / "out")()
    assert Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")().manifest["rows"] == 2


@pytest.mark.parametrize("text", ["plain", "é", "\udce9", "\ud800", "a\ud800\udce9b"])
def test_what_is_no_utf8_is_replaced(text):
    found = as_text(text)
    assert found.encode() and (found == text) == (text in ("plain", "é"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_names_that_are_no_utf8_are_quarantined(recordings, tiny_folder, tmp_path):
    source = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    shutil.copy(recordings / "a.wav", os.fsencode(tmp_path) + b"/\xe9t\xe9.wav")
    rows = [{"path": name, "text": text} for name, text in (("\udce9t\udce9.wav", None), ("a.wav", "\ud800"))]
    rows.append({"path": str(recordings / "a.wav")})
    shutil.copy(recordings / "a.wav", tmp_path / "a.wav")
    Path(os.fsdecode(source)).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = Run(pipeline(tiny_folder), os.fsdecode(source), tmp_path / "out")()
    reasons = [f"its {what} is not valid UTF-8, which Parquet needs" for what in ("path", "text")]
    assert [entry["reason"] for entry in made.quarantine] == reasons and made.manifest["rows"] == 2
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == made.quarantine
    assert {row["source"] for row in rows_of(tmp_path / "out")} == {"caf\ufffd.jsonl"}


def test_the_input_may_be_named_from_any_folder(recordings, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(recordings.parent)
    Run(pipeline(tiny_folder), recordings.name, tmp_path / "out")()
    before = shards(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    Run(pipeline(tiny_folder), str(recordings), Path("out"))()
    assert shards(tmp_path / "out") == before
    assert {row["path"] for row in rows_of(tmp_path / "out")} == {str(recordings / "a.wav")}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("shards/shard-000000.parquet", None),
        ("shards/shard-000000.parquet", b"PAR1"),
        ("work/shards/000000.json", b"{"),
        ("work/described/000000.parquet", b"PAR1"),
        ("work/described/000000.json", b"[]"),
    ],
)
def test_what_is_lost_or_cut_short_is_made_again(name, damage, recordings, tiny_folder, tmp_path):
    Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")()
    before = shards(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    if damage is not None:
        (tmp_path / "out" / name).write_bytes(damage)
    Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")()
    assert shards(tmp_path / "out") == before


def test_files_that_are_gone_meanwhile_are_not_lost(recordings, tiny_folder, tmp_path):
    """A disk that was taken away is no reason to put its recordings into quarantine."""
    shutil.copytree(recordings, tmp_path / "in")
    path, away = tmp_path / "in" / "a.wav", tmp_path / "in" / "a.gone"
    parts = {"describe": [f"{__name__}.Unmounts"], "select": {}}
    with pytest.raises(MimoError, match="gone since the run began"):
        Run(pipeline(tiny_folder, **parts), str(tmp_path / "in"), tmp_path / "one")()
    away.rename(path)
    run = Run(pipeline(tiny_folder), str(tmp_path / "in"), tmp_path / "two")
    with pytest.raises(MimoError, match="gone since the run began"):
        run(begin=lambda half, seconds: path.rename(away) if half == "tokenize" else None)
    away.rename(path)
    assert run().manifest["rows"] == 2
    whole = path.read_bytes()
    run.folder = tmp_path / "three"
    with pytest.raises(MimoError, match="no segment could be encoded; of 1 recordings: .*shorter than before"):
        run(begin=lambda half, seconds: path.write_bytes(whole[:40_000]) if half == "tokenize" else None)
    assert not (tmp_path / "three" / "manifest.json").exists()


def test_a_corpus_that_is_not_finished_is_not_trained_on(recordings, tiny_folder, tmp_path):
    Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")()
    (tmp_path / "out" / "manifest.json").unlink()
    for find in (find_utterances, find_row_files):
        with pytest.raises(MimoError, match="not finished"):
            find(tmp_path / "out")
    Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")()
    assert len(find_utterances(tmp_path / "out")[0]) == 2


def test_an_output_is_no_part_of_its_input(recordings, tiny_folder, tmp_path):
    """Shards that are written below shards that are read would be found the next time."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "shard.tar", "w") as file:
        file.add(recordings / "a.wav", "a.wav")
    with pytest.raises(MimoError, match="lies in the input"):
        Run(pipeline(tiny_folder), str(tmp_path / "in"), tmp_path / "in" / "out")()
    with pytest.raises(MimoError, match="has other files"):
        Run(pipeline(tiny_folder), str(recordings), recordings)()
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["shard.tar"], "nothing is written"
    assert [p.name for p in recordings.iterdir()] == ["a.wav"]


def test_workers_in_other_folders_write_to_the_output(recordings, tiny_folder, tmp_path, monkeypatch):
    """Those of other machines are."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    made = []

    def elsewhere(engine: str, make: Any, tasks: Any, resources: Any) -> Any:
        for task in tasks:
            os.chdir(tmp_path / "elsewhere")
            number = make()(task)
            os.chdir(tmp_path)
            made.append(number)
            yield number

    monkeypatch.setattr("mimo_codec.corpus.run.run_tasks", elsewhere)
    assert Run(pipeline(tiny_folder), str(recordings), Path("out"))().manifest["rows"] == 2
    assert made and not list((tmp_path / "elsewhere").iterdir())


def test_one_process_computes_as_workers_do():
    """Sums are rounded otherwise with another number of threads."""
    import torch

    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def make() -> Any:
        return lambda task: seen.append(torch.get_num_threads()) or task["number"]

    assert list(run_locally(make, [{"number": 3}], 1)) == [3] and seen == [1] and torch.get_num_threads() == 2
    torch.set_num_threads(before)
