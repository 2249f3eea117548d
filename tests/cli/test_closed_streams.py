"""Standard streams that are closed: no traceback, and nothing goes where something else belongs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_speech

from mimo_codec import AudioCodes, save_audio
from mimo_codec.cli import start


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "a.wav"
    save_audio(path, make_speech(0.3), 24000)
    return path


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which COMMAND stands for the command with these arguments."""
    command = shlex.join([sys.executable, "-m", "mimo_codec", *map(str, arguments)])
    line = f"set -o pipefail; {line.replace('COMMAND', command)}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)


def test_nobody_reads(wav: Path) -> None:
    done = shell("COMMAND | head -c 0", "info", wav)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize("line", ["COMMAND >&-", "COMMAND <&- >&-", "COMMAND >&- 2>&- <&-"])
def test_stdout_is_closed(wav: Path, line: str) -> None:
    done = shell(line, "info", wav)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_errors_do_not_go_to_stdout(tmp_path: Path) -> None:
    done = shell("COMMAND 2>&-", "info", tmp_path / "none.wav")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    done = shell("COMMAND 2>&-", "encode")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_files_do_not_take_the_place_of_streams(wav: Path, tmp_path: Path, tiny_folder: Path) -> None:
    """A file that had the number of stderr would get what libraries write there."""
    done = shell("COMMAND <&- >&- 2>&-", "encode", wav, "-o", tmp_path / "a.mimo", "-m", tiny_folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert AudioCodes.load(tmp_path / "a.mimo").num_samples == 7200


def test_sound_for_a_closed_stdout(wav: Path, tiny_folder: Path) -> None:
    done = shell("COMMAND >&-", "encode", wav, "-o", "-", "-m", tiny_folder)
    assert done.returncode == 2 and done.stderr == "mimo-codec: error: standard output: is closed\n"


def test_an_interrupt_before_the_command_line_is_there_leaves_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mimo_codec.cli.main.main", interrupt)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit):
        start.main()
    assert capsys.readouterr().out == ""
