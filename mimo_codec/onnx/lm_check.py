"""An exported language model against PyTorch: logits of a prompt, a greedy answer, and the speed of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimo_codec.errors import MimoError
from mimo_codec.lm import MimoAudioLM, Stop
from mimo_codec.onnx.lm_runtime import OnnxAudioLM

TEXT = "The quick brown fox jumps over the lazy dog."
NUM_NEW = 8
MAX_ERROR = {"float32": 1e-3, "float16": 0.05, "int4": 0.5}
"""Largest difference of logits, as a share of the largest logit."""


def check_lm(lm: MimoAudioLM, folder: Path, report: Callable[[str], None] = print) -> None:
    """Compare the graphs in `folder` with the model that they are of; one line goes to `report`.

    Raises MimoError when logits differ by more than the precision of the graphs explains.
    """
    exported = OnnxAudioLM(folder, providers=["cpu"])
    prompt = lm.prompt("tts", text=TEXT)
    reference = lm.forward(prompt).text_logits[0, -1].float().cpu().numpy()
    logits = exported.next_logits(prompt)
    error = float(np.abs(logits - reference).max() / np.abs(reference).max())
    options: dict[str, Any] = dict(max_new_patches=NUM_NEW, greedy=True, stop=Stop(()))
    ours, seconds = _timed(lambda: lm.generate(prompt, **options).ids.numpy())
    theirs, onnx_seconds = _timed(lambda: exported.generate(prompt, **options).ids)
    report(
        f"PyTorch {torch.__version__} -> ONNX Runtime, {exported.metadata['dtype']}: logits within {error:.1e} of the"
        f" largest, {100 * (ours == theirs).mean():.0f} % of {NUM_NEW} greedy positions equal,"
        f" {NUM_NEW / seconds:.1f} -> {NUM_NEW / onnx_seconds:.1f} positions a second"
    )
    allowed = MAX_ERROR[exported.metadata["dtype"]]
    if not error <= allowed:
        raise MimoError(
            f"the exported graphs do not do what the model does: logits differ by {error:.1e} of the largest (allowed"
            f" {allowed:g})"
        )


def _timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started
