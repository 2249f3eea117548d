"""`load_codec`: which kind of codec a name means."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_speech
from exports import tiny_model
from goldens import streaming_codec

import mimo_codec
from mimo_codec import MimoCodec, MimoError, load_codec

pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from mimo_codec.onnx import OnnxCodec
from mimo_codec.onnx.codec import runtime


def test_it_is_public():
    assert mimo_codec.load_codec is load_codec and "load_codec" in mimo_codec.__all__


def test_a_shipped_name():
    codec = load_codec(device="cpu", dtype="bfloat16")
    assert isinstance(codec, MimoCodec) and codec.name == "nano" and codec.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [str, Path])
def test_folders(tiny_onnx, kind):
    model, graphs = load_codec(kind(tiny_model(tiny_onnx)), device="cpu"), load_codec(kind(tiny_onnx), device="cpu")
    assert isinstance(model, MimoCodec) and isinstance(graphs, OnnxCodec)
    assert model.model_id == graphs.model_id
    codes = [codec.encode(make_speech(0.5), 24000) for codec in (model, graphs, streaming_codec())]
    assert all(np.array_equal(found.to_numpy(), codes[2].to_numpy()) for found in codes[:2])


def test_home_folders(tiny_onnx, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_onnx.parent))
    assert isinstance(load_codec(f"~/{tiny_onnx.name}"), OnnxCodec)


@pytest.mark.parametrize(
    ("device", "providers"),
    [(None, None), ("cpu", ["cpu"]), ("cuda:1", [("cuda", {"device_id": 1})]), (torch.device("cuda"), ["cuda"])],
)
def test_devices_are_providers(tiny_onnx, monkeypatch, device, providers):
    asked = []
    both = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr("mimo_codec.onnx.session.import_runtime", lambda: both)
    monkeypatch.setattr(runtime, "OnnxCodec", lambda folder, providers=None: asked.append(providers))
    load_codec(tiny_onnx, device=device)
    assert asked == [providers]


def test_what_is_refused(tiny_onnx, tmp_path):
    for options in ({"dtype": "float16"}, {"revision": "main"}):
        with pytest.raises(MimoError, match="chosen when a model is exported"):
            load_codec(tiny_onnx, **options)
    with pytest.raises(MimoError, match="abacus"):
        load_codec(tiny_onnx, device="abacus")
    with pytest.raises(MimoError, match=r"no config\.json in this folder, so it is not a model .*encoder\.onnx"):
        load_codec(tmp_path)
    with pytest.raises(MimoError, match="unknown model 'giant'"):
        load_codec("giant")
    for name in ("", None):
        with pytest.raises(MimoError, match="a name, a folder or a hub id is needed"):
            load_codec(name)
    with pytest.raises(MimoError, match="holds an exported model, and a model in PyTorch is needed"):
        MimoCodec.from_pretrained(tiny_onnx)


def test_graphs_are_loaded_without_torch(tiny_onnx):
    code = """
import sys
sys.modules["torch"] = None
import numpy as np
from mimo_codec import load_codec
codec = load_codec(sys.argv[1])
codes = codec.encode(np.zeros(5000, np.float32), 16000)
assert codec.decode(codes).shape == (7500,) and codec.decode_batch([codes, codes])[1].shape == (7500,)
assert sum(len(piece) for piece in codec.decode_stream([codes])) == 7500
print(codec.encode_latency, codec.decode_latency)
"""
    done = subprocess.run([sys.executable, "-c", code, tiny_onnx], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(streaming_codec().encode_latency), str(streaming_codec().decode_latency)]
