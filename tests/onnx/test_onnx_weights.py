"""Damaged weights in ONNX files are refused when they are loaded, wherever the file keeps them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import onnx

from mimo_codec import MimoError
from mimo_codec.onnx.session import Session

KINDS = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "float64": onnx.TensorProto.DOUBLE}


def write(path: Path, weight: np.ndarray, how: str = "raw") -> Path:
    """A graph that adds a weight to its input."""
    kind = KINDS[weight.dtype.name]
    if how == "values":
        tensor = onnx.helper.make_tensor("net.weight", kind, weight.shape, weight.ravel().tolist())
    else:
        tensor = onnx.numpy_helper.from_array(weight, "net.weight")
    sides = [onnx.helper.make_tensor_value_info(name, kind, weight.shape) for name in ("x", "y")]
    node = onnx.helper.make_node("Add", ["x", "net.weight"], ["y"])
    other = onnx.numpy_helper.from_array(np.array([1, 2]), "sizes")
    graph = onnx.helper.make_graph([node], "g", sides[:1], sides[1:], [other, tensor])
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.helper.set_model_props(model, {"mimo_codec": "{}"})
    options: dict[str, Any] = {}
    if how == "file":
        options = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0}
    onnx.save(model, path, **options)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", ["raw", "values", "file"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_weights_that_are_no_numbers(tmp_path: Path, how: str, dtype: str, value: float) -> None:
    if (how, dtype) == ("values", "float16"):
        pytest.skip("kept as integers, which exports do not do")
    weight = np.ones((3, 50), dtype)
    Session(write(tmp_path / "good.onnx", weight, how), ["cpu"])
    weight[2, 7] = value
    with pytest.raises(MimoError, match=r"bad.onnx: damaged: net.weight has NaN or infinite values"):
        Session(write(tmp_path / "bad.onnx", weight, how), ["cpu"])


def test_a_session_pickles(tmp_path: Path) -> None:
    """As a name: another process loads the graph for itself."""
    session = Session(write(tmp_path / "good.onnx", np.ones((3, 50), np.float32)), ["cpu"], 1)
    pickled = pickle.dumps(session)
    x = np.zeros((3, 50), np.float32)
    assert len(pickled) < 500 and np.array_equal(pickle.loads(pickled).run({"x": x})["y"], session.run({"x": x})["y"])


def test_weights_of_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_codec.onnx.initializers._BLOCK", 64)
    weight = np.ones(1000, np.float32)
    weight[-1] = np.inf
    with pytest.raises(MimoError, match="net.weight"):
        Session(write(tmp_path / "bad.onnx", weight), ["cpu"])
