"""Several sources of training audio, and their weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_files import write_speech

pytest.importorskip("lightning", reason="needs the train extra")

from jsonargparse import ArgumentParser
from loading import attach, batches, equal

from mimo_codec import MimoError
from mimo_codec.data.manifest import read_manifest, write_manifest
from mimo_codec.data.module import SpeechData
from mimo_codec.data.sources import Source, paths_of, share_out, sources_of
from mimo_codec.data.utterance import Utterance


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """One folder with 2 s of audio in two files, one with 0.4 s in one, which has a text."""
    for name in "ab":
        write_speech(tmp_path / "long" / f"{name}.wav", 1.0)
    write_speech(tmp_path / "short" / "c.wav", 0.4)
    (tmp_path / "short" / "c.txt").write_text("see")
    return [tmp_path / "long", tmp_path / "short"]


def drawn(data: SpeechData, spoken: bool = False, count: int = 1000) -> Counter[str]:
    """How often each file is drawn."""
    items = data.spoken() if spoken else data.crops()
    rng = np.random.default_rng(0)
    return Counter(items._draw(rng).path.stem for _ in range(count))


def make(root: list[Source], **options: Any) -> SpeechData:
    data = SpeechData(root, batch_size=4, segment_seconds=0.2, sample_rate=8000, **options)
    data.setup()
    return data


def test_weights_are_shares_of_the_crops(folders: list[Path]) -> None:
    paths = [str(folder) for folder in folders]
    counts = drawn(make([Source(paths[0], 1.0), Source(paths[1], 3.0)]))
    assert counts["c"] == pytest.approx(750, abs=50) and counts["a"] == pytest.approx(125, abs=40)
    counts = drawn(make([Source(path) for path in paths]))  # by duration
    assert counts["c"] == pytest.approx(1000 / 6, abs=50)
    counts = drawn(make([Source(paths[0], 0.0), Source(paths[1], 1.0)]))
    assert set(counts) == {"c"}


def test_texts_are_drawn_from_the_sources_that_have_some(folders: list[Path]) -> None:
    data = make([Source(str(folders[0]), 5.0), Source(str(folders[1]), 1.0)], text_batch_size=1)
    assert data.texts() == ["see"] and set(drawn(data, spoken=True)) == {"c"}


def test_one_source_draws_as_a_path_does(folders: list[Path], tmp_path: Path) -> None:
    pair = [make(root) for root in (str(folders[0]), [Source(str(folders[0]), 7.0)])]  # type: ignore[arg-type]
    for data in pair:
        attach(data)
    assert all(equal(a["crops"], b["crops"]) for a, b in zip(*(batches(data, 3) for data in pair), strict=True))


def test_every_source_has_a_list_of_its_own_which_all_processes_read(folders: list[Path], tmp_path: Path) -> None:
    sources = [Source(str(folders[0]), 1.0), Source(str(folders[1]), 3.0)]
    data = SpeechData(sources, batch_size=4, segment_seconds=0.2, sample_rate=8000)
    attach(data, tmp_path / "run")
    data.prepare_data()
    names = sorted(path.name for path in (tmp_path / "run" / "data").iterdir())
    assert names == ["skipped.jsonl", "train-0.jsonl", "train-1.jsonl"]
    assert [u.path.stem for u in read_manifest(tmp_path / "run" / "data" / "train-1.jsonl")] == ["c"]
    data.setup()
    assert [u.path.stem for u in data.utterances["train"]] == ["a", "b", "c"]
    assert drawn(data) == drawn(make(sources))


def test_sources_have_splits_of_their_own(folders: list[Path], tmp_path: Path) -> None:
    rows = [Utterance(folders[0] / "a.wav", split="train"), Utterance(folders[0] / "b.wav", split="test")]
    write_manifest(tmp_path / "m.jsonl", rows)
    manifest = str(tmp_path / "m.jsonl")
    data = make([Source(manifest, split="test"), Source(manifest)], split="train")
    assert [[u.path.stem for u in group] for group in data.found["train"]] == [["b"], ["a"]]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one"),
        ([Source("a", 1.0), Source("b")], "all sources a weight, or none"),
        ([Source("a", 0.0), Source("b", 0.0)], "all weights are 0"),
        (["a"], "a list of sources"),
    ],
)
def test_sources_that_are_refused(sources: list[Any], message: str) -> None:
    with pytest.raises(MimoError, match=f"root: .*{message}|root must be .*{message}"):
        sources_of("root", sources, None)


def test_weights_that_are_refused() -> None:
    with pytest.raises(MimoError, match="speech: weight"):
        Source("speech", -1.0)
    with pytest.raises(MimoError, match="validation_root"):
        SpeechData("speech", [Source("held_out", 1.0)])
    with pytest.raises(MimoError, match="but that of every file is 0"):
        share_out([Source("a", 1.0)], [[0.0, 0.0]])


def test_sources_are_given_in_recipes_and_on_the_command_line(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SpeechData, "data")
    recipe = "data: {root: [{path: a, weight: 2}, {path: b.jsonl, weight: 1, split: train}], segment_seconds: 2.0}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    wanted = [Source("a", 2.0), Source("b.jsonl", 1.0, "train")]
    data = parser.instantiate_classes(parser.parse_args(["--config", str(tmp_path / "recipe.yaml")])).data
    assert data.sources["train"] == wanted and data.num_samples == 48000
    text = json.dumps([{"path": "a", "weight": 2}, {"path": "b.jsonl", "weight": 1, "split": "train"}])
    config = parser.parse_args(["--data.root", text])
    assert paths_of(config.data.root) == ["a", "b.jsonl"]
    assert parser.instantiate_classes(config).data.sources["train"] == wanted
    config = parser.parse_args(["--data.root", "speech"])
    assert paths_of(config.data.root) == ["speech"] and paths_of(config.data.validation_root) == []
