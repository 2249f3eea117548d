"""Models whose tensors, files or configuration are not what they should be."""

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import assert_same_state, golden_tensors, load, refused, write_model
from conftest import GOLDEN, make_speech
from goldens import expected, golden_codec
from safetensors.torch import load_file

from mimo_codec import MimoError
from mimo_codec.cli.info import describe

TRAINING_STATE = ("embed_avg", "cluster_size", "inited")


# ---- tensors that do not fit -----------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_named(tmp_path):
    tensors = golden_tensors()
    del tensors["decoder.layers.0.fc1.weight"]
    del tensors["encoder.quantizer.vq.layers.7._codebook.embed"]
    tensors["encoder.extra"] = torch.zeros(1)
    tensors["decoder.vocoder.head.out.bias"] = torch.zeros(960)
    tensors["encoder.quantizer.vq.layers.1._codebook.embed"] = torch.zeros(512, 48)
    message = refused(write_model(tmp_path / "m", tensors), "the weights do not fit the configuration")
    assert str(tmp_path / "m") in message
    missing, unexpected, shapes = message.split("; ")
    assert missing.endswith("missing: encoder.quantizer.vq.layers.7._codebook.embed, decoder.layers.0.fc1.weight")
    assert unexpected == "unexpected: encoder.extra"
    assert shapes.startswith("of a wrong shape: ")
    assert "decoder.vocoder.head.out.bias [960] instead of [962]" in shapes
    assert "encoder.quantizer.vq.layers.1._codebook.embed [512, 48] instead of [1024, 48]" in shapes


def test_long_lists_are_cut(tmp_path):
    tensors = {key: value for key, value in golden_tensors().items() if not key.startswith("encoder.layers")}
    message = refused(write_model(tmp_path / "m", tensors), "missing: .* and [0-9]+ more$")
    assert len(message) < 2500


@pytest.mark.parametrize("key", TRAINING_STATE)
def test_a_training_state_of_a_wrong_shape_is_named(tmp_path, key):
    tensors = golden_tensors()
    name = f"encoder.quantizer.vq.layers.0._codebook.{key}"
    tensors[name] = torch.zeros(2, 3)
    refused(write_model(tmp_path / "m", tensors), rf"of a wrong shape: {name} \[(2, 3|6)\] instead of")


def test_a_checkpoint_may_leave_out_the_training_state(tmp_path):
    tensors = {key: value for key, value in golden_tensors().items() if not key.endswith(TRAINING_STATE)}
    assert len(golden_tensors()) - len(tensors) == 3 * 20
    codec = load(write_model(tmp_path / "m", tensors))
    codes = expected("codec_base")["odd.codes"].long()
    assert torch.equal(codec.quantizer.encode(expected("codec_base")["odd.features"], 20), codes)
    codebook = codec.quantizer.vq.layers[5]._codebook
    assert bool(codebook.initted)  # training must not start these codebooks anew
    assert torch.equal(codebook.embed_avg / codebook.cluster_size[..., None], codebook.embed)
    codec.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == golden_tensors().keys()


def test_tensors_of_other_dtypes_are_converted(tmp_path):
    tensors = {key: value.to(torch.bfloat16) for key, value in golden_tensors().items()}
    codec = load(write_model(tmp_path / "m", tensors))
    assert codec.dtype == torch.float32
    assert codec.quantizer.codebook(0).dtype == torch.float32
    assert codec.encode(make_speech(0.5), 24000).num_frames == 13


def test_the_configuration_of_another_model_does_not_fit(tmp_path):
    folder = write_model(tmp_path / "m", golden_tensors())
    flat = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(flat | {"encoder_layers": 5}))
    refused(folder, "missing: encoder.layers.4.self_attn.q_proj.weight")
    (folder / "config.json").write_text(json.dumps(flat | {"encoder_layers": 3}))
    refused(folder, "unexpected: encoder.layers.3.")
    (folder / "config.json").write_text(json.dumps(flat | {"rope_type": "yarn"}))
    refused(folder, "config.json.*rope_type = 'yarn'")


