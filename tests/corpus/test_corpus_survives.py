"""Whatever ends while a corpus is made: nothing is lost, nothing is doubled, and the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from full_disk import files_of_at_most
from runs import content, make_recordings, pipeline, shards

from mimo_codec import MimoError
from mimo_codec.corpus.config import make_pipeline
from mimo_codec.corpus.run import Run

needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="needs the corpus extra")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def whole(recordings: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run makes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("corpus") / "out"
    Run(pipeline(tiny_folder), str(recordings), folder)()
    return shards(folder)


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=needs_ray)])
@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(engine, recordings, tiny_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("killed", "other", "third"):
        shutil.copy(recordings / "a.wav", source / f"{name}.wav")
    parts = {"describe": ["runs.Fatal"], "select": {"near_duplicates": False, "exact_duplicates": False}}
    one = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "one", engine)()
    assert (source / "killed.killed").exists() and not one.quarantine
    again = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "two")()
    assert again.manifest["rows"] == 9 and shards(tmp_path / "one") == shards(tmp_path / "two")


@pytest.mark.slow
def test_a_recording_that_ends_the_process_is_quarantined(recordings, tiny_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("fatal", "other"):
        shutil.copy(recordings / "a.wav", source / f"{name}.wav")
    parts = {"describe": ["runs.Fatal"], "select": {"near_duplicates": False, "exact_duplicates": False}}
    outcome = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "out")()
    (entry,) = outcome.quarantine
    assert Path(entry["path"]).name == "fatal.wav" and "ended the process: Aborted" in entry["reason"]
    assert outcome.manifest["rows"] == 3


@pytest.mark.slow
def test_a_killed_driver_goes_on(recordings, tiny_folder, tmp_path):
    """Killed again and again, with its workers; nothing is lost, doubled or left over."""
    parts = content(tiny_folder, 2, describe=["loudness", "quality", "runs.Slow"])
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(parts))
    Run(make_pipeline({**parts, "engine": {**parts["engine"], "workers": 1}}), str(recordings), tmp_path / "whole")()
    call = [sys.executable, "-m", "mimo_codec", "corpus", "run", str(config), "-i", str(recordings), "-o"]
    call.append(str(tmp_path / "out"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    kills = 0
    for delay in (3.0, 4.0, 5.0, 6.0):
        process = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    finished = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".mimo-codec-*")) and kills


@pytest.mark.slow
def test_interrupts_do_not_wait_for_workers(recordings, tiny_folder, tmp_path):
    """A task may take half an hour; Ctrl-C ends the run at once, with its workers."""
    config = tmp_path / "pipeline.yaml"
    config.write_text(json.dumps(content(tiny_folder, 2, describe=["loudness", "quality", "runs.Endless"])))
    call = [sys.executable, "-m", "mimo_codec", "corpus", "run", str(config), "-i", str(recordings), "-o", "out"]
    process = subprocess.Popen(
        call,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (begun := list(tmp_path.glob("*.begun"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert begun and process.returncode == 130 and err == "mimo-codec: error: interrupted\n", err
    assert not any(Path(f"/proc/{path.stem}").exists() for path in begun)


def test_a_full_disk_is_an_error_and_the_same_command_goes_on(recordings, tiny_folder, whole, tmp_path):
    """Files cannot grow beyond some bytes, then beyond more: what is finished stays, and nothing half-written does."""
    most = max(map(len, whole.values())) + 4096
    failed = 0
    for limit in (*range(500, most, 3000), most):
        try:
            with files_of_at_most(limit):
                Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")()
        except MimoError as error:
            failed += 1
            assert str(tmp_path / "out") in str(error) and "\n" not in str(error)
            assert not (tmp_path / "out" / "manifest.json").exists()
        assert not list((tmp_path / "out").rglob(".mimo-codec-*"))
    Run(pipeline(tiny_folder), str(recordings), tmp_path / "out")()
    assert failed > 2 and shards(tmp_path / "out") == whole


# ---- Ray -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_ray
def test_ray_makes_what_one_process_makes(recordings, tiny_folder, whole, tmp_path):
    Run(pipeline(tiny_folder, workers=2), str(recordings), tmp_path / "out", engine="ray")()
    assert shards(tmp_path / "out") == whole


@pytest.mark.slow
@needs_ray
def test_a_recording_that_ends_an_actor_of_ray_is_quarantined(recordings, tiny_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("fatal", "other"):
        shutil.copy(recordings / "a.wav", source / f"{name}.wav")
    parts = {"describe": ["runs.Fatal"], "select": {"near_duplicates": False, "exact_duplicates": False}}
    outcome = Run(pipeline(tiny_folder, 2, **parts), str(source), tmp_path / "out", engine="ray")()
    (entry,) = outcome.quarantine
    assert Path(entry["path"]).name == "fatal.wav" and "ended the process: Aborted" in entry["reason"]
    assert outcome.manifest["rows"] == 3


@pytest.mark.slow
@needs_ray
def test_a_machine_that_leaves_a_cluster_of_ray_loses_nothing(recordings, tiny_folder, tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    parts = {"describe": ["loudness", "quality", "runs.Slow"]}
    Run(pipeline(tiny_folder, 1, **parts), str(recordings), tmp_path / "whole")()
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    leaving = [cluster.add_node(num_cpus=1)]

    def leave(half: str, number: int) -> None:
        if leaving:
            cluster.remove_node(leaving.pop(), allow_graceful=False)

    try:
        run = Run(pipeline(tiny_folder, 2, **parts), str(recordings), tmp_path / "out", "ray", cluster.address)
        run(progress=leave)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not leaving and shards(tmp_path / "out") == shards(tmp_path / "whole")
