"""Runs in fixed buffers, as CUDA graphs need them, here on the CPU: they give what plain runs give, bit for bit."""

from __future__ import annotations

from collections import defaultdict
from itertools import cycle
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import speech

from mimo_codec import MimoError
from mimo_codec.onnx import OnnxCodec, session
from mimo_codec.onnx import cuda_graphs as recording
from mimo_codec.onnx.session import Session

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs where the CPU stands for CUDA: the same path with a provider that captures nothing."""
    monkeypatch.setattr(session, "CUDA", "CPUExecutionProvider")


@pytest.fixture(scope="module")
def both(tiny_onnx: Path) -> tuple[OnnxCodec, OnnxCodec]:
    """A codec that records and one that does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "CUDA", "CPUExecutionProvider")
        recorded = OnnxCodec(tiny_onnx, cuda_graphs=True)
        assert made(recorded, "encoder_step") == made(recorded, "decoder_step") == 0  # loaded here
    return recorded, OnnxCodec(tiny_onnx, ["cpu"])


def made(codec: OnnxCodec, name: str) -> int:
    """Recordings of one of its graphs."""
    recordings = codec._session(name).recordings
    assert recordings is not None
    return len(recordings.made)


def decoded(codec: OnnxCodec, streams: list[np.ndarray], chunks: list[int]) -> list[np.ndarray]:
    """Streams of codes [Q, T], interleaved, in chunks of the given sizes in turn."""
    states, waveforms = [None] * len(streams), [[] for _ in streams]
    done, length = 0, streams[0].shape[1]
    for size in cycle(chunks):
        for n, codes in enumerate(streams):
            waveform, states[n] = codec.decode_chunk(codes[:, done : done + size], states[n], done + size >= length)
            waveforms[n].append(waveform)
        if (done := done + size) >= length:
            break
    return [np.concatenate(pieces) for pieces in waveforms]


# ---- the same results ------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=3), num_streams=st.integers(1, 3), q=st.integers(7, 8))
def test_interleaved_streams_of_codes(both, chunks: list[int], num_streams: int, q: int) -> None:
    streams = list(np.random.default_rng(0).integers(0, 64, (num_streams, q, 20)))
    found, expected = (decoded(codec, streams, chunks) for codec in both)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (20 * 960,) and np.array_equal(ours, theirs)
    assert made(both[0], "decoder_step")


def test_interleaved_streams_of_speech(both) -> None:
    waveform = speech(2.0)
    streams, results = (waveform, waveform[::-1]), []
    for codec in both:
        states, codes = [None, None], [[], []]
        for start in range(0, len(waveform), 2400):
            for n, samples in enumerate(streams):
                piece, states[n] = codec.encode_chunk(samples[start : start + 2400], states[n])
                codes[n].append(piece)
        results.append([np.concatenate(pieces, axis=1) for pieces in codes])
    for found, expected in zip(*results, strict=True):
        assert found.shape[1] > 40 and np.array_equal(found, expected)
    assert made(both[0], "encoder_step") == 2  # chunks of 2 and of 3 frames


def steps(chosen: Session, batch: int, sizes: list[int]) -> list[dict]:
    """All outputs of one stream, each step from the state before it."""
    rng, found = np.random.default_rng(batch), []
    state = chosen.initial_state(batch)
    for size in sizes:
        codes = rng.integers(0, 64, (batch, 8, size))
        found.append(chosen.run({"codes": codes, "num_valid": np.array(size), **state}))
        state = {name: value for name, value in found[-1].items() if name != "waveform"}
    return found


def as_arrays(outputs: dict) -> dict[str, np.ndarray]:
    return {
        name: np.array(value if isinstance(value, np.ndarray) else value.numpy()) for name, value in outputs.items()
    }


