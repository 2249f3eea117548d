"""What training starts from: presets, checkpoints, and text models of the Qwen2 family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN

pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec import MimoError
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.train.lm.start import RELEASED_TOKENS, byte_tokenizer, planned_shape, start_language_model

TEXT_SHAPE = dict(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)
AUDIO_SHAPE = dict(local_dim=32, local_layers=1, local_attn_heads=4, local_ffn_dim=32, input_local_dim=32)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: a text model, and a tokenizer with the tokens of chats."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**TEXT_SHAPE)).save_pretrained(folder)
    from tokenizers import Tokenizer

    content = json.loads(byte_tokenizer().tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    Tokenizer.from_str(json.dumps(content)).save(str(folder / "tokenizer.json"))
    return folder


def test_a_text_model_becomes_the_backbone(text_model: Path) -> None:
    from transformers import Qwen2ForCausalLM

    plain = Qwen2ForCausalLM.from_pretrained(text_model, dtype=torch.float32)
    model, tokenizer = start_language_model(str(text_model), config=AUDIO_SHAPE)
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.tensor([[5, 80, 7]])
    hidden = model.run_packed(model.model.embed_tokens(ids)[0], [3])
    torch.testing.assert_close(model.lm_head(hidden)[:, :256], plain(ids).logits[0, :, :256])
    names = [tokenizer.token(id) for id in range(256, len(tokenizer))]
    assert names == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", *RELEASED_TOKENS]
    rows, before = model.model.embed_tokens.weight, plain.model.embed_tokens.weight[:259]
    torch.testing.assert_close(rows[:259], before)
    torch.testing.assert_close(rows[259:], before.mean(0).expand(len(rows) - 259, -1))


def test_the_shape_is_known_without_the_weights(text_model: Path) -> None:
    assert (
        planned_shape(str(text_model), config=AUDIO_SHAPE)
        == start_language_model(str(text_model), config=AUDIO_SHAPE)[0].config
    )
    assert planned_shape(str(GOLDEN / "lm_base")).hidden_size == 64
    assert planned_shape("tiny", config={"hidden_size": 128}).hidden_size == 128


def test_changes_of_the_configuration_that_mean_nothing_are_refused(text_model: Path) -> None:
    for start in (start_language_model, planned_shape):
        for model in ("tiny", str(text_model)):
            with pytest.raises(MimoError, match="^config: hiden_size is not known"):
                start(model, config={"hiden_size": 3})


def test_bytes_are_any_text() -> None:
    tokenizer = byte_tokenizer()
    for text in ("So it is.", "你好，世界\n\n", "<|im_end|> 🙂"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and max(ids) < 256
    assert isinstance(tokenizer, TextTokenizer) and tokenizer.special.turn_end >= 256


@pytest.mark.parametrize("damage", ["weights", "shape", "tokenizer", "width"])
def test_text_models_that_cannot_be_used_are_refused(text_model: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(text_model, folder)
    config = json.loads((folder / "config.json").read_text())
    if damage == "weights":
        (folder / "model.safetensors").unlink()
    elif damage == "shape":
        config["intermediate_size"] = 128
    elif damage == "tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        config["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MimoError) as caught:
        start_language_model(str(folder), config=AUDIO_SHAPE)
    assert "\n" not in str(caught.value)
