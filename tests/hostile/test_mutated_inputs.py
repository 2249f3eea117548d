"""A short campaign against each target; `python tests/hostile/campaign.py` runs the long one."""

import pytest
from campaign import run_batch
from targets import EXPORTED, TARGETS

pytestmark = pytest.mark.slow
SHORT = 8
"""Inputs for each part of a target's share."""


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_worse_than_a_mimo_error(name, request, monkeypatch):
    for extra in {"metadata": "onnxruntime", "language_model": "transformers"}.items():
        if extra[0] == name:
            pytest.importorskip(extra[1])
    if name == "metadata":
        monkeypatch.setenv(EXPORTED, str(request.getfixturevalue("tiny_onnx")))
    bad = run_batch(name, range(SHORT * TARGETS[name].share), seed=1)
    assert not bad, "\n".join(str(row) for row in bad)
