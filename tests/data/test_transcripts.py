"""Transcripts of folders: beside the audio, in the lists of LibriSpeech and LJSpeech, in UTF-8 and UTF-16."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from broken_files import write_speech

pytest.importorskip("lightning", reason="needs the train extra")

from mimo_codec.data.find import find_utterances
from mimo_codec.data.manifest import read_manifest
from mimo_codec.data.transcripts import decode_text
from mimo_codec.data.utterance import Utterance

TEXT = "Ça va, 一秒?"


def texts(folder: Path) -> dict[str, str | None]:
    found, faults = find_utterances(folder)
    assert not faults
    return {utterance.path.stem: utterance.text for utterance in found}


def test_lists_of_librispeech(tmp_path: Path) -> None:
    for name in ("84-121123-0000", "84-121123-0001", "84-121123-0002"):
        write_speech(tmp_path / "84" / "121123" / f"{name}.flac")
    write_speech(tmp_path / "84" / "5" / "84-5-0000.flac")
    lines = "84-121123-0000 GO  DO YOU HEAR\n84-121123-0001 BUT IN LESS\n84-121123-0002\nno-such-file TEXT\n"
    (tmp_path / "84" / "121123" / "84-121123.trans.txt").write_text(lines)
    (tmp_path / "84" / "121123" / "84-121123-0001.txt").write_text("beside it")
    wanted = {"84-121123-0000": "GO DO YOU HEAR", "84-121123-0001": "beside it", "84-121123-0002": None}
    assert texts(tmp_path) == wanted | {"84-5-0000": None}


@pytest.mark.parametrize("root", ["", "wavs"])
def test_the_list_of_ljspeech(root: str, tmp_path: Path) -> None:
    """From the folder of the corpus, and from that of its audio; the text in words counts, where there is one."""
    for name in ("LJ001-0001", "LJ001-0002", "LJ001.3"):
        write_speech(tmp_path / "wavs" / f"{name}.wav")
    (tmp_path / "metadata.csv").write_text(
        'LJ001-0001|in 1455, "he said"|in fourteen fifty-five, "he said"\nwavs/LJ001-0002.wav|Mr. B|\nLJ001.3|dots\n'
    )
    wanted = {"LJ001-0001": 'in fourteen fifty-five, "he said"', "LJ001-0002": "Mr. B", "LJ001.3": "dots"}
    assert texts(tmp_path / root) == wanted


def test_another_csv_is_a_fault_and_one_above_the_root_is_not_read(tmp_path: Path) -> None:
    write_speech(tmp_path / "speech" / "a.wav")
    (tmp_path / "metadata.csv").write_text("a|not of this corpus\n")
    (found,), faults = find_utterances(tmp_path / "speech")
    assert found.text is None and not faults
    (tmp_path / "speech" / "metadata.csv").write_text("file_name,transcription\na.wav,hello\n")
    (found,), (fault,) = find_utterances(tmp_path / "speech")
    assert found.text is None and fault.kind == "bad text" and "LJSpeech" in fault.reason


ENCODED = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "UTF-16, little-endian": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "UTF-16, big-endian": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-16, big-endian, without a mark": TEXT.encode("utf-16-be"),
    "UTF-32": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
}


@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED.keys())
def test_encodings(data: bytes, tmp_path: Path) -> None:
    assert decode_text(data) == TEXT
    write_speech(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(data)
    assert texts(tmp_path) == {"a": TEXT}


@pytest.mark.parametrize("data", [b"caf\xe9", codecs.BOM_UTF16_LE + b"abc", b"\xff\xfe\x00\xd8"])
def test_what_is_no_text_is_a_fault(data: bytes, tmp_path: Path) -> None:
    write_speech(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(data)
    (found,), (fault,) = find_utterances(tmp_path)
    assert found.text is None and fault.kind == "bad text" and fault.path.name == "a.txt"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_manifests_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    """As PowerShell and Excel write them."""
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "text": "é"}\r\n{"path": "b.wav"}\r\n', encoding=encoding)
    assert read_manifest(tmp_path / "m.jsonl") == [
        Utterance(tmp_path / "a.wav", text="é"),
        Utterance(tmp_path / "b.wav"),
    ]
