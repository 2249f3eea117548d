"""Which provider of ONNX Runtime runs a graph, and with which options."""

from types import SimpleNamespace

import numpy as np
import pytest

from mimo_codec import MimoError
from mimo_codec.onnx import OnnxCodec, session

onnxruntime = pytest.importorskip("onnxruntime")


def test_providers(tiny_onnx, monkeypatch):
    with pytest.raises(MimoError, match="rocket is not in this onnxruntime; it has"):
        OnnxCodec(tiny_onnx, ["rocket"])
    with pytest.raises(MimoError, match="a list is needed"):
        OnnxCodec(tiny_onnx, "cpu")
    everything = ["CPUExecutionProvider", "OtherExecutionProvider", *session.PROVIDERS[:2]]
    assert session.choose_providers(None, everything) == [(name, {}) for name in session.PROVIDERS]
    chosen = [("CUDAExecutionProvider", {"device_id": 1}), ("CPUExecutionProvider", {})]
    assert session.choose_providers([("cuda", {"device_id": 1}), "CPUExecutionProvider"], everything) == chosen
    for bad in ([], {}, 1, [1], ["cpu", None], [("cpu", "fast")], [("cpu",)], ("cuda", {"device_id": 1})):
        with pytest.raises(MimoError, match="providers: ") as raised:
            OnnxCodec(tiny_onnx, bad)
        assert "\n" not in str(raised.value)
    assert OnnxCodec(tiny_onnx, [("CPUExecutionProvider", {})]).num_quantizers == 8
    monkeypatch.setattr(session, "choose_providers", lambda *_: chosen)
    with pytest.raises(MimoError, match="CUDAExecutionProvider does not work on this machine; onnxruntime took CPU"):
        OnnxCodec(tiny_onnx, ["cuda", "cpu"])
    assert OnnxCodec(tiny_onnx).num_quantizers == 8
    monkeypatch.setattr(session, "_is_installed", lambda name: True)
    with pytest.raises(MimoError, match="both installed and overwrite each other: pip uninstall"):
        OnnxCodec(tiny_onnx)


class _OnGpu(onnxruntime.InferenceSession):
    """Says that it runs on the first provider; runs on the CPU."""

    def __init__(self, path, options, providers, enable_fallback):
        super().__init__(path, options, ["CPUExecutionProvider"])
        self.asked, self.places = providers, []

    def get_providers(self):
        return [name for name, _ in self.asked]

    def io_binding(self):
        binding = super().io_binding()
        bind = binding.bind_output
        binding.bind_output = lambda name, *place: (self.places.append(place), bind(name))
        return binding


@pytest.fixture
def gpu_runtime(monkeypatch) -> SimpleNamespace:
    """As onnxruntime-gpu; `preloaded` says with what it was told to load CUDA."""

    def preload_dlls(**options):
        print("Failed to load libcudart.so")
        fake.preloaded.append(options)

    fake = SimpleNamespace(
        **{**vars(onnxruntime), "InferenceSession": _OnGpu, "preload_dlls": preload_dlls}, preloaded=[]
    )
    fake.get_available_providers = lambda: list(session.PROVIDERS)
    monkeypatch.setattr(session, "import_runtime", lambda: fake)
    return fake


def test_cuda_computes_in_float32(tiny_onnx, gpu_runtime):
    path, plain = tiny_onnx / "decoder_step.onnx", {"use_tf32": "0", "enable_cuda_graph": "0"}
    tensorrt, cuda, cpu = session.PROVIDERS
    assert session.Session(path)._session.asked == [(tensorrt, {}), (cuda, plain), (cpu, {})]
    gpu_runtime.__version__ = "1.31.0"
    recorded = session.Session(path, cuda_graphs=True)
    assert recorded._session.asked == [(cuda, {**plain, "enable_cuda_graph": "1"})]


def test_cuda_from_pip(tiny_onnx, gpu_runtime, capsys):
    session.Session(tiny_onnx / "encoder.onnx", ["cpu"])
    assert gpu_runtime.preloaded == []
    session.Session(tiny_onnx / "encoder.onnx", ["tensorrt"])
    session.Session(tiny_onnx / "encoder.onnx", ["cuda", "cpu"])
    assert gpu_runtime.preloaded == [{"directory": ""}] * 2
    assert capsys.readouterr().out == ""
    del gpu_runtime.preload_dlls  # before 1.21
    session.Session(tiny_onnx / "encoder.onnx", ["cuda"])


def test_another_gpu(tiny_onnx, gpu_runtime):
    found = session.Session(tiny_onnx / "decoder_step.onnx", [("cuda", {"device_id": 1}), "cpu"])
    assert found._session.asked[0][1]["device_id"] == 1
    found.run({"codes": np.ones((1, 8, 2), np.int64), "num_valid": np.array(2), **found.initial_state()})
    assert set(found._session.places) == {("cpu", 0), ("cuda", 1)}
