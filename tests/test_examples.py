"""The example programs, and the README's Python, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_readme_python_runs(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 2
    run(["-c", "\n".join(blocks)], tmp_path)
    assert (tmp_path / "decoded.wav").stat().st_size > 0
    assert (tmp_path / "speech.mimo").stat().st_size < 200 + 12 * 1550 / 8


def test_readme_python_of_the_language_model_runs(tmp_path, monkeypatch, capsys):
    """With a small model of random weights in the place of the released one."""
    pytest.importorskip("transformers", reason="needs the lm extra")
    (block,) = re.findall(r"```py\n(.*?)```", README, re.S)
    block = re.sub(r'"XiaomiMiMo/MiMo-Audio-7B[^"]*"', repr(str(ROOT / "tests" / "golden" / "lm_base")), block)
    block = block.replace('"XiaomiMiMo/MiMo-Audio-Tokenizer"', '"nano"')
    monkeypatch.chdir(ROOT)
    found: dict = {}
    exec(block, found)
    assert len(found["answers"]) == 2 and found["predictions"].audio_logits and capsys.readouterr().out.strip()


def test_readme_commands_exist():
    from typer.main import get_command

    from mimo_codec.cli.main import app

    used = set(re.findall(r"^(?:\S*/)?mimo-codec (\w+)", README, re.M))
    assert {"encode", "decode", "reconstruct", "info", "models", "train"} <= used
    assert used <= set(get_command(app).commands)
