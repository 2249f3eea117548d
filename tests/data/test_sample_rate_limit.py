"""The least sample rate: files below it are left out wherever they come from, and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from broken_files import write_speech

pytest.importorskip("lightning", reason="needs the train extra")

from loading import make_data

from mimo_codec import MimoError
from mimo_codec.cli.main import main
from mimo_codec.data.manifest import read_manifest, write_manifest
from mimo_codec.data.scan import Limits, check, examine
from mimo_codec.data.utterance import Utterance


@pytest.fixture
def files(tmp_path: Path) -> list[Utterance]:
    """One file each at 8, 16 and 48 kHz."""
    rates = (8000, 16000, 48000)
    return [Utterance(write_speech(tmp_path / "speech" / f"{rate}.wav", 0.4, rate)) for rate in rates]


def test_files_and_manifests_with_and_without_rates(files: list[Utterance], tmp_path: Path) -> None:
    limits = Limits(min_sample_rate=16000)
    examined = [examine(utterance, limits) for utterance in files]
    assert [getattr(outcome, "kind", None) for outcome in examined] == ["low rate", None, None]
    listed = [Utterance(u.path, seconds=0.4) for u in files]  # of a manifest of somebody else
    found = [check(utterance, limits) for utterance in listed]
    assert [fault and fault.kind for fault in found] == ["low rate", None, None]
    known = Utterance(files[2].path, seconds=0.4, sample_rate=8000)  # what a manifest says is believed
    assert check(known, limits).reason == "8000 Hz of at least 16000 Hz"  # type: ignore[union-attr]
    (tmp_path / "x.wav").write_bytes(b"no sound")
    assert check(Utterance(tmp_path / "x.wav", seconds=1.0), limits).kind == "unreadable"  # type: ignore[union-attr]


def test_training_data_keeps_what_is_left_and_stops_without_any(files: list[Utterance], tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance(u.path, seconds=0.4) for u in files])
    for root in (tmp_path / "speech", tmp_path / "m.jsonl"):
        data = make_data(root, min_sample_rate=16000)
        assert [u.path.stem for u in data.utterances["train"]] == ["16000", "48000"]
    with pytest.raises(MimoError, match=r"no utterance is fit to train on \(3 low rate\)"):
        make_data(tmp_path / "speech", min_sample_rate=96000)
    with pytest.raises(MimoError, match="min_sample_rate"):
        make_data(tmp_path / "speech", min_sample_rate=-1)


def test_the_scan_command(files: list[Utterance], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "data",
        "scan",
        str(tmp_path / "speech"),
        "-o",
        str(tmp_path / "m.jsonl"),
        "--min-sample-rate",
        "16000",
    ]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "skipped" in out and "low rate   1" in out
    assert [u.sample_rate for u in read_manifest(tmp_path / "m.jsonl")] == [16000, 48000]
    rows = [
        json.loads(line) | {"split": "a" if number else "b"}
        for number, line in enumerate((tmp_path / "m.jsonl").read_text().splitlines())
    ]
    (tmp_path / "split.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit):
        main(["data", "scan", str(tmp_path / "split.jsonl"), "-o", str(tmp_path / "b.jsonl"), "--split", "b"])
    assert [u.sample_rate for u in read_manifest(tmp_path / "b.jsonl")] == [16000]
