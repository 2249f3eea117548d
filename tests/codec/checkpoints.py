"""Folders of models, written by hand from the golden checkpoints, and how they load."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimo_codec import MimoCodec, MimoError


def golden_tensors(name: str = "codec_base") -> dict[str, Tensor]:
    return load_file(GOLDEN / name / "model.safetensors")


def write_model(folder: Path, tensors: dict[str, Tensor], name: str = "codec_base") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN / name / "config.json", folder)
    save_file(tensors, folder / "model.safetensors")
    return folder


def load(folder: Path | str, **options) -> MimoCodec:
    return MimoCodec.from_pretrained(folder, device="cpu", **options)


def refused(folder: Path | str, match: str) -> str:
    with pytest.raises(MimoError, match=match) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_state(one: MimoCodec, other: MimoCodec) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
