"""Training data of which files break: they are listed, replaced and not scanned again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from broken_files import BROKEN, write_speech

pytest.importorskip("lightning", reason="needs the train extra")


from loading import attach, batches, equal, make_data

from mimo_codec import MimoError
from mimo_codec.data import scan as scanning
from mimo_codec.data.manifest import read_faults, read_manifest, write_faults, write_manifest
from mimo_codec.data.module import SpeechData
from mimo_codec.data.utterance import Fault, Utterance


def test_a_run_over_broken_files_lists_them(mixed_folder: tuple[Path, dict[str, str]], tmp_path: Path, caplog) -> None:
    folder, kinds = mixed_folder
    data = SpeechData(str(folder), batch_size=20, segment_seconds=0.2)
    attach(data, tmp_path)
    data.prepare_data()
    data.setup("fit")
    seen = {name for batch in batches(data, 20) for name in batch["crops"].names}
    assert len(seen) > 140 and all("good" in name for name in seen)
    data.teardown("fit")
    assert {fault.path.name: fault.kind for fault in read_faults(tmp_path / "data" / "skipped.jsonl")} == kinds
    assert len(read_manifest(tmp_path / "data" / "train.jsonl")) == 180
    assert "20 utterances were skipped" in caplog.text and all(name in caplog.text for name in kinds)


def test_files_that_have_not_changed_are_not_scanned_again(
    mixed_folder: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = mixed_folder
    data = SpeechData(str(folder))
    attach(data, tmp_path)
    data.prepare_data()
    first = (tmp_path / "data" / "train.jsonl").read_text()
    write_speech(folder / "0" / "good.wav")  # touched
    measured: list[str] = []
    measure = scanning._measure
    monkeypatch.setattr(scanning, "_measure", lambda u, rate: measured.append(u.path.name) or measure(u, rate))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    data.prepare_data()
    assert (tmp_path / "data" / "train.jsonl").read_text() == first
    assert "good.wav" in measured and not any(name.startswith("good") and name != "good.wav" for name in measured)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_that_break_later_are_replaced_and_listed(tmp_path: Path, num_workers: int, caplog) -> None:
    paths = [write_speech(tmp_path / "audio" / f"{i}.wav", seed=i) for i in range(6)]
    ranks = []
    for rank in range(2):
        data = SpeechData(str(tmp_path / "audio"), batch_size=8, segment_seconds=0.2, num_workers=num_workers)
        attach(data, tmp_path, rank=rank, world_size=2)
        if rank == 0:
            data.prepare_data()
        data.setup("fit")
        ranks.append(data)
    paths[1].unlink()
    paths[4].write_bytes(b"RIFF" + bytes(100))
    first = []
    for data in ranks:
        received = batches(data, 4)
        assert all(batch["crops"].waveform.shape == (8, 4800) for batch in received)
        assert not {"1.wav", "4.wav"} & {Path(name).name for batch in received for name in batch["crops"].names}
        clean = [data.on_before_batch_transfer(batch) for batch in received]
        assert not any(batch["crops"].faults for batch in clean)
        assert equal(clean[0]["crops"], received[0]["crops"]._replace(faults=()))
        first.append(clean[0]["crops"])
    ranks[1].teardown("fit")
    assert "were skipped" not in caplog.text  # the first rank tells
    ranks[0].teardown("fit")
    faults = read_faults(tmp_path / "data" / "skipped.jsonl")
    assert {fault.path.name: fault.kind for fault in faults} == {"1.wav": "missing", "4.wav": "damaged"}
    assert len(faults) == 2 and "2 utterances were skipped" in caplog.text
    again = SpeechData(str(tmp_path / "audio"), batch_size=8, segment_seconds=0.2)
    attach(again, tmp_path)
    again.found = ranks[0].found
    assert equal(batches(again, 1)[0]["crops"]._replace(faults=()), first[0])


def test_when_no_file_can_be_read_any_more(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "audio" / "a.wav")
    data = make_data(tmp_path / "audio", validation_root=str(tmp_path / "audio"))
    path.unlink()
    with pytest.raises(MimoError, match="in a row.*a.wav"):
        data.crops()[0]
    with pytest.raises(MimoError, match=r"none of the 1 validation files.*a\.wav"):
        next(iter(data.val_dataloader()))


def test_a_validation_file_that_breaks_is_replaced(speech_folder: Path, tmp_path: Path) -> None:
    paths = [write_speech(tmp_path / f"{i}.wav") for i in range(3)]
    data = make_data(speech_folder, validation_root=str(tmp_path))
    paths[2].unlink()
    loaded = list(data.val_dataloader())
    assert [Path(batch.names[0]).name for batch in loaded] == ["0.wav", "1.wav", "0.wav"]
    assert [fault.kind for fault in loaded[2].faults] == ["missing"]


def test_nothing_to_train_on(tmp_path: Path) -> None:
    for name in ("text", "zeros"):
        BROKEN[name][1](tmp_path / f"{name}.wav")
    with pytest.raises(MimoError, match=r"\(1 unreadable, 1 silent\); the first: .*text\.wav") as error:
        make_data(tmp_path)
    assert "\n" not in str(error.value)


def test_the_manifest_of_a_user_is_not_overwritten(speech_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manifest = tmp_path / "data" / "train.jsonl"
    write_manifest(manifest, [Utterance(speech_folder / "0.wav")])
    before = manifest.read_bytes()
    data = SpeechData(str(manifest))
    attach(data, tmp_path)
    with pytest.raises(MimoError, match="default_root_dir"):
        data.prepare_data()
    assert manifest.read_bytes() == before


def test_faults_come_back_as_they_were(tmp_path: Path) -> None:
    faults = [Fault(tmp_path / "a.wav", "silent", "all of it", 1.5), Fault(Path("/b.wav"), "missing", "gone")]
    write_faults(tmp_path / "f.jsonl", faults)
    assert read_faults(tmp_path / "f.jsonl") == faults
