"""The example programs run as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def run(code: list[str], folder: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
    assert run([str(example)], tmp_path)


def test_streaming_example_is_exact(tmp_path):
    shown = run([str(ROOT / "examples" / "streaming.py")], tmp_path)
    assert float(re.search(r"at once: (\S+)", shown).group(1)) < 1e-5
