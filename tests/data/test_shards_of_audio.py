"""Shards as training data: WebDataset's tar files, and the Arrow and Parquet files of Hugging Face data sets."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from broken_files import RATE
from conftest import make_speech

pytest.importorskip("lightning", reason="needs the train extra")

from loading import attach, batches, equal, make_data

from mimo_codec import MimoError
from mimo_codec.data.dataset import Reader
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.find import SHARDS, find_utterances
from mimo_codec.data.manifest import read_faults, read_manifest, write_manifest
from mimo_codec.data.scan import Limits, examine, scan
from mimo_codec.data.shards import shard_utterances
from mimo_codec.evaluation.codec.items import find_items

SPOKEN = [("a", 0.5, "one"), ("b", 0.3, "two words"), ("c", 0.4, None), ("d", 0.6, "four")]


def sound(seconds: float, seed: int, format: str = "FLAC") -> bytes:
    file = io.BytesIO()
    sf.write(file, make_speech(seconds, RATE, seed).numpy(), RATE, format=format)
    return file.getvalue()


SOUNDS = {name: sound(seconds, seed) for seed, (name, seconds, _) in enumerate(SPOKEN)}


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, _, text in SPOKEN:
        (folder / f"{name}.flac").write_bytes(SOUNDS[name])
        if text:
            (folder / f"{name}.txt").write_text(text)
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as shard:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


def write_tars(folder: Path) -> Path:
    """Two shards, with texts in .json and in .txt."""
    for number, part in enumerate((SPOKEN[:2], SPOKEN[2:])):
        members = []
        for name, _, text in part:
            members.append((f"{name}.flac", SOUNDS[name]))
            if text:
                about = json.dumps({"text": text, "speaker_id": 7}).encode()
                members.append((f"{name}.json", about) if number == 0 else (f"{name}.txt", text.encode("utf-16")))
        write_tar(folder / f"shard-{number:06d}.tar", members)
    return folder


def table(part: list[tuple[str, float, str | None]]) -> Any:
    import pyarrow as pa

    rows = [{"bytes": SOUNDS[name], "path": f"{name}.flac"} for name, _, _ in part]
    return pa.table({"id": [1] * len(part), "audio": rows, "text": [text for *_, text in part]})


def write_arrow(folder: Path, batch_rows: int = 1) -> Path:
    """What `save_to_disk` writes: streams of Arrow, and state.json."""
    pa = pytest.importorskip("pyarrow", reason="needs the datasets extra")
    folder.mkdir(parents=True)
    files = []
    for number, part in enumerate((SPOKEN[:3], SPOKEN[3:])):
        files.append({"filename": f"data-0000{number}-of-00002.arrow"})
        with pa.ipc.new_stream(str(folder / files[-1]["filename"]), table(part).schema) as writer:
            writer.write_table(table(part), max_chunksize=batch_rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_parquet(folder: Path) -> Path:
    pytest.importorskip("pyarrow", reason="needs the datasets extra")
    import pyarrow.parquet as pq

    folder.mkdir()
    pq.write_table(table(SPOKEN), folder / "train-00000-of-00001.parquet", row_group_size=3)
    return folder


WRITERS = {"tar": write_tars, "Arrow": write_arrow, "Parquet": write_parquet}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_shards_give_the_crops_of_a_folder(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """The same batches, also by the lists that a run writes, and from the middle of a run on."""
    options = dict(text_batch_size=2, segment_seconds=0.2, sample_rate=RATE)
    folder = make_data(write_folder(tmp_path / "folder"), **options)
    shards = make_data(write(tmp_path / "shards"), **options)
    assert sorted(shards.texts()) == sorted(folder.texts()) == ["four", "one", "two words"]
    listed = make_data(tmp_path / "shards", **options)
    attach(listed, tmp_path / "run")
    listed.prepare_data()
    listed.setup()
    attach(folder)
    attach(shards)
    expected = batches(folder, 4)
    for found in (batches(shards, 4), batches(listed, 4)):
        for one, other in zip(expected, found, strict=True):
            for kind in ("crops", "spoken"):
                assert one[kind].waveform.equal(other[kind].waveform) and one[kind].texts == other[kind].texts
    attach(shards, seen=2)
    assert all(equal(a[kind], b[kind]) for a, b in zip(batches(shards, 2), found[2:], strict=True) for kind in a)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_utterances_are_the_bytes_of_the_files_and_come_back_from_manifests(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    found, faults = find_utterances(write(tmp_path / "shards"))
    assert [u.member for u in found] == [f"{name}.flac" for name, *_ in SPOKEN] and not faults
    for utterance, (name, _, text) in zip(found, SPOKEN, strict=True):
        with audio_file(utterance) as path:
            assert Path(path).read_bytes() == SOUNDS[name] and utterance.text == text
        spooled = Path(path)
        del path
        assert not spooled.exists()
    good, bad = scan(found, Limits(), num_workers=1)
    assert len(good) == 4 and not bad and all(u.sample_rate == RATE for u in good)
    write_manifest(tmp_path / "m.jsonl", good)
    assert read_manifest(tmp_path / "m.jsonl") == good
    assert len({u.identity for u in good}) == 4
    with pytest.raises(MimoError, match="lies in a shard"):
        find_items(tmp_path / "m.jsonl", None)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_damaged_shards_raise_nothing_but_our_errors(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Bytes changed, cut out and cut off, in the headers above all; what is found can be examined."""
    source = min(path for path in write(tmp_path / "shards").iterdir() if path.suffix in SHARDS)
    data, target, draw = source.read_bytes(), tmp_path / f"damaged{source.suffix}", random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 6)):
            place = draw.choice((draw.randrange(len(data)), draw.randrange(1024), len(data) - draw.randint(1, 2500)))
            size = draw.choice((1, 1, 4))
            damaged[place : place + size] = draw.choice((draw.randbytes(size), b"\xff" * size, b"\0" * size, b""))
        target.write_bytes(damaged if draw.random() < 0.9 else damaged[: draw.randrange(1, len(data))])
        try:
            for utterance in find_utterances(target)[0]:
                examine(utterance, Limits())
        except MimoError as error:
            assert str(target) in str(error)
            refused += 1
    assert 0 < refused < 150


