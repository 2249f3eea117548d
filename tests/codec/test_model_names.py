"""Names -> folders: shipped models, folders, and the Hub with and without network."""

import http.server
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from checkpoints import assert_same_state, golden_tensors, load, refused, write_model
from conftest import GOLDEN
from goldens import golden_codec
from huggingface_hub import constants
from safetensors.torch import save_file

from mimo_codec import CodecConfig, MimoCodec, MimoError
from mimo_codec.codec import checkpoint
from mimo_codec.codec.checkpoint import cached_models, find_checkpoint, shipped_models

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
