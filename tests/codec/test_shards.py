"""Models in several files: what their index may and may not say."""

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import assert_same_state, golden_tensors, load, refused
from conftest import GOLDEN
from goldens import golden_codec
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> dict:
    """Three shards and their index, which is returned."""
    folder.mkdir()
    shutil.copy(GOLDEN / "codec_base" / "config.json", folder)
    index: dict = {"metadata": {"total_size": 1}, "weight_map": {}}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        keys = sorted(tensors)[number::3]
        save_file({key: tensors[key] for key in keys}, folder / file)
        index["weight_map"] |= dict.fromkeys(keys, file)
    write_index(folder, index)
    return index


def write_index(folder: Path, index: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# ---- shards ----------------------------------------------------------------------------------------------------------


def test_shards(tmp_path):
    write_shards(tmp_path / "m", golden_tensors())
    assert_same_state(load(tmp_path / "m"), golden_codec("codec_base"))


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path / "m", golden_tensors())
    (tmp_path / "m" / "model-00002-of-00003.safetensors").unlink()
    refused(tmp_path / "m", "model-00002-of-00003.safetensors, which is not in the folder")


def test_a_tensor_missing_from_the_shards_is_named(tmp_path):
    tensors = golden_tensors()
    del tensors["encoder.conv2.bias"]
    write_shards(tmp_path / "m", tensors)
    refused(tmp_path / "m", "missing: encoder.conv2.bias$")


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", 5, None])
def test_shards_lie_in_the_folder(tmp_path, shard):
    """The index of a stranger reaches no other files."""
    index = write_shards(tmp_path / "m", golden_tensors())
    (tmp_path / "m" / "sub").mkdir()
    for place in (tmp_path, tmp_path / "m" / "sub"):
        save_file(golden_tensors(), place / "x.safetensors")
    index["weight_map"]["encoder.conv1.bias"] = shard
    write_index(tmp_path / "m", index)
    refused(tmp_path / "m", "index.json.*not in the folder")


BAD_INDICES = [[], {}, {"weight_map": ["a"]}, {"weight_map": None}, {"weight_map": {"a": ["b"]}}, 1]


@pytest.mark.parametrize("index", BAD_INDICES)
def test_bad_indices(tmp_path, index):
    write_shards(tmp_path / "m", golden_tensors())
    write_index(tmp_path / "m", index)
    refused(tmp_path / "m", "index.json: not a valid index|index.json.*not in the folder")


def test_an_index_that_is_not_json(tmp_path):
    write_shards(tmp_path / "m", golden_tensors())
    (tmp_path / "m" / "model.safetensors.index.json").write_bytes(b"\xff{")
    refused(tmp_path / "m", "index.json: not valid JSON")


# ---- damaged and hostile models --------------------------------------------------------------------------------------


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_shards(tmp_path / "m", golden_tensors())
    first = tmp_path / "m" / "model-00001-of-00003.safetensors"
    second = tmp_path / "m" / "model-00002-of-00003.safetensors"
    repeated = sorted(golden_tensors())[0]
    save_file(load_file(second) | {repeated: load_file(first)[repeated] * 2}, second)
    refused(tmp_path / "m", f"index.json: tensors are in several shards: {repeated}")


def test_an_index_that_names_the_wrong_shard_is_refused(tmp_path):
    index = write_shards(tmp_path / "m", golden_tensors())
    index["weight_map"]["encoder.conv1.bias"] = next(
        shard for shard in index["weight_map"].values() if shard != index["weight_map"]["encoder.conv1.bias"]
    )
    write_index(tmp_path / "m", index)
    refused(tmp_path / "m", "index.json: tensors are in .*, but not by the index: encoder.conv1.bias")


def test_an_index_that_names_too_much_is_refused(tmp_path):
    index = write_shards(tmp_path / "m", golden_tensors())
    write_index(tmp_path / "m", {"weight_map": index["weight_map"] | {"a\nb": "model-00001-of-00003.safetensors"}})
    refused(tmp_path / "m", "index.json: tensors are in no shard: a.*b")
    write_index(tmp_path / "m", {"weight_map": index["weight_map"] | {"a": "x" * 5000}})
    refused(tmp_path / "m", "index.json names x+, which is not in the folder")
    write_index(tmp_path / "m", {"weight_map": index["weight_map"] | {"a": "x\0"}})
    refused(tmp_path / "m", "index.json names .*, which is not in the folder")