# ---- tar -------------------------------------------------------------------------------------------------------------


def test_members_belong_together_up_to_the_first_dot(tmp_path: Path) -> None:
    members = [
        ("x/a.json", b'{"sentence": " of  x/a ", "client_id": "anna"}'),
        ("x/a.left.flac", SOUNDS["a"]),
        ("x/a.right.FLAC", SOUNDS["b"]),
        ("y/a.flac", SOUNDS["c"]),
        ("y/a.cls", b"3"),
        ("empty.flac", b""),
        ("bad.json", b"{"),
        ("list.json", b"[]"),
    ]
    found, (fault,) = shard_utterances(write_tar(tmp_path / "s.tar", members))
    assert [(u.member, u.text, u.speaker) for u in found] == [
        ("x/a.left.flac", "of x/a", "anna"),
        ("x/a.right.FLAC", "of x/a", "anna"),
        ("y/a.flac", None, None),
    ]
    assert fault.kind == "bad text" and fault.name.endswith("s.tar: bad.json")


def test_a_tar_of_the_current_folder(tmp_path: Path) -> None:
    """As `tar -cf s.tar .` makes it: the folder itself is a member, without a name."""
    folder = tmp_path / "folder"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "a.flac").write_bytes(SOUNDS["a"])
    (folder / "x" / "a.txt").write_text("of a")
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        shard.add(folder, ".")
    (found,), faults = shard_utterances(tmp_path / "s.tar")
    assert (found.text, faults) == ("of a", []) and str(found.member).endswith("x/a.flac")
    for name in ("", ".", "..", "/", "./.flac", "../a.flac"):
        odd = write_tar(tmp_path / "odd.tar", [(name, SOUNDS["a"]), ("b.flac", SOUNDS["b"])])
        assert "b.flac" in [u.member for u in shard_utterances(odd)[0]]


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.99])
def test_a_shard_that_is_cut_off_gives_what_is_whole(keep: float, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{name}.flac", data) for name, data in SOUNDS.items()])
    whole, _ = shard_utterances(path)
    ends = [u.offset + u.num_bytes for u in whole]  # type: ignore[operator]
    size = round(keep * ends[-1])
    os.truncate(path, size)
    found, (fault,) = shard_utterances(path)
    assert len(found) == sum(end <= size for end in ends) and fault.kind == "damaged"


def test_compressed_tars_links_and_other_files_are_refused_or_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.flac", SOUNDS["a"])], mode="w:gz")
    with pytest.raises(MimoError, match="not an uncompressed tar"):
        find_utterances(path)
    with tarfile.open(tmp_path / "link.tar", "w") as shard:
        link = tarfile.TarInfo("a.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
    with pytest.raises(MimoError, match="no audio files in this shard"):
        find_utterances(tmp_path / "link.tar")
    with pytest.raises(MimoError, match="no split"):
        find_utterances(write_tar(tmp_path / "t.tar", [("a.flac", SOUNDS["a"])]), "train")


def test_damaged_members_are_faults_by_name(tmp_path: Path) -> None:
    cut = SOUNDS["d"][: len(SOUNDS["d"]) // 2]
    path = write_tar(tmp_path / "s.tar", [("a.flac", SOUNDS["a"]), ("bad.flac", b"no sound"), ("cut.flac", cut)])
    found, _ = find_utterances(path)
    good, faults = scan(found, Limits(), num_workers=1)
    assert [u.member for u in good] == ["a.flac"]
    assert [(fault.name, fault.kind) for fault in faults] == [
        (f"{path}: bad.flac", "unreadable"),
        (f"{path}: cut.flac", "damaged"),
    ]
    assert all("/tmp" not in fault.reason for fault in faults)
    data = make_data(path, segment_seconds=0.2, sample_rate=RATE)
    attach(data, tmp_path / "run")
    data.prepare_data()
    assert [f.name for f in read_faults(tmp_path / "run" / "data" / "skipped.jsonl")] == [f.name for f in faults]


def test_a_shard_that_has_become_shorter_is_a_late_fault(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{name}.flac", data) for name, data in SOUNDS.items()])
    data = make_data(path, segment_seconds=0.2, sample_rate=RATE)
    os.truncate(path, data.utterances["train"][1].offset)  # type: ignore[arg-type]
    crops = data.crops()
    faults = {fault.name: fault for number in range(12) for fault in crops[number].faults}
    assert set(faults) == {f"{path}: {name}.flac" for name in "bcd"}
    assert all(fault.kind == "damaged" and "beyond the end" in fault.reason for fault in faults.values())


def test_audio_in_a_folder_counts_and_not_the_archive_beside_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    write_tar(folder / "all.tar", [("z.flac", SOUNDS["a"])])
    assert {u.path.suffix for u in find_utterances(folder)[0]} == {".flac"}


# ---- Arrow and Parquet -----------------------------------------------------------------------------------------------


def test_several_rows_in_a_batch_and_either_format_of_arrow(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the datasets extra")
    found, _ = find_utterances(write_arrow(tmp_path / "stream", batch_rows=3))
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table(SPOKEN).schema) as writer:
        writer.write_table(table(SPOKEN))
    for utterances in (found, find_utterances(tmp_path / "file.arrow")[0]):
        for utterance, (name, *_) in zip(utterances, SPOKEN, strict=True):
            with audio_file(utterance) as path:
                assert Path(path).read_bytes() == SOUNDS[name]


def test_compressed_arrow_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the datasets extra")
    rows = pa.table({"audio": [b"\0" * 100_000]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), rows.schema, options=options) as writer:
        writer.write_table(rows)
    with pytest.raises(MimoError, match="is compressed"):
        find_utterances(tmp_path / "a.arrow")


def test_splits_of_data_sets_are_chosen(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_arrow(tmp_path / "saved" / split)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    write_parquet(tmp_path / "files")
    (tmp_path / "files" / "train-clean-100-00000-of-00014.parquet").symlink_to("train-00000-of-00001.parquet")
    assert len(find_utterances(tmp_path / "files", "train-clean-100")[0]) == 4
    (tmp_path / "files" / "test-00000-of-00001.parquet").write_bytes(
        (tmp_path / "files" / "train-00000-of-00001.parquet").read_bytes()
    )
    for folder in (tmp_path / "saved", tmp_path / "files"):
        with pytest.raises(MimoError, match=r"several splits, choose one .*train"):
            find_utterances(folder)
        with pytest.raises(MimoError, match="no split 'dev'"):
            find_utterances(folder, "dev")
        found, _ = find_utterances(folder, "test")
        assert len(found) == 4 and all("test" in str(u.path.relative_to(tmp_path)) for u in found)


def test_rows_that_name_files_and_rows_without_audio(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the datasets extra")
    import pyarrow.parquet as pq

    write_folder(tmp_path / "folder")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = [{"bytes": None, "path": "a.flac"}, None, {"bytes": SOUNDS["b"], "path": None}]
    rows = pa.table({"audio": pa.array(audio, kind), "sentence": ["x", "y", "z"]})
    with pa.ipc.new_stream(str(tmp_path / "folder" / "data.arrow"), rows.schema) as writer:
        writer.write_table(rows)
    found, (fault,) = find_utterances(tmp_path / "folder" / "data.arrow")
    assert [(u.path.name, u.member, u.text) for u in found] == [("a.flac", None, "x"), ("data.arrow", "row 2", "z")]
    assert fault.kind == "missing" and fault.member == "row 1"
    pq.write_table(rows, tmp_path / "data.parquet")
    found, _ = find_utterances(tmp_path / "data.parquet")
    good, faults = scan(found, Limits(), num_workers=1)
    assert [u.text for u in good] == ["z"] and ["holds no audio" in fault.reason for fault in faults] == [True, True]


def test_tables_without_audio_name_their_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the datasets extra")
    import pyarrow.parquet as pq

    rows = pa.table({"audio": ["a.wav"], "text": ["x"]})
    pq.write_table(rows, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), rows.schema) as writer:
        writer.write_table(rows)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(MimoError, match=r"no column with the bytes of audio files, only audio \(string\)"):
            find_utterances(tmp_path / name)
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(MimoError, match="not a readable"):
            find_utterances(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"_data_files": 3}', '{"_data_files": [{"filename": "x.arrow"}], "_indices_data_files": [1]}']
)
def test_state_files_of_strangers(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(MimoError):
        find_utterances(tmp_path)


def test_the_groups_of_a_parquet_file_that_was_replaced_are_read_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the datasets extra")
    import pyarrow.parquet as pq

    path = write_parquet(tmp_path / "shards") / "train-00000-of-00001.parquet"
    (first, *_), _ = find_utterances(path)
    before = Reader(RATE).whole(first)
    pq.write_table(table(SPOKEN[::-1]), path)
    os.utime(path, (1, 1))
    after = Reader(RATE).whole(first)
    assert len(before) == round(0.5 * RATE) and len(after) == round(0.6 * RATE)
    assert torch.is_tensor(after) and np.isfinite(after.numpy()).all()
