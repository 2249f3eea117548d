"""Audio to text: tokenizers, and a model that reads speech before it writes."""

import math

import pytest
import torch

from mimo_codec import MimoError
from mimo_codec.train.codec.losses import IGNORED, text_loss
from mimo_codec.train.codec.text import ByteTokenizer, TextModel, make_tokenizer, unigram_entropy

TEXTS = [[3, 1, 4], [1, 5]]
COUNTS = [7, 4]
END = 6


@pytest.fixture(scope="module")
def model() -> TextModel:
    torch.manual_seed(0)
    return TextModel(audio_dim=8, vocab_size=7, dim=16, num_layers=2, num_heads=2).eval()


@pytest.fixture(scope="module")
def quantized() -> torch.Tensor:
    return torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))


def test_bytes_of_any_language():
    tokenizer = make_tokenizer("bytes")
    assert isinstance(tokenizer, ByteTokenizer)
    assert bytes(tokenizer.encode("né 你")).decode() == "né 你"
    assert max(tokenizer.encode("né 你")) < tokenizer.end < tokenizer.vocab_size


def test_any_hugging_face_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(tmp_path)
    tokenizer = make_tokenizer(str(tmp_path))
    assert tokenizer.encode("two one") == [1, 0]
    assert (tokenizer.end, tokenizer.vocab_size) == (3, 4)


def test_unknown_tokenizers_are_refused_in_one_line(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(MimoError, match="cannot be loaded") as error:
        make_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


def test_unigram_entropy_by_hand():
    # a a b and two ends: shares 2/5, 1/5, 2/5
    expected = -(0.4 * math.log(0.4) * 2 + 0.2 * math.log(0.2))
    assert unigram_entropy(["aa", "b"], ByteTokenizer()) == pytest.approx(expected)


def test_targets_follow_the_speech(model, quantized):
    logits, targets = model(quantized, COUNTS, TEXTS, END)
    assert logits.shape == (2, 10, 7)
    assert targets.tolist() == [[IGNORED] * 6 + [3, 1, 4, END], [IGNORED] * 3 + [1, 5, END] + [IGNORED] * 4]


def test_a_batch_is_what_its_items_are_alone(model, quantized):
    logits, targets = model(quantized, COUNTS, TEXTS, END)
    for i in range(2):
        alone, own = model(quantized[i : i + 1, : COUNTS[i]], COUNTS[i : i + 1], TEXTS[i : i + 1], END)
        assert torch.allclose(logits[i, : alone.shape[1]], alone[0], atol=1e-5)
        assert torch.equal(targets[i, : own.shape[1]], own[0])


def test_no_token_sees_what_comes_after_it_but_all_see_the_speech(model, quantized):
    logits, _ = model(quantized, COUNTS, TEXTS, END)
    other, _ = model(quantized, COUNTS, [[3, 1, 2], [1, 5]], END)
    assert torch.equal(logits[0, :9], other[0, :9]) and not torch.equal(logits[0, 9], other[0, 9])
    quieter, _ = model(quantized * 0.5, COUNTS, TEXTS, END)
    assert not torch.isclose(logits[0, 6:], quieter[0, 6:]).all(-1).any()


def test_gradients_reach_the_speech(model, quantized):
    speech = quantized.clone().requires_grad_()
    text_loss(*model(speech, COUNTS, TEXTS, END)).backward()
    assert (speech.grad[0].abs().sum(-1) > 0).all()
    assert (speech.grad[1, :4].abs().sum(-1) > 0).all() and not speech.grad[1, 4:].any()
