"""Discriminators beside an exported codec: written by stage 2, and trained further by a later one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

from safetensors.torch import load_file, save_file
from training import fit, make_adversarial

from mimo_codec import MimoCodec, MimoError
from mimo_codec.train.callbacks import ExportCodec
from mimo_codec.train.codec.discriminator_files import ABOUT, WEIGHTS, load_discriminators, save_discriminators
from mimo_codec.train.codec.discriminators import Discriminators


def small(stft_channels: int = 4) -> Discriminators:
    return Discriminators((2,), (4, 4), (256,), stft_channels)


def test_stage_2_exports_its_discriminators_and_goes_on_with_them(speech_folder, small_codec, tmp_path):
    first = make_adversarial(small_codec)
    fit(first, speech_folder, tmp_path, 2, callbacks=[ExportCodec()])
    export = tmp_path / "export"
    names = {"config.json", "model.safetensors", WEIGHTS, ABOUT}
    assert {path.name for path in export.iterdir()} == names
    assert json.loads((export / ABOUT).read_text())["init_args"]["stft_sizes"] == [256]
    MimoCodec.from_pretrained(export)  # what lies beside does not disturb

    second = make_adversarial(export, discriminators_from=str(export))
    trained = first.discriminators.state_dict()
    for name, value in second.discriminators.state_dict().items():
        assert torch.equal(value, trained[name]), name
    other = make_adversarial(export)
    assert not torch.equal(next(other.discriminators.parameters()), next(second.discriminators.parameters()))
    fit(second, speech_folder, tmp_path / "second", 1)


def test_other_sizes_are_refused_by_name(tmp_path):
    save_discriminators(tmp_path, small(4))
    with pytest.raises(MimoError, match=r"other sizes: set stft_channels 4$"):
        load_discriminators(tmp_path, small(8))


def test_another_class_is_refused_by_name(tmp_path):
    save_discriminators(tmp_path, torch.nn.Conv1d(1, 1, 3))
    with pytest.raises(MimoError, match=r"are the weights of torch\.nn.*Conv1d, not of mimo_codec\..*Discriminators"):
        load_discriminators(tmp_path, small())


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-5])


def spoil(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values())).fill_(torch.nan)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "not a readable safetensors file"),
        (spoil, "NaN or infinite values"),
        (lambda folder: (folder / WEIGHTS).unlink(), "has no discriminators.safetensors"),
        (lambda folder: (folder / ABOUT).write_text("[]"), "not a JSON object"),
    ],
)
def test_damaged_files_are_refused(damage, message, tmp_path):
    save_discriminators(tmp_path, small())
    damage(tmp_path)
    with pytest.raises(MimoError, match=message):
        load_discriminators(tmp_path, small())