# ---- files that are not what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1000],
        lambda data: data[:-1000],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"x" + data[9:],
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    ],
)
def test_damaged_weights(tmp_path, damage: Callable[[bytes], bytes]):
    folder = write_model(tmp_path / "m", golden_tensors())
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(damage(data))
    refused(folder, "model.safetensors: not a readable safetensors file")


def test_a_folder_without_configuration(tmp_path):
    refused(tmp_path, f"{tmp_path}: there is no config.json")


def test_a_folder_without_weights(tmp_path):
    shutil.copy(GOLDEN / "codec_base" / "config.json", tmp_path)
    refused(tmp_path, f"{tmp_path}: there is neither model.safetensors nor model.safetensors.index.json")


def test_a_file_instead_of_a_folder():
    refused(GOLDEN / "codec_base" / "model.safetensors", "is a file; a model is a folder")


class Bomb:
    """Unpickling it is noticed."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_opened(tmp_path):
    folder, exploded = write_model(tmp_path / "m", golden_tensors()), tmp_path / "exploded"
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "model.pth"):
        (folder / name).write_bytes(pickle.dumps(Bomb(exploded)))
    assert_same_state(load(folder), golden_codec("codec_base"))
    (folder / "model.safetensors").unlink()
    refused(folder, "there is neither")
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(exploded)))
    refused(folder, "not a readable safetensors file")
    assert not exploded.exists()


# ---- damaged and hostile models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["encoder.conv1.weight", "encoder.quantizer.vq.layers.3._codebook.embed"])
def test_weights_that_are_not_finite_are_refused(tmp_path, key, value):
    tensors = golden_tensors()
    tensors[key].flatten()[7] = value
    refused(write_model(tmp_path, tensors), f"damaged.*{key} has NaN or infinite values")


def test_weights_too_large_for_their_dtype_are_refused(tmp_path):
    tensors = golden_tensors()
    tensors["encoder.conv1.weight"][0] = 1e6
    write_model(tmp_path, tensors)
    load(tmp_path)
    with pytest.raises(MimoError, match=r"too large for torch.float16: encoder.conv1.weight"):
        load(tmp_path, dtype="float16")


def test_weights_that_overflow_do_not_decode_in_silence(tmp_path):
    """Finite they are, but what they make of codes is not."""
    tensors = golden_tensors()
    for key in [key for key in tensors if key.startswith("decoder.") and key.endswith("fc2.weight")]:
        tensors[key].fill_(3e38)
    codec = load(write_model(tmp_path, tensors))
    ids = torch.ones(8, 3, dtype=torch.int64)
    for decode in (codec.decode, lambda c: codec.decode_chunk(c, last=True), lambda c: codec.decode_batch([c, c])):
        with pytest.raises(MimoError, match="codes: decode to NaN or infinite values"):
            decode(ids)


HUGE = [
    {"n_mels": 1024},
    {"n_mels": 2**20},
    {"nfft": 2**20, "window_size": 2**20},
    {"num_quantizers": 256, "codebook_size": [65536]},
    {"d_model": 2**20},
    {"encoder_layers": 1024, "decoder_layers": 1024, "vocoder_num_layers": 1024},
    {"vocoder_dim": 2**20, "vocoder_intermediate_dim": 2**20},
    {"encoder_ffn_dim": 2**20},
    {"encoder_attn_window_size": [2**20, 2**20]},
]


@pytest.mark.parametrize("change", HUGE)
@pytest.mark.parametrize("command", ["load", "info"])
def test_a_configuration_beyond_its_weights_takes_no_memory(tmp_path, change, command):
    """A small model whose config.json asks for gigabytes is refused by the shapes in its files, at once."""
    import resource

    write_model(tmp_path, golden_tensors())
    flat = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(flat))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(MimoError, match="do not fit the configuration|is not supported"):
        load(tmp_path) if command == "load" else describe(str(tmp_path))
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_among_the_files_of_a_model_is_refused(tmp_path, name):
    write_model(tmp_path, golden_tensors())
    if "index" in name:
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    refused(tmp_path, "not a regular file|there is no config.json|neither model.safetensors nor")
