"""attend() against attention with a dense mask, its memory, and layers in chunks against layers at once."""

import pytest
import torch
import torch.nn.functional as F
from goldens import streaming_codec
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimo_codec.codec import transformer
from mimo_codec.codec.transformer import Attention, Transformer, attend, length_mask, rotate

sides = st.integers(-1, 12)


def dense(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], offset: int, valid: Tensor | None) -> Tensor:
    """The definition, in float64 and with a mask of all pairs."""
    left, right = window
    own = torch.arange(q.shape[-2])[:, None] + offset
    keys = torch.arange(k.shape[-2])
    mask = torch.ones(1, 1, q.shape[-2], k.shape[-2], dtype=torch.bool)
    if left >= 0:
        mask = mask & (keys >= own - left)
    if right >= 0:
        mask = mask & (keys <= own + right)
    if valid is not None:
        mask = mask & valid[:, None, None]
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (weights @ v.double()).float()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), left=sides, right=sides, num_queries=st.integers(1, 40), block=st.sampled_from([1, 4, 7, 512]))
def test_windows(data, left, right, num_queries, block):
    """Any window, any place of the queries among the keys, more queries than are worked on at a time."""
    before = data.draw(st.integers(0, 20), label="keys before the first query's own")
    after = data.draw(st.integers(0, 20), label="keys after the last query's own")
    torch.manual_seed(0)
    num_keys = before + num_queries + after
    q, k, v = torch.randn(2, 3, num_queries, 8), torch.randn(2, 3, num_keys, 8), torch.randn(2, 3, num_keys, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "QUERY_BLOCK", block)
        output = attend(q, k, v, (left, right), before)
    torch.testing.assert_close(output, dense(q, k, v, (left, right), before, None), atol=1e-5, rtol=0)


@settings(max_examples=100, deadline=None)
@given(left=sides, right=sides, lengths=st.tuples(*[st.integers(1, 30)] * 2), block=st.sampled_from([4, 512]))
def test_windows_in_a_padded_batch(left, right, lengths, block):
    """Queries of an item see the valid keys only; those of the padding are finite, whatever they see."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 30, 8)
    valid = length_mask(torch.tensor(lengths), 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "QUERY_BLOCK", block)
        output = attend(q, k, v, (left, right), 0, valid)
    reference = dense(q, k, v, (left, right), 0, valid)
    assert output.isfinite().all()
    for item, length in enumerate(lengths):
        torch.testing.assert_close(output[item, :, :length], reference[item, :, :length], atol=1e-5, rtol=0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(queries, keys, mask elements) of every attention that was computed."""
    calls = []
    original = F.scaled_dot_product_attention

    def recorded(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: bool) -> Tensor:
        calls.append((q.shape[-2], k.shape[-2], 0 if attn_mask is None else attn_mask.numel()))
        return original(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    return calls


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [(64, 0), (40, 10)])
def test_windows_cost_blocks_not_squares(seen, window, padded):
    q = torch.randn(1, 1, 10_000, 4)
    valid = length_mask(torch.tensor([9_000]), 10_000) if padded else None
    attend(q, q, q, window, 0, valid)
    assert sum(queries for queries, _, _ in seen) == 10_000
    for queries, keys, mask in seen:
        assert queries <= 512
        assert keys <= 512 + sum(window)
        assert mask <= queries * keys


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0)])
def test_full_attention_needs_no_mask(seen, window):
    q = torch.randn(1, 1, 1000, 4)
    attend(q, q, q, window)
    assert seen == [(1000, 1000, 0)]


def test_long_audio_allocates_no_large_mask(seen):
    """Five minutes through the whole codec."""
    codec = streaming_codec()
    codes = codec.encode(torch.randn(5 * 60 * 24000, generator=torch.Generator().manual_seed(0)) * 0.01, 24000)
    codec.decode(codes)
    assert sum(queries for queries, _, _ in seen) > 3 * 15_000
    assert max(mask for _, _, mask in seen) <= 512 * (512 + 64)


