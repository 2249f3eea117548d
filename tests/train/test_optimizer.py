"""The optimizer and the schedule of its learning rates."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")


from mimo_codec.train.loop import warm_up_and_decay
from mimo_codec.train.optimizer import make_optimizer


def test_optimizer_state_round_trips():
    def run(steps: int, state=None, weights=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        if weights is not None:
            layer.load_state_dict(weights)
        optimizer = make_optimizer([("layers.weight", layer.weight), ("bias", layer.bias)], 0.02, 0.01, 0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        return layer.state_dict(), optimizer.state_dict()

    whole, _ = run(6)
    halfway, state = run(3)
    halfway = {k: v.clone() for k, v in halfway.items()}
    resumed, _ = run(3, state, halfway)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_learning_rates_of_both_parts_follow_the_scheduler():
    layer = torch.nn.Linear(4, 4)
    optimizer = make_optimizer([("layers.weight", layer.weight), ("bias", layer.bias)], 0.02, 0.01, 0.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.005}
    assert isinstance(make_optimizer([("layers.weight", layer.weight)], 0.0, 0.01, 0.0), torch.optim.AdamW)


def test_the_rate_warms_up_stays_and_decays():
    rates = [warm_up_and_decay(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:50] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5) and rates[99] == pytest.approx(0.02)
