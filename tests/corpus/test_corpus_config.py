"""Pipelines are read from YAML, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from mimo_codec import MimoError
from mimo_codec.corpus.config import Pipeline, find_pipeline, load_pipeline, make_pipeline, shipped_pipelines
from mimo_codec.corpus.schema import BASE
from mimo_codec.corpus.select import select
from mimo_codec.corpus.steps import check_steps

WRONG = {
    "reed: {}": "reed is no part of a pipeline; there are read, segment",
    "segment: {min_second: 1}": "segment: min_second is not known; there are min_seconds",
    "segment: {min_seconds: 20, max_seconds: 30}": "segment: .*at least twice",
    "segment: {threshold: 2}": "segment: threshold must be a number",
    "segment: [1]": "segment must be a mapping of options",
    "describe: quality": "describe must be a list of steps",
    "describe: [3]": r"describe\[0\] must be the name of a step",
    "describe: [{quality: {}, loudness: {}}]": r"describe\[0\]: one step is needed, not 2 keys",
    "describe: [{class_path: a.B, options: {}}]": "beside class_path there is only init_args",
    "select: {keep: [a]}": "keep must be names with expressions",
    "select: {keep: {noise: 'snr >'}}": "keep: noise: .*not an expression",
    "tokenize: {batch_seconds: nan}": "batch_seconds must be a number",
    "engine: {workers: 1.5}": "workers must be an integer",
    "read: {source: 2024}": "read: source must be text, not 2024",
    "tokenize: {codec: 5}": "tokenize: codec must be text, not 5",
    "- a": "pipeline must be a mapping",
    "a: b: c": "not valid YAML",
}


def write(folder: Path, text: str) -> str:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_named_with_the_file(text, tmp_path):
    with pytest.raises(MimoError, match=f"(?s)pipeline.yaml: .*{WRONG[text]}"):
        load_pipeline(write(tmp_path, text))


def test_parts_may_be_left_out(tmp_path):
    assert load_pipeline(write(tmp_path, "")) == Pipeline()
    pipeline = load_pipeline(write(tmp_path, "segment: null\ntokenize: null\nread:\ndescribe: [quality]"))
    assert pipeline.segment is None and pipeline.tokenize is None and pipeline.describe[0].name == "quality"


def test_shipped_pipelines_are_whole(monkeypatch):
    assert list(shipped_pipelines()) == [path.stem for path in sorted((ROOT / "recipes" / "corpus").glob("*.yaml"))]
    for name in shipped_pipelines():
        pipeline = load_pipeline(name)
        selection = select([], pipeline.select, (*BASE, *check_steps(pipeline.describe, BASE)))
        assert pipeline.tokenize is not None and set(pipeline.select.keep) < set(selection.removed)
    with pytest.raises(MimoError, match="no such file, nor a shipped one \\(small_lm, speech\\)"):
        find_pipeline("speach")


def test_the_fingerprint_is_that_of_the_rows():
    one = make_pipeline({"describe": ["quality"], "engine": {"workers": 1}})
    assert one.fingerprint() == make_pipeline({"describe": ["quality"], "engine": {"workers": 8}}).fingerprint()
    for other in ({}, {"describe": [{"quality": {}}], "select": {"share": 0.5}}, {"describe": ["quality", "loudness"]}):
        assert make_pipeline(other).fingerprint() != one.fingerprint()
