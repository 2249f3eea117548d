"""The check after an export finds what is wrong, and a failing export leaves nothing."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import streaming_codec

from mimo_codec import MimoCodec, MimoError
from mimo_codec.onnx import session
from mimo_codec.onnx.codec import export as exporting
from mimo_codec.onnx.codec.check import Comparison, Difference, _judge, check_codec
from mimo_codec.onnx.codec.export import export_codec

onnx = pytest.importorskip("onnx")


def test_a_failing_check_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "write_graph", lambda graph, path, metadata, opset: path.write_bytes(b"graph"))
    codec = streaming_codec()

    def fail(folder: Path) -> None:
        assert (folder / "encoder.onnx").is_file()
        raise MimoError("differs")

    with pytest.raises(MimoError, match="differs"):
        export_codec(codec, tmp_path / "x", check=fail)
    with pytest.raises(MimoError, match="differs"):
        export_codec(codec, tmp_path / "a" / "b" / "c", check=fail)
    assert list(tmp_path.iterdir()) == []
    export_codec(codec, tmp_path / "x")
    with pytest.raises(MimoError, match="already exists"):
        export_codec(codec, tmp_path / "x")
    with pytest.raises(MimoError, match="differs"):
        export_codec(codec, tmp_path / "x", overwrite=True, check=fail)
    assert (tmp_path / "x" / "decoder.onnx").read_bytes() == b"graph" and len(list(tmp_path.iterdir())) == 1


def test_overwriting_removes_only_older_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "write_graph", lambda graph, path, metadata, opset: path.write_bytes(b"graph"))
    others = {"whisper.onnx", "whisper.onnx.data", "backbone.onnx", "notes.txt"}
    for name in (*others, "decoder.onnx", "decoder.onnx.data", "encoder.onnx.data", "encoder.onnx"):
        (tmp_path / name).write_bytes(b"old")
    export_codec(streaming_codec(), tmp_path, graphs=("encoder",), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.onnx", *others}
    assert (tmp_path / "encoder.onnx").read_bytes() == b"graph"


def test_the_check_finds_what_is_wrong(tiny_onnx):
    other = streaming_codec()
    other = MimoCodec(other.config).eval()
    other.load_state_dict(streaming_codec().state_dict())
    with torch.no_grad():
        other.require_decoder().vocoder.head.out.bias += 0.01
    with pytest.raises(MimoError, match="do not do what the codec does"):
        check_codec(other, tiny_onnx)


def test_the_check_finds_steps_that_are_wrong(tiny_onnx, tmp_path):
    codec, folder = streaming_codec(), shutil.copytree(tiny_onnx, tmp_path / "x")
    for name in ("encoder_step", "decoder_step"):
        model = onnx.load(folder / f"{name}.onnx")
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        largest.raw_data = bytes(len(largest.raw_data))
        onnx.save(model, folder / f"{name}.onnx")
        with pytest.raises(MimoError, match=f"{name}.onnx does not do what"):
            check_codec(codec, folder, lambda line: None)
        shutil.copy(tiny_onnx / f"{name}.onnx", folder)


@pytest.mark.parametrize(
    ("graph", "spoilt", "breaks"),
    [
        ("encoder", "codes", lambda inputs: len(inputs["waveform"]) > 1),
        ("decoder", "waveform", lambda inputs: len(inputs["codes"]) > 1),
        ("decoder", "waveform", lambda inputs: inputs["codes"].shape[1] < 8),
    ],
    ids=["encoder in a batch", "decoder in a batch", "fewer codebooks"],
)
def test_the_check_knows_batches_and_fewer_codebooks(tiny_onnx, monkeypatch, graph, spoilt, breaks):
    run_session = session.Session.run

    def run(self, inputs):
        found = run_session(self, inputs)
        if self.path.stem == graph and breaks(inputs):
            found[spoilt] = np.roll(found[spoilt], 5, axis=-1)
        return found

    monkeypatch.setattr(session.Session, "run", run)
    with pytest.raises(MimoError, match="do not do what the codec does"):
        check_codec(streaming_codec(), tiny_onnx, lambda line: None)


def test_the_check_lists_codes_that_differ(tiny_onnx):
    """Ten lines, and how many are not shown."""
    other, lines = MimoCodec(streaming_codec().config).eval(), []
    other.load_state_dict(streaming_codec().state_dict())
    with torch.no_grad():
        for weight in other.encoder.parameters():
            weight *= 1.01
    with pytest.raises(MimoError, match="do not do what the codec does"):
        check_codec(other, tiny_onnx, lines.append)
    listed = [line for line in lines if "other code in" in line]
    assert len(listed) == 10 and any(re.match(r"  \.\.\. and \d+ more$", line) for line in lines)
    for line in listed:
        assert re.match(r"  other code in \d+\.\d\d s( in a batch)?, frame \d+, codebook \d: distances within ", line)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_check_refuses_what_is_no_number_and_other_codes(dtype):
    good = Comparison("1.00 s", 1.0, 25, 200, 0, 1.0, (), 0.0, 90.0, ())
    _judge([good], dtype)
    for bad in (
        replace(good, error=np.nan, snr_db=np.nan),
        replace(good, first_equal=0.2, differences=(Difference(0, 0, 0.1),) * 20),
    ):
        with pytest.raises(MimoError, match="codes"):
            _judge([good, bad], dtype)