@settings(deadline=None)
@given(offset=st.integers(0, 10**5), length=st.integers(1, 9))
def test_rotation_depends_on_distances_only(offset, length):
    """q at i + offset and k at j + offset have the product of q at i and k at j; their lengths are kept."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, length, 16, dtype=torch.float64)
    moved = rotate(q, 10000.0, offset) @ rotate(k, 10000.0, offset).transpose(-1, -2)
    # angles are float32: at position 1e5 they are known to some 4e-3
    torch.testing.assert_close(moved, rotate(q, 10000.0) @ rotate(k, 10000.0).transpose(-1, -2), atol=0.1, rtol=0)
    torch.testing.assert_close(rotate(q, 10000.0, offset).norm(dim=-1), q.norm(dim=-1), atol=1e-5, rtol=0)


def test_rotation_is_rotate_half():
    x = torch.randn(1, 1, 5, 6)
    rotated = rotate(x, 100.0, offset=2)
    for position in range(5):
        for i in range(3):
            angle = torch.tensor((position + 2) * 100.0 ** (-i / 3))
            a, b = x[0, 0, position, i], x[0, 0, position, i + 3]
            expected = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()))
            torch.testing.assert_close(rotated[0, 0, position, [i, i + 3]], expected, atol=1e-6, rtol=0)


def test_only_the_key_projection_has_no_bias():
    attention = Attention(16, 2, (-1, -1), 10000.0)
    assert {name for name, _ in attention.named_parameters()} == {
        "q_proj.weight",
        "q_proj.bias",
        "k_proj.weight",
        "v_proj.weight",
        "v_proj.bias",
        "out_proj.weight",
        "out_proj.bias",
    }


@settings(max_examples=60, deadline=None)
@given(
    left=st.integers(-1, 6),
    right=st.integers(0, 3),
    num_layers=st.integers(1, 3),
    norm=st.sampled_from(["LayerNorm", "RMSNorm"]),
    skip=st.booleans(),
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=8),
)
@torch.no_grad()
def test_layers_in_chunks(left, right, num_layers, norm, skip, sizes):
    """Chunks of any sizes through layers that look ahead: late by `look_ahead`, and equal to all at once."""
    torch.manual_seed(0)
    skip_layer = 1 if skip and right == 0 else None
    windows = ((left, right),) * num_layers
    layers = Transformer(16, 2, 32, windows, norm, "gelu", 10000.0, skip_layer).eval()
    length = sum(sizes)
    x = torch.randn(1, length, 16)
    state, start, outputs = layers.initial_state(1, x), 0, []
    for piece in x.split(sizes, dim=1):
        output, state = layers.step(piece, state, start)
        start += piece.shape[1]
        outputs.append(output)
    flush = torch.randn(1, layers.look_ahead, 16)  # what comes after the end has no influence
    outputs.append(layers.step(flush, state, start, end=length)[0])
    output = torch.cat(outputs, dim=1)[:, layers.look_ahead :]
    if length:
        torch.testing.assert_close(output, layers(x), atol=1e-5, rtol=0)


def test_what_streams_share_is_small_and_serves_training_too():
    """Tables made in inference mode are used where gradients are needed; windows without limit leave none behind."""
    torch.manual_seed(0)
    limited, unlimited = (
        Transformer(16, 2, 32, (window,) * 2, "LayerNorm", "gelu", 1e4) for window in [(6, 1), (-1, 0)]
    )
    transformer._OF_STREAMS.clear()
    x = torch.randn(1, 3, 16)
    with torch.inference_mode():
        expected, _ = limited.step(x, limited.initial_state(1, x), 0)
    kept = len(transformer._OF_STREAMS)
    assert kept > 0
    output, _ = limited.step(x, limited.initial_state(1, x), 0)
    output.sum().backward()
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-6)
    unlimited.step(x, unlimited.initial_state(1, x), 0)
    assert len(transformer._OF_STREAMS) == kept
    for size in range(1, transformer.MAX_OF_STREAMS + 2):
        chunk = torch.randn(1, size, 16)
        limited.step(chunk, limited.initial_state(1, chunk), 0)
        assert len(transformer._OF_STREAMS) <= transformer.MAX_OF_STREAMS
