"""What a run says before its first step."""

from __future__ import annotations

import shutil
import warnings

import pytest

pytest.importorskip("lightning", reason="needs the train extra")

from training import fit, make_adversarial, make_unified

from mimo_codec.common.errors import MimoWarning


def told(*arguments, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*arguments, **options)
    return [str(warning.message) for warning in caught if issubclass(warning.category, MimoWarning)]


def test_too_few_steps_for_codebooks(speech_folder, tmp_path):
    (message,) = told(make_unified(quantizer_start=5), speech_folder, tmp_path, 2)
    assert "will not start" in message and "quantizer_start = 5 steps" in message and "training has 2" in message


def test_too_few_vectors_for_codebooks(speech_folder, small_codec, tmp_path):
    """64 entries; a step has 13 vectors of a crop of half a second."""
    (message,) = told(make_unified(quantizer_start=1), speech_folder, tmp_path, 3, batch_size=1)
    assert "will not start" in message and "64 vectors" in message and "5 steps of 13" in message
    (message,) = told(make_unified(quantizer_start=1), speech_folder, tmp_path, 6, batch_size=1)
    assert "will start after 5 steps, not 1" in message
    (message,) = told(make_unified(quantizer_start=1), speech_folder, tmp_path, 3, batch_size=3)
    assert "will start after 2 steps" in message and "2 steps of 39" in message
    assert not told(make_unified(quantizer_start=2), speech_folder, tmp_path, 3)
    assert not told(make_adversarial(small_codec), speech_folder, tmp_path, 1)


def test_validation_files_that_are_trained_on_and_validation_that_never_comes(speech_folder, small_codec, tmp_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    shutil.copy(speech_folder / "0.wav", held_out / "0.wav")  # another file of the same name
    options = dict(trainer=dict(val_check_interval=10, check_val_every_n_epoch=None, num_sanity_val_steps=0))
    options |= dict(validation_root=str(held_out))
    (message,) = told(make_adversarial(small_codec), speech_folder, tmp_path, 2, **options)
    assert "no validation" in message and "after 10 batches" in message and "training has 2" in message
    (held_out / "1.wav").symlink_to(speech_folder / "1.wav")
    options["trainer"]["val_check_interval"] = 2
    (message,) = told(make_adversarial(small_codec, accumulate=2), speech_folder, tmp_path, 1, **options)
    assert "1 of 2 files of validation are also trained on" in message and "1.wav" in message
