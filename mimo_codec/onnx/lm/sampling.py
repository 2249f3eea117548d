"""Sampling with numpy, by the algorithm of lm/sampling.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.lm.request import Sampling

Array = NDArray[Any]


def sample(logits: Array, samplings: Sequence[Sampling], uniform: Array) -> Array:
    """Draw ids [B] from logits [B, V] by numbers in [0, 1) [B].

    The distribution after temperature, top-k and top-p is inverted at `uniform`, likeliest token first.
    """
    ids: Array = logits.argmax(-1)
    rows = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not rows:
        return ids
    temperature = np.array([samplings[i].temperature for i in rows], np.float32)[:, None]
    top_k = np.array([samplings[i].top_k or logits.shape[1] for i in rows])[:, None]
    top_p = np.array([samplings[i].top_p for i in rows], np.float32)[:, None]
    scaled = logits[rows].astype(np.float32) / temperature
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    probabilities = weights / weights.sum(-1, keepdims=True)
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    probabilities = np.take_along_axis(probabilities, order, -1)
    before = probabilities.cumsum(-1) - probabilities
    kept = (np.arange(logits.shape[1]) < top_k) & (before < top_p)
    cumulative = (probabilities * kept).cumsum(-1)
    drawn = (cumulative <= uniform[rows, None] * cumulative[:, -1:]).sum(-1)
    drawn = np.minimum(drawn, kept.sum(-1) - 1)  # rounding of the last sum
    ids[rows] = np.take_along_axis(order, drawn[:, None], -1)[:, 0]
    return ids


def penalised(logits: Array, recent: Array, samplings: Sequence[Sampling]) -> Array:
    """Make the codes of `recent` [B, N] less likely in logits [B, V]; codes outside 0..V-1 mean none."""
    penalty = np.array([sampling.repetition_penalty for sampling in samplings], np.float32)[:, None]
    seen = np.zeros((len(logits), logits.shape[1] + 1), bool)
    codes = np.where((recent >= 0) & (recent < logits.shape[1]), recent, logits.shape[1])
    np.put_along_axis(seen, codes, True, -1)
    changed: Array = np.where(seen[:, :-1], np.where(logits > 0, logits / penalty, logits * penalty), logits)
    return changed
