"""Names -> folders, the released key layout both ways, and everything that can be wrong with a checkpoint."""

import copy
import http.server
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import GOLDEN, make_speech
from goldens import CODECS, KINDS, each_kind, expected, golden_codec, streaming_codec
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.cli.info import describe
from mimo_codec.codec import checkpoint
from mimo_codec.codec.checkpoint import cached_models, find_checkpoint, shipped_models

TRAINING_STATE = ("embed_avg", "cluster_size", "inited")


def golden_tensors(name: str = "codec_base") -> dict[str, Tensor]:
    return load_file(GOLDEN / name / "model.safetensors")


def write_model(folder: Path, tensors: dict[str, Tensor], name: str = "codec_base") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN / name / "config.json", folder)
    save_file(tensors, folder / "model.safetensors")
    return folder


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


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("boom")])
def test_saving_leaves_nothing_half_written(tmp_path, monkeypatch, error):
    def interrupted(tensors: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
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


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A place of shipped models, with `toy` in it."""
    root = tmp_path / "shipped"
    write_model(root / "toy", golden_tensors())
    (root / "notes").mkdir()
    monkeypatch.setattr(checkpoint, "shipped_root", lambda: root)
    return root


def test_shipped_names(shipped):
    assert shipped_models() == {"toy": shipped / "toy"}
    assert load("toy").name == "toy"


def test_a_shipped_name_comes_before_a_folder_of_that_name(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "toy", golden_tensors("codec_hybrid"), "codec_hybrid")
    assert find_checkpoint("toy").folder == shipped / "toy"
    assert find_checkpoint("./toy").folder.resolve() == tmp_path / "toy"
    assert find_checkpoint(Path("toy")).folder.resolve() == tmp_path / "toy"


UNKNOWN = ["toyy", "no/such/folder", "a b/c", "../toy", Path("owner/name"), "x" * 300, "a\0b", "~nobody-here/x"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_names_list_the_known_ones(shipped, name):
    message = refused(name, "unknown model")
    assert "(toy, XiaomiMiMo/MiMo-Audio-Tokenizer)" in message


def test_nothing_is_shipped_where_there_is_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "shipped_root", lambda: tmp_path / "none")
    assert shipped_models() == {}


def test_the_default_is_nano():
    codec = MimoCodec.from_pretrained(device="cpu")
    assert codec.name == "nano"
    assert codec.config == CodecConfig.load(shipped_models()["nano"] / "config.json")
    assert codec.config.streams_encode and codec.config.streams_decode


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model(tmp_path / "models" / "mine", golden_tensors())
    assert load("~/models/mine").name == "mine"


def test_the_codec_inside_a_later_model(tmp_path):
    """The family's language models carry theirs in a folder of its own, beside a config.json of their own."""
    write_model(tmp_path / "MiMo-V2.5" / "audio_tokenizer", golden_tensors("codec_hybrid"), "codec_hybrid")
    (tmp_path / "MiMo-V2.5" / "config.json").write_text('{"model_type": "mimo"}')
    codec = load(tmp_path / "MiMo-V2.5")
    assert codec.name == "MiMo-V2.5"
    assert codec.decoder is None
    assert_same_state(codec, golden_codec("codec_hybrid"))


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache; nothing can be downloaded."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def cache_model(cache: Path, repo: str, fill: Callable[[Path], object], revision: str = "a" * 40) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    fill(snapshot)
    return snapshot


def test_a_cached_hub_model_loads_without_network(hub_cache):
    cache_model(hub_cache, "Owner/My.Codec-1", lambda folder: write_model(folder, golden_tensors()))
    codec = load("Owner/My.Codec-1")
    assert codec.name == "My.Codec-1"
    assert_same_state(codec, golden_codec("codec_base"))


def test_a_cached_revision(hub_cache):
    for revision, name in (("b" * 40, "codec_hybrid"), ("a" * 40, "codec_base")):
        cache_model(hub_cache, "o/m", lambda f, n=name: write_model(f, golden_tensors(n), n), revision)
    assert_same_state(load("o/m"), golden_codec("codec_base"))
    assert_same_state(load("o/m", revision="b" * 40), golden_codec("codec_hybrid"))


def test_a_cached_later_model(hub_cache):
    def fill(folder: Path) -> None:
        write_model(folder / "audio_tokenizer", golden_tensors("codec_hybrid"), "codec_hybrid")
        (folder / "config.json").write_text('{"model_type": "mimo"}')

    snapshot = cache_model(hub_cache, "o/later", fill)
    assert load("o/later").decoder is None
    assert cached_models() == {"o/later": snapshot / "audio_tokenizer"}


def test_cached_models_are_codecs(hub_cache):
    assert cached_models() == {}

    def other(folder: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "llama"}')
        save_file({"x": torch.zeros(1)}, folder / "model.safetensors")

    cache_model(hub_cache, "o/llama", other)
    cache_model(hub_cache, "o/broken", lambda folder: (folder / "config.json").write_text("{"))
    cache_model(hub_cache, "o/half", lambda folder: shutil.copy(GOLDEN / "codec_base" / "config.json", folder))
    snapshot = cache_model(hub_cache, "o/codec", lambda folder: write_model(folder, golden_tensors()))
    assert cached_models() == {"o/codec": snapshot}


def test_not_cached_and_no_network(hub_cache):
    started = time.monotonic()
    message = refused("XiaomiMiMo/MiMo-Audio-Tokenizer", "^XiaomiMiMo/MiMo-Audio-Tokenizer is not in the hub cache")
    assert "config.json" in message and "*.safetensors" in message and "folder" in message
    assert time.monotonic() - started < 20  # no round of retries
    with pytest.raises(MimoError, match="^o/m at revision v9 is not in the hub cache"):
        load("o/m", revision="v9")


def test_cached_without_weights_and_no_network(hub_cache):
    cache_model(hub_cache, "o/half", lambda folder: shutil.copy(GOLDEN / "codec_base" / "config.json", folder))
    refused("o/half", "there is neither model.safetensors nor|is not in the hub cache")


def test_weights_of_other_models_are_not_downloaded(tmp_path, monkeypatch):
    """Its config.json says that it is no codec, before gigabytes come down."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    asked: list[str] = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    refused("owner/llama", "model_type = 'llama'")
    assert not any(pattern in ("*.safetensors", "*") for pattern in asked)


@pytest.fixture
def hub_server(hub_cache, monkeypatch) -> Iterator[list[str]]:
    """A hub without any models; the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()


def test_no_such_model_on_the_hub(hub_server):
    refused("owner/none", "^owner/none: there is no such model on the Hugging Face hub")
    assert any("owner/none" in path for path in hub_server)


def test_a_hub_that_does_not_answer(hub_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    refused("owner/name", "^owner/name is not in the hub cache and could not be downloaded")


def test_saved_files_can_be_read_by_others(tmp_path, tiny_codec):
    """safetensors writes files that only their owner may read; a model is as readable as any other file."""
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    tiny_codec.save_pretrained(tmp_path / "m")
    modes = {path.stat().st_mode for path in (tmp_path / "m").iterdir()}
    assert modes == {ordinary.stat().st_mode}


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
