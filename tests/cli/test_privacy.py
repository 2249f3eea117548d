"""No command reports to anybody: it opens no socket to another machine and leaves nothing in the home of the user."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN, ROOT, SMALL, make_speech

from mimo_codec import save_audio

pytestmark = pytest.mark.slow

TRAINING = {
    "data.batch_size": 2,
    "data.segment_seconds": 0.4,
    "data.num_workers": 0,
    "data.text_batch_size": 0,
    "model.init_args.preset": "tiny",
    "model.init_args.config": str(SMALL).replace("'", '"'),
    "model.init_args.text_weight": 0,
    "model.init_args.quantizer_start": 1,
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.max_steps": 2,
    "trainer.precision": 32,
}


def contacts(trace: str) -> list[str]:
    """Lines of a trace that reach out: sockets of the internet that leave this machine, and questions for names."""
    reached = [line for line in trace.splitlines() if "AF_INET" in line and "sa_family" in line]
    local = re.compile(r'inet_addr\("127\.|inet_addr\("0\.0\.0\.0"\)|"::1"|"::"')
    return [line for line in reached if not local.search(line) or "htons(53)" in line]


def watched(arguments: list[object], folder: Path, *python: str) -> None:
    """Run the command, or Python with other options, in an empty home; fail for what it contacts or leaves there."""
    home, trace = folder / "home", folder / "trace"
    home.mkdir(exist_ok=True)
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    command = [sys.executable, *(python or ("-m", "mimo_codec")), *map(str, arguments)]
    done = subprocess.run(
        (strace if shutil.which("strace") else []) + command,
        env=environment,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not trace.exists() or not contacts(trace.read_text(errors="replace"))
    left = [path for path in home.rglob("*") if path.is_file() and ".cache/matplotlib" not in str(path)]
    assert not left, left


def test_contacts_are_recognized():
    trace = (
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("20.1.2.3")}, 16) = -1 EINPROGRESS\n'
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0\n'
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(29500), sin_addr=inet_addr("127.0.0.1")}, 16) = 0\n'
        '1 connect(3, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT\n'
    )
    assert [line.split("htons(")[1][:3] for line in contacts(trace)] == ["443", "53)"]


def test_codecs(tmp_path, tiny_folder):
    save_audio(tmp_path / "a.wav", make_speech(0.5), 24000)
    watched(["encode", "a.wav", "-o", "a.mimo", "-m", tiny_folder], tmp_path)
    watched(["decode", "a.mimo", "-o", "b.wav", "-m", tiny_folder], tmp_path)


def test_graphs(tmp_path):
    """ONNX Runtime, which reports when it is imported and when it loads a graph, after this package."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", sides[:1], sides[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=8),
        tmp_path / "g.onnx",
    )
    script = (
        "import time, mimo_codec.onnx.session as session\n"
        "runtime = session.import_runtime()\n"
        "runtime.InferenceSession('g.onnx', providers=['CPUExecutionProvider'])\n"
        "time.sleep(3)\n"
    )
    watched([script], tmp_path, "-c")


def test_training(tmp_path, speech_folder):
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("needs the train extra")
    options = [word for name, value in TRAINING.items() for word in (f"--{name}", value)]
    watched(["train", "nano_stage1", "--data.root", speech_folder, *options], tmp_path)


def test_language_model(tmp_path, tiny_folder):
    pytest.importorskip("transformers")
    save_audio(tmp_path / "a.wav", make_speech(0.5), 24000)
    model = ["-m", GOLDEN / "lm_base", "--codec", tiny_folder, "--max-tokens", 2]
    watched(["generate", "transcribe", "a.wav", *model], tmp_path)
