"""A disk that fills at every kilobyte of every kind of file: an error, the old file as it was, nothing beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from targets import make_codec

from mimo_codec import AudioCodes, MimoCodec, MimoError, save_audio
from mimo_codec.data.manifest import Utterance, write_manifest

RATE = 24000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 12000).astype(np.float32)


def write_codes(path: Path) -> None:
    rng = np.random.default_rng(0)
    AudioCodes(rng.integers(0, 1024, (8, 2000)), 2000 * 960, RATE, 25.0, (1024,) * 8).save(path)


def write_rows(path: Path) -> None:
    write_manifest(path, [Utterance(path.parent / f"{i}.wav", 1.0, RATE) for i in range(100)])


def write_checkpoint(path: Path) -> None:
    checkpoints = pytest.importorskip("mimo_codec.train.checkpoints", reason="needs the train extra")
    checkpoints.WholeCheckpoints().save_checkpoint({"weight": torch.ones(5000)}, path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.wav": lambda path: save_audio(path, NOISE, RATE),
    "a.flac": lambda path: save_audio(path, NOISE, RATE),
    "a.ogg": lambda path: save_audio(path, NOISE, RATE),
    "a.opus": lambda path: save_audio(path, NOISE, RATE),
    "a.mp3": lambda path: save_audio(path, NOISE, RATE),
    "a.mimo": write_codes,
    "a.jsonl": write_rows,
    "last.ckpt": write_checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_whole_or_not_there(name, tmp_path):
    write, path = WRITERS[name], tmp_path / name
    write(path)
    whole = path.read_bytes()
    assert len(whole) > 1024
    for limit in range(0, len(whole), 1024):
        path.write_bytes(b"what was there before")
        with files_of_at_most(limit), pytest.raises(MimoError) as caught:
            write(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert path.read_bytes() == b"what was there before"
        assert os.listdir(tmp_path) == [name]
    with files_of_at_most(len(whole)):
        write(path)
    assert len(path.read_bytes()) == len(whole)


def test_a_model_is_whole_or_not_there(tmp_path):
    codec, folder = make_codec(), tmp_path / "model"
    codec.save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    changed = make_codec()
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    for limit in range(0, len(before["model.safetensors"]), 16384):
        with files_of_at_most(limit), pytest.raises(MimoError):
            changed.save_pretrained(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert MimoCodec.from_pretrained(folder)
    shutil.rmtree(folder)
    with files_of_at_most(100), pytest.raises(MimoError):
        codec.save_pretrained(folder)
    assert not folder.exists() or not os.listdir(folder)
