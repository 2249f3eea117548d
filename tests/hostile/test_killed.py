"""A few kills of each command; `python tests/hostile/kill.py` does a hundred of each."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("command", "count"), [("encode", 4), ("decode", 4), ("train", 1), ("corpus", 2)])
def test_killed_at_random_times(command, count):
    for module in {"train": ["lightning"], "corpus": ["pyarrow", "pyloudnorm", "simpleeval"]}.get(command, []):
        pytest.importorskip(module)
    script = Path(__file__).parent / "kill.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", str(count), "--command", command],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
