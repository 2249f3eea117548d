"""Manifests, and scans of good and broken files."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from broken_files import RATE, write_speech
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("lightning", reason="needs the train extra")

from mimo_codec import MimoError
from mimo_codec.cli.main import main
from mimo_codec.data import scan as scanning
from mimo_codec.data.find import find_utterances
from mimo_codec.data.manifest import read_manifest, write_manifest
from mimo_codec.data.scan import Limits, examine, scan
from mimo_codec.data.utterance import Fault, Utterance

words = st.none() | st.text(max_size=8)
positive = st.floats(0.001, 1e6)
names = st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(lambda name: name not in (".", ".."))
utterances = st.builds(
    Utterance,
    path=names.map(Path),
    start=st.just(0.0) | st.floats(0, 10),
    end=st.none() | st.floats(11, 1e6),
    text=words,
    speaker=words,
    split=words,
    seconds=st.none() | positive,
    sample_rate=st.none() | st.integers(1000, 768000),
    peak=st.none() | st.floats(0, 2),
    clipped=st.none() | st.floats(0, 1),
    silence=st.none() | st.floats(0, 1),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(utterances, max_size=5), inside=st.booleans())
def test_manifests_come_back_as_they_were(tmp_path: Path, rows: list[Utterance], inside: bool) -> None:
    folder = tmp_path / "audio" if inside else tmp_path.parent
    rows = [replace(row, path=folder / row.path) for row in rows]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert read_manifest(tmp_path / "m.jsonl") == rows
    lines = (tmp_path / "m.jsonl").read_bytes().decode("utf-8", "surrogatepass").split("\n")[:-1]
    assert [Path(json.loads(line)["path"]).is_absolute() for line in lines] == [not inside] * len(rows)


def test_a_manifest_can_be_moved_with_its_audio(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance(write_speech(tmp_path / "old" / "a.wav"))])
    (tmp_path / "old" / "m.jsonl").write_text('{"path": "a.wav"}')
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.jsonl") == [Utterance(tmp_path / "new" / "a.wav")]


def test_manifests_of_others_are_read(tmp_path: Path) -> None:
    row = {
        "path": "train/a.flac",
        "split": "train",
        "speaker": 12,
        "sample_rate": 24000,
        "seconds": 8.3,
        "source": "x",
        "license": "CC0",
        "text": "a b",
        "start": None,
    }
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\n")  # as on Windows
    expected = Utterance(
        tmp_path / "train/a.flac",
        text="a b",
        speaker="12",
        split="train",
        source="x",
        licence="CC0",
        seconds=8.3,
        sample_rate=24000,
    )
    assert read_manifest(path) == [expected]
    path.write_text('{"path": "a.wav", "source": {"url": "x"}, "licence": ["a", "b"]}')
    assert read_manifest(path) == [Utterance(tmp_path / "a.wav")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "path must name"),
        ('{"path": 3}', "path must name"),
        ('{"path": "a.wav", "seconds": "long"}', "seconds must be a number"),
        ('{"path": "a.wav", "seconds": NaN}', "seconds must be a number"),
        ('{"path": "a.wav", "start": 2, "end": 1}', "end must be later"),
        ('{"path": "a.wav", "text": 1}', "text must be text"),
        ('{"path": "a.wav", "text": "\udce9"}', "is not JSON"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"path": "fine.wav"}\n' + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(MimoError, match=message) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}: line 2: ") and "\n" not in str(error.value)


def test_sources_that_are_none(tmp_path: Path, speech_folder: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for source, split, message in [
        (tmp_path, None, "no files to read"),
        (tmp_path / "missing", None, "not a folder"),
        (tmp_path / "missing.jsonl", None, "No such file"),
        (tmp_path / "empty.jsonl", None, "has no rows"),
        (speech_folder / "0.wav", None, "not a folder"),
        (speech_folder, "train", "no split"),
    ]:
        with pytest.raises(MimoError, match=message):
            find_utterances(source, split)


def test_text_beside_audio_is_found(speech_folder: Path, tmp_path: Path) -> None:
    found, faults = find_utterances(speech_folder)
    assert [u.text for u in found] == ["three seconds", "one second: 一秒", None, None, None] and not faults
    write_speech(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (found,), (fault,) = find_utterances(tmp_path)
    assert found.text is None and fault.kind == "bad text" and fault.path == tmp_path / "a.txt"


def test_linked_folders_are_followed_and_read_once(tmp_path: Path) -> None:
    write_speech(tmp_path / "elsewhere" / "a.wav")
    write_speech(tmp_path / "speech" / "own" / "b.wav")
    (tmp_path / "speech" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "speech" / "own" / "back").symlink_to(tmp_path / "speech", target_is_directory=True)
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found, faults = find_utterances(tmp_path / "speech")
    assert [str(u.path.relative_to(tmp_path)) for u in found] == ["speech/linked/a.wav", "speech/own/b.wav"]
    assert not faults


def test_a_folder_that_cannot_be_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_speech(tmp_path / "a.wav")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (found,), (fault,) = find_utterances(tmp_path)
    assert found.path.name == "a.wav" and fault.path.name == "secret" and "denied" in fault.reason


# ---- scans -----------------------------------------------------------------------------------------------------------


def test_every_broken_file_is_found_and_named(mixed_folder: tuple[Path, dict[str, str]]) -> None:
    folder, kinds = mixed_folder
    found, _ = find_utterances(folder)
    seen: list[int] = []
    good, faults = scan(found, num_workers=2, progress=seen.append)
    assert {fault.path.name: fault.kind for fault in faults} == kinds
    assert len(found) == 200 and len(good) == 180 and all("good" in u.name for u in good)
    assert seen == list(range(200))
    assert scan(found, num_workers=1) == (good, faults)
    assert all("\n" not in fault.reason and str(folder) not in fault.reason for fault in faults)


def test_figures_of_a_file(tmp_path: Path) -> None:
    """Of stereo, 24 % of it silent and a 400th clipped."""
    samples = np.full((RATE, 2), 0.25, dtype=np.float32)
    samples[: RATE * 24 // 100] = 0
    samples[-RATE // 400 :] = 1.0
    sf.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    (good,), _ = scan([Utterance(tmp_path / "a.wav", text="x", speaker="y", split="z")])
    assert good == Utterance(
        tmp_path / "a.wav",
        text="x",
        speaker="y",
        split="z",
        seconds=1.0,
        sample_rate=RATE,
        peak=1.0,
        clipped=0.0025,
        silence=0.24,
    )


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (Limits(min_seconds=1.01), "too short"),
        (Limits(max_clipped=0.002), "clipped"),
        (Limits(max_silence=0.2), "silent"),
        (Limits(min_seconds=1.0, max_clipped=0.003, max_silence=0.3), None),
    ],
)
def test_limits_can_be_chosen(tmp_path: Path, limits: Limits, kind: str | None) -> None:
    test_figures_of_a_file(tmp_path)
    outcome = examine(Utterance(tmp_path / "a.wav"), limits)
    assert (outcome.kind if isinstance(outcome, Fault) else None) == kind


@pytest.mark.parametrize("name", ["min_seconds", "max_clipped", "max_silence"])
def test_limits_that_are_refused(name: str) -> None:
    with pytest.raises(MimoError, match=name):
        Limits(**{name: -1})


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_ranges_of_a_longer_file(tmp_path: Path, suffix: str) -> None:
    path = write_speech(tmp_path / f"a{suffix}", 3.0, 16000)
    ranges = [(0.0, 1.0), (1.0, 2.25), (2.0, None), (2.0, 3.05), (2.0, 4.0), (5.0, 6.0)]
    good, faults = scan([Utterance(path, start, end) for start, end in ranges], Limits(max_silence=1))
    assert [u.seconds for u in good] == pytest.approx([1.0, 1.25, 1.0, 1.0], abs=0.05)
    assert [(fault.kind, fault.name) for fault in faults] == [
        ("bad range", f"{path} @ 2"),
        ("bad range", f"{path} @ 5"),
    ]


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.wav")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    _, (fault,) = scan([Utterance(path)])
    assert fault.kind == "unreadable" and "denied" in fault.reason


def test_an_mp3_that_ends_early_is_damaged(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.mp3", 4.0, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, (fault,) = scan([Utterance(path)])
    assert fault.kind == "damaged" and "promises" in fault.reason


def test_a_decoder_that_takes_its_process_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Utterance(write_speech(tmp_path / f"{i}.wav")) for i in range(40)]
    measure = scanning._measure

    def crash(utterance: Utterance, rate: int) -> Utterance:
        if utterance.path.stem in ("7", "30"):
            os._exit(1)
        return measure(utterance, rate)

    monkeypatch.setattr(scanning, "_measure", crash)
    monkeypatch.setattr(scanning, "_CHUNK", 4)
    if sys.platform != "linux" or sys.version_info >= (3, 14):
        pytest.skip("the patch reaches other processes where they are forked only")
    good, faults = scan(rows, num_workers=2)
    assert len(good) == 38 and [fault.path.stem for fault in faults] == ["7", "30"]


def test_scans_work_in_spawned_processes(tmp_path: Path) -> None:
    path, before = write_speech(tmp_path / "a.wav"), multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert isinstance(scanning._examine_alone(Utterance(path), Limits()), Utterance)
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_trusted_figures_are_not_measured_again(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.wav")
    rows = [
        Utterance(path, seconds=77.0),
        Utterance(path),
        Utterance(path, seconds=0.01),
        Utterance(tmp_path / "gone.wav", seconds=1.0),
    ]
    good, faults = scan(rows, trust=True)
    assert [u.seconds for u in good] == [77.0, 0.4]
    assert [fault.kind for fault in faults] == ["too short", "missing"]


# ---- command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_the_command_writes_a_manifest_and_lists_what_is_broken(
    mixed_folder: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, kinds = mixed_folder
    manifest = tmp_path / "m.jsonl"
    command = [sys.executable, "-m", "mimo_codec", "data", "scan", folder, "-o", manifest, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(read_manifest(manifest)) == 180
    lines = done.stderr.splitlines()
    assert len(lines) == 20 and all(line.startswith("mimo-codec: skipped ") for line in lines)
    assert all(any(f"{name}: {kind}: " in line for line in lines) for name, kind in kinds.items())
    words = done.stdout.split()
    assert words[words.index("utterances") + 1] == "180" and words[words.index("skipped") + 1] == "20"
    assert f"180 at {RATE} Hz" in done.stdout
    for kind, count in Counter(kinds.values()).items():
        assert any(line.split() == [*kind.split(), str(count)] for line in done.stdout.splitlines())


@pytest.mark.usefixtures("_signals")
def test_the_command_joins_several_sources(tmp_path: Path) -> None:
    """A folder, and a manifest in another folder, whose paths stay right in the manifest of both."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        write_speech(folder / "a.wav", 2.0)
    write_manifest(other / "m.jsonl", [Utterance(other / "a.wav", text="Said.", speaker="anna", language="en")])
    with pytest.raises(SystemExit) as exited:
        main(["data", "scan", str(one), str(other / "m.jsonl"), "-o", str(tmp_path / "all.jsonl")])
    first, second = read_manifest(tmp_path / "all.jsonl")
    assert exited.value.code == 0 and first.path == one / "a.wav" and second.path == other / "a.wav"
    assert (second.speaker, second.text, second.seconds) == ("anna", "Said.", 2.0)


@pytest.mark.usefixtures("_signals")
def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "a.wav").write_text("no audio")
    (tmp_path / "old.jsonl").write_text("kept")
    for arguments, message in [
        ([folder, "-o", tmp_path / "m.jsonl"], "fit to train on"),
        ([folder, "-o", tmp_path / "old.jsonl"], "--overwrite"),
        ([folder, "-o", tmp_path / "m.txt"], "end in .jsonl"),
        ([folder, "-o", tmp_path / "m.jsonl", "--min-seconds", "-1"], "min_seconds"),
        ([tmp_path / "nowhere", "-o", tmp_path / "m.jsonl"], "nowhere"),
    ]:
        with pytest.raises(SystemExit) as exited:
            main(["data", "scan", *map(str, arguments)])
        last = capsys.readouterr().err.splitlines()[-1]
        assert exited.value.code == 2 and message in last and last.startswith("mimo-codec: error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "kept"
