"""An exported language model against PyTorch, on a prompt of text and one of audio: logits, answers, speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimo_codec.errors import MimoError
from mimo_codec.lm import MimoAudioLM, Stop
from mimo_codec.lm.layout import Grid
from mimo_codec.lm.request import FRAME_RATE
from mimo_codec.onnx.lm_runtime import OnnxAudioLM

TEXT = "The quick brown fox jumps over the lazy dog."
AUDIO_SECONDS = 3
NUM_NEW = 8
MAX_ERROR = {"float32": 1e-3, "float16": 0.05, "int4": 0.5}
"""Largest difference of logits, as a share of the largest logit."""


def check_lm(lm: MimoAudioLM, folder: Path, report: Callable[[str], None] = print) -> None:
    """Compare the graphs in `folder` with the model that they are of; one line goes to `report`.

    Raises MimoError when logits differ by more than the precision of the graphs explains.
    """
    exported = OnnxAudioLM(folder, providers=["cpu"])
    prompts = [lm.prompt("tts", text=TEXT), lm.prompt("asr", audio=_codes(lm))]
    errors = [_error(exported.next_logits(prompt), _last_logits(lm, prompt)) for prompt in prompts]
    error = float(np.max([*errors, _patch_error(lm, exported, prompts[1])]))  # NaN stays NaN
    options: dict[str, Any] = dict(max_new_patches=NUM_NEW, greedy=True, stop=Stop(()))
    ours, seconds = _timed(lambda: [answer.ids.numpy() for answer in lm.generate(prompts, **options)])
    theirs, onnx_seconds = _timed(lambda: [answer.ids for answer in exported.generate(prompts, **options)])
    report(
        f"PyTorch {torch.__version__} -> ONNX Runtime, {exported.metadata['dtype']}: logits within {error:.1e} of the"
        f" largest, {100 * (np.stack(ours) == np.stack(theirs)).mean():.0f} % of {len(prompts)} x {NUM_NEW} greedy"
        f" positions equal, {NUM_NEW / seconds:.1f} -> {NUM_NEW / onnx_seconds:.1f} positions a second"
    )
    allowed = MAX_ERROR[exported.metadata["dtype"]]
    if not error <= allowed:
        raise MimoError(
            f"the exported graphs do not do what the model does: logits differ by {error:.1e} of the largest (allowed"
            f" {allowed:g})"
        )


def _codes(lm: MimoAudioLM) -> np.ndarray:
    """Of nothing in particular: [C, T]."""
    shape = lm.config.audio_channels, round(AUDIO_SECONDS * FRAME_RATE)
    return np.random.default_rng(0).integers(0, np.array(lm.config.codebook_sizes)[:, None], shape)


def _last_logits(lm: MimoAudioLM, prompt: Grid) -> np.ndarray:
    return np.asarray(lm.forward(prompt).text_logits[0, -1].float().cpu())


def _patch_error(lm: MimoAudioLM, exported: OnnxAudioLM, prompt: Grid) -> float:
    """Of the first codebook's logits at the first step of a patch, from the seed after a prompt."""
    c = lm.config
    seed = lm.forward(prompt).local_hidden[:1, -1]
    codes = torch.tensor(c.speech_zeroemb_idx, device=seed.device)[None, :, None].repeat(1, 1, c.group_size)
    expected = lm.model.patch_logits(seed, codes)[0][0, 0]
    return _error(exported.first_code_logits(seed.float().cpu().numpy()), np.asarray(expected.detach().float().cpu()))


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _timed(function: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started
