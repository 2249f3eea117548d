"""Comparison of an exported language model with PyTorch: logits, answers and speed after prompts of text and audio."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimo_codec.common.checks import require
from mimo_codec.lm import MimoAudioLM, Stop
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.layout import Audio, Grid, Text, delay
from mimo_codec.onnx.lm.runtime import OnnxAudioLM

TEXT = "The quick brown fox jumps over the lazy dog."
AUDIO_SECONDS = 3
NUM_STEPS = 2
"""Patches, and then text tokens, that follow a prompt one by one where logits are compared."""
NUM_NEW = 8
MAX_ERROR = {"float32": 1e-3, "float16": 0.05, "int4": 0.5}
"""Largest difference of logits, as a share of them (root mean squares): that of int4 is spread over them unevenly."""


def check_lm(lm: MimoAudioLM, folder: Path, report: Callable[[str], None] = print) -> None:
    """Compare the graphs in `folder` with the model that they are of; one line goes to `report`.

    Raises MimoError when logits differ by more than the precision of the graphs explains, and when greedy answers of
    float32 graphs differ at all.
    """
    exported = OnnxAudioLM(folder, providers=["cpu"])
    prompts = [lm.prompt("tts", text=TEXT), lm.prompt("asr", audio=_codes(lm, round(AUDIO_SECONDS * FRAME_RATE)))]
    error = float(np.max([_errors(lm, exported, prompt) for prompt in prompts]))  # NaN stays NaN
    options: dict[str, Any] = dict(max_new_patches=NUM_NEW, greedy=True, stop=Stop(()))
    ours, seconds = _timed(lambda: [answer.ids.numpy() for answer in lm.generate(prompts, **options)])
    theirs, onnx_seconds = _timed(lambda: [answer.ids for answer in exported.generate(prompts, **options)])
    equal, dtype = float((np.stack(ours) == np.stack(theirs)).mean()), exported.metadata["dtype"]
    report(
        f"PyTorch {torch.__version__} -> ONNX Runtime, {dtype}: logits within {error:.1e} of their size,"
        f" {100 * equal:.0f} % of {len(prompts)} x {NUM_NEW} greedy positions equal,"
        f" {NUM_NEW / seconds:.1f} -> {NUM_NEW / onnx_seconds:.1f} positions a second"
    )
    failed, allowed = "the exported graphs do not do what the model does", MAX_ERROR[dtype]
    require(error <= allowed, f"{failed}: logits differ by {error:.1e} of their size (allowed {allowed:g})")
    same = dtype != "float32" or equal == 1
    require(same, f"{failed}: {100 * (1 - equal):.2g} % of the ids in greedy answers differ")


def _codes(lm: MimoAudioLM, num_frames: int) -> np.ndarray:
    """Return random codes [C, T]."""
    sizes = np.array(lm.config.codebook_sizes)[:, None]
    return np.random.default_rng(0).integers(0, sizes, (lm.config.audio_channels, num_frames))


@torch.no_grad()
def _errors(lm: MimoAudioLM, exported: OnnxAudioLM, prompt: Grid) -> list[float]:
    """Return the errors of the text's logits and of each channel's, from the end of a prompt on, teacher-forced."""
    speech = Audio(_codes(lm, NUM_STEPS * lm.config.group_size))
    grid = np.concatenate(
        (prompt, lm.layout.build([speech, Text(tuple(lm.tokenizer.encode(TEXT)[:NUM_STEPS]))])), axis=1
    )
    start = len(lm.layout.token_ids(prompt))
    expected = lm.forward(grid)
    logits, seeds = _backbone_steps(exported, grid, start)
    patches = lm.layout.patches(grid)[start : start + NUM_STEPS]
    channels = zip(_patch_steps(exported, seeds[:NUM_STEPS], patches), expected.audio_logits, strict=True)
    return [
        _error(logits, expected.text_logits[0, start - 1 :]),
        *(_error(found, wanted[-NUM_STEPS:]) for found, wanted in channels),  # the prompt's own patches come first
    ]


def _backbone_steps(exported: OnnxAudioLM, grid: Grid, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Read `start` positions of a grid at once, then one by one; return logits [n, V] and seeds [n, D] after each."""
    tokens, patches = exported.layout.token_ids(grid)[None], exported.layout.patches(grid)[None]
    backbone, logits, seeds = exported.backbone, [], []
    state: dict[str, Any] = backbone.initial_state()
    for begin, end in pairwise((0, *range(start, tokens.shape[1] + 1))):
        part = slice(begin, end)
        state = backbone.run({"tokens": tokens[:, part], "patches": patches[:, part], "pads": np.zeros(1), **state})
        logits.append(state.pop("logits"))
        seeds.append(state.pop("seeds"))
    return np.concatenate(logits), np.concatenate(seeds)


def _patch_steps(exported: OnnxAudioLM, seeds: np.ndarray, patches: np.ndarray) -> list[np.ndarray]:
    """Do SpeechLanguageModel.patch_logits step by step: seeds [N, D], codes [N, C, G] -> logits [N, G, codes]."""
    c, patch_step = exported.config, exported.patch_step
    delayed = delay(patches, c.delay_pattern, c.speech_zeroemb_idx)
    codes, steps = np.tile(c.speech_zeroemb_idx, (len(seeds), 1)), []
    state: dict[str, Any] = patch_step.initial_state(len(seeds))
    for t in range(delayed.shape[2]):
        state = patch_step.run({"seeds": seeds, "codes": codes, **state})
        steps.append(state.pop("logits"))
        seeds, codes = np.zeros_like(seeds), delayed[..., t]
    channels = np.split(np.stack(steps, axis=1), np.cumsum(c.speech_vocab_size)[:-1], axis=2)
    return [logits[:, d : d + c.group_size] for logits, d in zip(channels, c.delay_pattern, strict=True)]


def _error(found: np.ndarray, expected: torch.Tensor) -> float:
    wanted = expected.float().cpu().numpy()
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _timed(function: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started
