"""Muon: the updates of torch.optim.Muon, in float32 where bfloat16 is slow."""

import pytest
import torch
from torch import nn

from mimo_codec.common import bfloat16
from mimo_codec.train import muon
from mimo_codec.train.muon import SharedMuon, orthogonalize

SHAPES = ((24, 8), (8, 24), (16, 16))


def trained(kind: type[torch.optim.Optimizer], steps: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = kind(matrices, lr=0.02, weight_decay=0.1)  # type: ignore[call-arg]
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        optimizer.step()
    return [matrix.detach() for matrix in matrices]


def test_updates_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "bfloat16_is_slow", lambda device: False)
    for ours, theirs in zip(trained(SharedMuon), trained(torch.optim.Muon), strict=True):
        assert torch.equal(ours, theirs)


def test_updates_in_float32_differ_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "bfloat16_is_slow", lambda device: True)
    for ours, theirs in zip(trained(SharedMuon, 1), trained(torch.optim.Muon, 1), strict=True):
        assert not torch.equal(ours, theirs) and torch.allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalize(matrix.clone(), (3.4445, -4.775, 2.0315), 5, 1e-7))
    assert values.min() > 0.6 and values.max() < 1.3


def test_slow_bfloat16_is_known_by_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert not bfloat16.bfloat16_is_slow(torch.device("cuda"))
    for known, slow in (
        ({"architecture": "x86_64", "avx2": True, "avx512_f": False}, True),
        ({"architecture": "x86_64", "avx512_f": True}, False),
        ({"architecture": "aarch64"}, False),
    ):
        bfloat16._has_instructions.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
        assert bfloat16.bfloat16_is_slow(cpu) is slow
    bfloat16._has_instructions.cache_clear()
