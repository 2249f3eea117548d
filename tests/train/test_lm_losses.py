"""The losses of a language model: equal to an independent computation, however the items of a step are dealt out."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from torch import Tensor

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec.lm.checkpoint import load_language_model
from mimo_codec.lm.layout import Audio, Layout, Text
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.train.lm.item import Item
from mimo_codec.train.lm.losses import CHANNEL_WEIGHTS, TEXT_WEIGHT, Terms, cross_entropy_in_chunks, total_loss
from mimo_codec.train.lm.network import TrainedLanguageModel
from mimo_codec.train.lm.pack import deal, make_pack

WEIGHTS = (TEXT_WEIGHT, *CHANNEL_WEIGHTS)


@cache
def golden_model() -> tuple[SpeechLanguageModel, TextTokenizer, Layout]:
    """Shared by all tests: copy it to change it."""
    model, tokenizer = load_language_model(GOLDEN / "lm_base", torch.device("cpu"))
    c = model.config
    return model, tokenizer, Layout(c.group_size, c.speech_zeroemb_idx, c.delay_pattern, tokenizer.special.empty)


def make_items(count: int = 6, seed: int = 0, audio: bool = True) -> list[Item]:
    """Text and audio in turn, several sounds in an item, some positions trained."""
    _, tokenizer, layout = golden_model()
    draw = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        runs = []
        for _ in range(draw.integers(1, 4)):
            ids = draw.integers(0, min(256, len(tokenizer)), draw.integers(2, 9))
            runs.append(Text(tuple(i for i in ids.tolist() if i != layout.empty_id)))
            if audio:
                sizes = np.array(layout.empty_codes)[:, None]
                runs.append(Audio(draw.integers(0, sizes, (layout.num_channels, draw.integers(4, 30)))))
        grid = layout.build(runs)
        trained = draw.random(layout.num_positions(grid)) < 0.7
        trained[1] = True
        items.append(Item(grid, trained))
    return items


def losses_by_logits(model: SpeechLanguageModel, layout: Layout, item: Item) -> Terms:
    """An item alone, position by position, from the logits of the whole grid."""
    output = model(torch.from_numpy(item.grid)[None])
    tokens, patches = layout.token_ids(item.grid), layout.patches(item.grid)
    sums, counts = [torch.zeros(()) for _ in range(1 + layout.num_channels)], [0.0] * (1 + layout.num_channels)
    for position in np.flatnonzero(item.trained):
        if position == 0:
            continue
        is_audio = tokens[position] == layout.empty_id
        weight = 0.01 if is_audio else 1.0
        sums[0] = sums[0] - weight * output.text_logits[0, position - 1].log_softmax(-1)[tokens[position]]
        counts[0] += weight
        if is_audio:
            row = output.audio_positions.tolist().index([0, position])
            for channel, logits in enumerate(output.audio_logits):
                for frame in range(layout.group_size):
                    code = patches[position, channel, frame]
                    sums[1 + channel] = sums[1 + channel] - logits[row, frame].log_softmax(-1)[code]
                    counts[1 + channel] += 1
    return Terms(torch.stack(sums), torch.tensor(counts))


def terms_of(network: TrainedLanguageModel, packs: list[list[Item]]) -> Terms:
    each = [network(make_pack(items, golden_model()[2])) for items in packs]
    return Terms(sum((t.sums for t in each), torch.zeros(())), sum((t.counts for t in each), torch.zeros(())))


def gradients(network: TrainedLanguageModel, packs: list[list[Item]]) -> dict[str, Tensor]:
    network.zero_grad()
    terms = terms_of(network, packs)
    total_loss(terms.sums, terms.counts, WEIGHTS).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_every_term_is_that_of_the_logits() -> None:
    model, _, layout = golden_model()
    items = make_items()
    with torch.no_grad():
        alone = [losses_by_logits(model, layout, item) for item in items]
        together = TrainedLanguageModel(model)(make_pack(items, layout))
    torch.testing.assert_close(together.sums, torch.stack([t.sums for t in alone]).sum(0), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(together.counts, torch.stack([t.counts for t in alone]).sum(0))
    expected = sum(w * s / n for w, s, n in zip(WEIGHTS, together.sums, together.counts, strict=True)) / 136
    torch.testing.assert_close(total_loss(together.sums, together.counts, WEIGHTS), expected, rtol=1e-6, atol=0)


def test_packed_is_unpacked_in_losses_and_gradients() -> None:
    network = TrainedLanguageModel(copy.deepcopy(golden_model()[0]), chunk=5)
    items = make_items()
    packed, unpacked = gradients(network, [items]), gradients(network, [[item] for item in items])
    assert packed.keys() == unpacked.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, unpacked[name], rtol=1e-4, atol=1e-6, msg=name)


def test_without_audio_every_parameter_still_has_a_gradient() -> None:
    network = TrainedLanguageModel(copy.deepcopy(golden_model()[0]))
    found = gradients(network, [make_items(audio=False)])
    assert found.keys() == dict(network.named_parameters()).keys()
    assert not any(g.any() for name, g in found.items() if "local" in name or "speech_embeddings" in name)
    terms = terms_of(network, [make_items(audio=False)])
    torch.testing.assert_close(
        total_loss(terms.sums, terms.counts, WEIGHTS), terms.sums[0] / terms.counts[0] * 100 / 136
    )


def test_an_item_does_not_see_the_one_before_it() -> None:
    model, _, layout = golden_model()
    first, second, last = make_items(3)
    network = TrainedLanguageModel(model)
    untrained = [item._replace(trained=np.zeros_like(item.trained)) for item in (first, second)]
    with torch.no_grad():
        one, other = (network(make_pack([item, last], layout)) for item in untrained)
    torch.testing.assert_close(one.sums, other.sums, rtol=1e-6, atol=1e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    network = TrainedLanguageModel(copy.deepcopy(golden_model()[0])).train()
    items = make_items(3)
    plain = gradients(network, [items])
    network.checkpoint_layers()
    for name, gradient in gradients(network, [items]).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-7, msg=name)


def test_attention_dropout_is_honoured() -> None:
    network = TrainedLanguageModel(copy.deepcopy(golden_model()[0])).train()
    pack = make_pack(make_items(3), golden_model()[2])
    with torch.no_grad():
        before = network(pack).sums
        network.set_attention_dropout(0.5)
        assert not torch.allclose(network(pack).sums, before, rtol=1e-4)
        torch.testing.assert_close(network.eval()(pack).sums, before)


@pytest.mark.parametrize("room", [8, 40, 10_000])
def test_packs_hold_every_item_once_and_keep_to_their_size(room: int) -> None:
    items = make_items(20)
    packs = deal(items, room)
    assert sorted(id(item) for pack in packs for item in pack) == sorted(id(item) for item in items)
    for pack in packs:
        assert len(pack) == 1 or sum(item.num_positions for item in pack) <= room


def test_logits_of_a_large_vocabulary_are_never_whole() -> None:
    """8192 predictions of 151,680 words: 4.97 GB as float32."""
    largest = 0

    def head(hidden: Tensor) -> Tensor:
        nonlocal largest
        logits = F.linear(hidden, weight)
        largest = max(largest, logits.nbytes)
        return logits

    weight = torch.zeros(151_680, 2, device="meta", requires_grad=True)
    hidden = torch.zeros(8192, 2, device="meta", requires_grad=True)
    targets = torch.zeros(8192, dtype=torch.long, device="meta")
    loss = cross_entropy_in_chunks(hidden, head, targets, torch.ones(8192, device="meta"))
    loss.backward()
    assert hidden.grad is not None and hidden.grad.shape == hidden.shape
    assert 3 * largest < 10**9  # logits, their float32 copy or softmax, and the gradient


def test_evaluation_counts_the_likeliest_codes() -> None:
    model, _, layout = golden_model()
    items = make_items(3)
    with torch.no_grad():
        terms = TrainedLanguageModel(model).eval()(make_pack(items, layout))
        right = torch.zeros(1 + layout.num_channels)
        for item in items:
            output = model(torch.from_numpy(item.grid)[None])
            patches = layout.patches(item.grid)
            for row, (_, position) in enumerate(output.audio_positions.tolist()):
                for channel, logits in enumerate(output.audio_logits):
                    true = torch.from_numpy(patches[position, channel])
                    right[1 + channel] += (logits[row].argmax(-1) == true).sum() * bool(item.trained[position])
    assert terms.right is not None
    torch.testing.assert_close(terms.right, right)
    assert TrainedLanguageModel(copy.deepcopy(model)).train()(make_pack(items, layout)).right is None