def test_batches_and_what_was_returned_before(tiny_onnx: Path, on_cpu) -> None:
    """Waveforms and states belong to the caller: later runs leave them as they are, and a stream can go back to one."""
    recorded, plain = (Session(tiny_onnx / "decoder_step.onnx", ["cpu"], 1, graphs) for graphs in (True, False))
    sizes = [2, 2, 5, 2, 2, 5]
    found = {batch: steps(recorded, batch, sizes) for batch in (1, 3)}
    for batch, outputs in found.items():
        for ours, theirs in zip(outputs, steps(plain, batch, sizes), strict=True):
            ours, theirs = as_arrays(ours), as_arrays(theirs)
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
            assert ours["num_frames"].shape == ()
    assert recorded.recordings is not None and len(recorded.recordings.made) == 4

    before = as_arrays(found[1][1])
    again = {name: value for name, value in found[1][1].items() if name != "waveform"}
    codes = np.ones((1, 8, 2), np.int64)
    first, second = (as_arrays(recorded.run({"codes": codes, "num_valid": np.array(2), **again})) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(np.array_equal(before[name], value) for name, value in as_arrays(found[1][1]).items())


def test_the_number_of_recordings_is_bounded(tiny_onnx: Path, on_cpu, monkeypatch) -> None:
    monkeypatch.setattr(recording, "MAX_RECORDINGS", 2)
    recorded, plain = (Session(tiny_onnx / "decoder_step.onnx", ["cpu"], 1, graphs) for graphs in (True, False))
    ids = []
    run = type(recorded._session).run_with_iobinding

    def watched(self, binding, options=None):
        ids.append(options and options.get_run_config_entry("gpu_graph_id"))
        return run(self, binding, options)

    monkeypatch.setattr(type(recorded._session), "run_with_iobinding", watched)
    sizes = [1, 2, 3, 1, 2, 3, 3, 1]
    found = steps(recorded, 1, sizes)
    assert ids == ["-1", "-1", "-1", "1", "2", "-1", "-1", "1"]
    for ours, theirs in zip(found, steps(plain, 1, sizes), strict=True):
        assert all(np.array_equal(as_arrays(ours)[name], value) for name, value in as_arrays(theirs).items())


def test_other_graphs_are_not_recorded(tiny_onnx: Path, on_cpu) -> None:
    codec = OnnxCodec(tiny_onnx, cuda_graphs=True)
    assert codec.decode(codec.encode(speech(0.3), 24000)).shape == (7200,)
    assert codec._session("encoder").recordings is None and codec._session("decoder").recordings is None


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("providers", [None, ["cpu"]])
def test_only_with_cuda(tiny_onnx: Path, providers: list[str] | None) -> None:
    with pytest.raises(MimoError, match=r"cuda_graphs: needs CUDA .* not CPUExecutionProvider") as raised:
        OnnxCodec(tiny_onnx, providers, cuda_graphs=True)
    assert "\n" not in str(raised.value)


def test_only_on_the_first_gpu(tiny_onnx: Path, on_cpu) -> None:
    with pytest.raises(MimoError, match="choose it with CUDA_VISIBLE_DEVICES, not device_id"):
        OnnxCodec(tiny_onnx, [("cpu", {"device_id": 1})], cuda_graphs=True)


def test_only_where_replays_are_right(tiny_onnx: Path, on_cpu, monkeypatch) -> None:
    old = SimpleNamespace(**{**vars(onnxruntime), "__version__": "1.30.2"})
    monkeypatch.setattr(session, "import_runtime", lambda: old)
    with pytest.raises(MimoError, match=r"onnxruntime 1\.30\.2 may replay them wrongly, pip install"):
        OnnxCodec(tiny_onnx, cuda_graphs=True)
    old.__version__ = "1.31.0"
    OnnxCodec(tiny_onnx, cuda_graphs=True)


# ---- what CUDA will make of the graphs -------------------------------------------------------------------------------

ON_HOST = {
    "Expand": {1},
    "Pad": {1, 2, 3},
    "Range": {0, 1, 2},
    "ReduceMean": {1},
    "ReduceSum": {1},
    "Reshape": {1},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Squeeze": {1},
    "Unsqueeze": {1},
}
"""Inputs that kernels of the CUDA provider read on the host."""


def host_nodes(graph) -> set[int]:
    """Nodes that ONNX Runtime gives to the CPU although CUDA has them: what follows from shapes, small constants and
    inputs of the graph alone (GetCpuPreferredNodes in core/framework/fallback_cpu_capability.cc)."""
    small = {tensor.name for tensor in graph.initializer if prod(tensor.dims) <= 100}
    known = small | {value.name for value in graph.input} | {""}
    host = {name for node in graph.node if node.op_type == "Shape" for name in node.output}
    found: set[int] = set()
    for i, node in enumerate(graph.node):  # in topological order
        reads = [(name, k in ON_HOST.get(node.op_type, ())) for k, name in enumerate(node.input) if name not in known]
        if reads and all(name in host and not meant for name, meant in reads):
            found.add(i)
            host.update(node.output)
    return found


def crossings(graph) -> set[str]:
    """Values that are made on one side and read on the other: their copies forbid to capture the graph."""
    host = host_nodes(graph)
    reads: dict[str, set[bool]] = defaultdict(set)
    for i, node in enumerate(graph.node):
        for k, name in enumerate(node.input):
            reads[name].add(i in host or k in ON_HOST.get(node.op_type, ()))
    made = {value.name: False for value in graph.input}
    for i, node in enumerate(graph.node):
        made |= {name: i in host or node.op_type == "Shape" for name in node.output}
    for value in graph.output:
        reads[value.name].add(False)
    return {name for name, sides in reads.items() if name in made and sides != {made[name]}}


@pytest.mark.parametrize("name", ["encoder_step", "decoder_step"])
def test_steps_can_be_captured(tiny_onnx: Path, name: str, tmp_path: Path) -> None:
    assert_capturable(tiny_onnx / f"{name}.onnx", tmp_path)


def assert_capturable(path: Path, folder: Path) -> None:
    """No control flow, and only sizes of shapes on the host."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # what comes before placing
    options.optimized_model_filepath = str(folder / path.name)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / path.name).graph
    assert not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    assert host_nodes(graph) and not crossings(graph)


def test_what_could_not_be_captured() -> None:
    """A sum of an input and a size, which is what `graphs.after` avoids."""
    from onnx import TensorProto, helper

    inputs = [
        helper.make_tensor_value_info("codes", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("count", TensorProto.INT64, [1]),
    ]
    nodes = [helper.make_node("Shape", ["codes"], ["size"]), helper.make_node("Add", ["count", "size"], ["new.count"])]
    outputs = [helper.make_tensor_value_info("new.count", TensorProto.INT64, [1])]
    assert crossings(helper.make_graph(nodes, "steps", inputs, outputs)) == {"count", "new.count"}
