"""Many streams in one call, by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from exports import tiny_export
from many_streams import assert_as_alone, assert_one_batch

pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from mimo_codec.onnx import OnnxCodec


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export(tmp_path_factory)


def test_streams_of_all_ages_give_what_each_gives_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert assert_as_alone(OnnxCodec(tiny, num_threads=1), monkeypatch, 40) >= 2


def test_streams_of_different_ages_are_one_batch(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_one_batch(OnnxCodec(tiny, num_threads=1), monkeypatch)
