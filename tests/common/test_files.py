import errno
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path
from mimo_codec.common.temporaries import temporary_name


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_target_appears_whole_at_the_end(tmp_path):
    target = tmp_path / "speech.wav"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".wav"
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["speech.wav"]


def test_temporary_names_are_unique(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second


def test_accepts_a_string(tmp_path):
    with atomic_path(str(tmp_path / "a.txt")) as temporary:
        temporary.write_text("x")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_failure_keeps_the_old_content_and_leaves_nothing_else(tmp_path, failure):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_failed_write_is_reported_by_the_target_name(tmp_path):
    with pytest.raises(MimoError) as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"{tmp_path / 'a.txt'}: cannot be written: No space left on device"
    assert names(tmp_path) == []


def test_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(MimoError, match="Permission denied"), atomic_path(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_own_errors_pass_unchanged(tmp_path):
    with pytest.raises(MimoError, match="^reason$"), atomic_path(tmp_path / "a"):
        raise MimoError("reason")


def test_existing_target_needs_overwrite(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(MimoError) as caught, atomic_path(target, overwrite=False):
        pytest.fail("the block must not run")
    assert str(caught.value) == f"{target} already exists; pass overwrite=True (--overwrite)"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_target_made_meanwhile_survives_without_overwrite(tmp_path):
    target = tmp_path / "a.txt"
    with (
        pytest.raises(MimoError, match="already exists"),
        atomic_path(target, overwrite=False) as temporary,
    ):
        temporary.write_text("ours")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


def test_folder_as_target(tmp_path):
    with pytest.raises(MimoError, match="is a folder"), atomic_path(tmp_path):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_parent_must_be_a_folder(tmp_path, parent):
    (tmp_path / "file").touch()
    target = tmp_path / parent / "a.txt"
    with pytest.raises(MimoError) as caught, atomic_path(target):
        pytest.fail("the block must not run")
    assert str(caught.value) == f"{target}: there is no folder {target.parent}"


def test_unwritable_folder(tmp_path, monkeypatch):
    def refuse(*_, **__):  # the tests may run as root, whom no mode bits stop
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(MimoError, match="cannot be written: Permission denied"), atomic_path(tmp_path / "a"):
        pytest.fail("the block must not run")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_a_device_is_not_replaced():
    with pytest.raises(MimoError, match="/dev/null is not a regular file"), atomic_path("/dev/null"):
        pytest.fail("the block must not run")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_a_link_is_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and real.read_text() == "new"
    assert names(real.parent) == ["real.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_file_mode_follows_the_umask(tmp_path):
    with atomic_path(tmp_path / "ours") as temporary:
        temporary.write_text("x")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1]


def test_what_killed_processes_left_is_removed(tmp_path):
    """A temporary file of a process that is gone goes with the next file; those of others stay."""
    script = (
        "import os, sys; from pathlib import Path; from mimo_codec.common.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1]) / 'killed.wav') as path: path.write_text('half'); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    folder = tmp_path / (left.stem[:-16] + "0" * 16)
    folder.mkdir()
    (folder / "encoder.onnx").touch()
    others = [
        temporary_name(tmp_path / "elsewhere"),  # of this process
        Path(left.name.replace(left.name.split("-")[2], "0" * 8)),  # of another machine
        Path(f".mimo-codec-{'0' * 16}.wav"),  # named by something else
    ]
    for other in others:
        (tmp_path / other.name).touch()
    with atomic_path(tmp_path / "next.wav") as path:
        path.write_text("whole")
    assert set(names(tmp_path)) == {"next.wav", *(other.name for other in others)}


def test_of_two_writers_without_overwrite_one_succeeds(tmp_path):
    with pytest.raises(MimoError, match="already exists"), atomic_path(tmp_path / "a.txt", overwrite=False) as first:
        first.write_text("first")
        with atomic_path(tmp_path / "a.txt", overwrite=False) as second:
            second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "second" and names(tmp_path) == ["a.txt"]


def test_a_file_made_at_the_last_moment_survives(tmp_path, monkeypatch):
    """Between the last look and the renaming."""
    monkeypatch.setattr("mimo_codec.common.files.check_target", lambda path, overwrite: None)
    with suppress(MimoError), atomic_path(tmp_path / "a.txt", overwrite=False) as temporary:
        temporary.write_text("mine")
        (tmp_path / "a.txt").write_text("another's")
        monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "another's"


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_systems_without_links(error, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    with atomic_path(tmp_path / "a.txt", overwrite=False) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x" and names(tmp_path) == ["a.txt"]


def test_a_replaced_file_keeps_its_mode_and_owner(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 1234, 2345)
    before = path.stat()
    with atomic_path(path) as temporary:
        temporary.write_text("after")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.read_text() == "after"
