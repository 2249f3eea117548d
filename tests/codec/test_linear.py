"""A linear layer gives the same for few rows as for many, on the way that is quicker for each."""

import pytest
import torch
from torch import nn

from mimo_codec.codec import linear
from mimo_codec.codec.linear import FEW, Linear


def make(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    return Linear(48, 20, bias=bias).to(dtype)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (4, 1), (3, 0), (1, 5), (7, 9)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_few_rows_give_what_they_give_among_many(shape, bias):
    layer = make(bias)
    x = torch.randn(*shape, 48, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    assert y.shape == (*shape, 20) and y.is_contiguous()
    torch.testing.assert_close(y, nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_rows_in_any_order_of_memory():
    layer, x = make(), torch.randn(48, 3)
    torch.testing.assert_close(layer(x.T), layer(x.T.contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize("is_few", [True, False])
def test_the_quicker_way_is_taken_without_gradients_and_in_float32_alone(is_few, monkeypatch):
    taken = []
    monkeypatch.setattr(linear, "multiply_few", lambda x, weight, bias: taken.append(x.shape))
    x = torch.randn(FEW[-1] + (not is_few), 48)
    make()(x)
    with torch.no_grad():
        make(dtype=torch.bfloat16)(x.bfloat16())
        assert not taken
        make()(x)
    assert bool(taken) is is_few
