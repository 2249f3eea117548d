"""The released key layout both ways, and saving."""

import copy
import json
from pathlib import Path

import pytest
import torch
from checkpoints import assert_same_state, golden_tensors, load, write_model
from conftest import GOLDEN, make_speech
from goldens import CODECS, KINDS, each_kind, golden_codec, streaming_codec
from safetensors.torch import load_file

from mimo_codec import CodecConfig, MimoError

# ---- the released layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_what_is_saved_is_what_was_released(tmp_path, name):
    """Every tensor, training state included: names, shapes, dtypes and bits; and the same config.json."""
    golden_codec(name).save_pretrained(tmp_path / "saved")
    saved, released = load_file(tmp_path / "saved" / "model.safetensors"), golden_tensors(name)
    assert saved.keys() == released.keys()
    for key, value in released.items():
        assert saved[key].dtype == value.dtype, key
        assert torch.equal(saved[key], value), key
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config == json.loads((GOLDEN / name / "config.json").read_text())


def test_what_is_saved_loads_again(tmp_path, tiny_codec):
    tiny_codec.save_pretrained(tmp_path / "tiny")
    loaded = load(tmp_path / "tiny")
    assert_same_state(loaded, tiny_codec)
    assert loaded.config == tiny_codec.config
    assert loaded.name == "tiny"
    assert not loaded.training
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["model_type"] == "mimo_audio_tokenizer"


@each_kind
def test_each_kind_loads_again(tmp_path, kind):
    codec = streaming_codec(kind)
    codec.save_pretrained(tmp_path / "tiny")
    loaded = load(tmp_path / "tiny")
    assert_same_state(loaded, codec)
    assert loaded.config == codec.config and loaded.quantizer.fingerprint() == codec.quantizer.fingerprint()
    flat = json.loads((tmp_path / "tiny" / "config.json").read_text())
    assert CodecConfig.from_dict(flat) == codec.config and flat.items() >= KINDS[kind].items()
    waveform = make_speech(0.5)
    codes = codec.encode(waveform, 24000, codec.num_quantizers)
    assert loaded.encode(waveform, 24000, codec.num_quantizers).codes.equal(codes.codes)
    half = load(tmp_path / "tiny", dtype=torch.bfloat16)
    for name, value in codec.quantizer.state_dict().items():
        assert torch.equal(half.quantizer.state_dict()[name], value)
    assert len(half.decode(half.encode(waveform, 24000, codec.num_quantizers))) == len(waveform)


def test_saved_over_an_older_model(tmp_path):
    write_model(tmp_path, golden_tensors("codec_hybrid"), "codec_hybrid")
    golden_codec("codec_base").save_pretrained(tmp_path)
    assert_same_state(load(tmp_path), golden_codec("codec_base"))


def test_a_trained_state_survives(tmp_path):
    """Moving averages, counts and the flag of the k-means start, which the released file holds as a float."""
    codec = copy.deepcopy(golden_codec("codec_base"))
    codebook = codec.quantizer.vq.layers[3]._codebook
    codebook.embed_avg.mul_(2)
    codebook.cluster_size.fill_(7)
    codebook.initted.fill_(False)
    codec.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert_same_state(loaded, codec)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["encoder.quantizer.vq.layers.3._codebook.inited"].tolist() == [0.0]
    assert saved["encoder.quantizer.vq.layers.2._codebook.inited"].tolist() == [1.0]


def test_half_precision_is_saved_as_it_is(tmp_path):
    codec = load(GOLDEN / "codec_base", dtype=torch.bfloat16)
    codec.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["encoder.conv1.weight"].dtype == torch.bfloat16
    assert torch.equal(*(t["encoder.quantizer.vq.layers.0._codebook.embed"] for t in (saved, golden_tensors())))
    assert load(tmp_path).dtype == torch.float32


def test_the_model_that_loads_is_its_own(tmp_path):
    """Training one copy changes neither another one nor the file."""
    one, other = load(GOLDEN / "codec_base"), load(GOLDEN / "codec_base")
    with torch.no_grad():
        one.encoder.conv1.weight.zero_()
        one.quantizer.codebook(0).zero_()
    assert_same_state(other, golden_codec("codec_base"))
    assert_same_state(load(GOLDEN / "codec_base"), golden_codec("codec_base"))


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("boom")])
def test_saving_leaves_nothing_half_written(tmp_path, monkeypatch, error):
    def interrupted(tensors: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(MimoError if isinstance(error, OSError) else type(error)):
        golden_codec("codec_base").save_pretrained(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []

    folder = write_model(tmp_path / "old", golden_tensors("codec_hybrid"), "codec_hybrid")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MimoError if isinstance(error, OSError) else type(error)):
        golden_codec("codec_base").save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_where_it_is_impossible(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(MimoError, match=str(place)):
            golden_codec("codec_base").save_pretrained(place)
    (tmp_path / "m" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(MimoError, match="model.safetensors is a folder"):
        golden_codec("codec_base").save_pretrained(tmp_path / "m")


# ---- the hub ---------------------------------------------------------------------------------------------------------


def test_saved_files_can_be_read_by_others(tmp_path, tiny_codec):
    """safetensors writes files that only their owner may read; a model is as readable as any other file."""
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    tiny_codec.save_pretrained(tmp_path / "m")
    modes = {path.stat().st_mode for path in (tmp_path / "m").iterdir()}
    assert modes == {ordinary.stat().st_mode}
