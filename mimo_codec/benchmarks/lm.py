"""Speed of the language model with random weights: `python -m mimo_codec.benchmarks.lm`.

Every answer is all audio, so that the patch decoder runs at every position. One line per batch size and mode: seconds
to the first patch (the prompt included), patches a second of the whole batch, seconds of audio per second of compute of
each item, the share of the time spent in the patch decoder, and the time of a step. On a GPU also the bandwidth that a
backbone step reaches, as a share of what copying reaches.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer

from mimo_codec.benchmarks.shared import parse_numbers, run_app
from mimo_codec.codec.model import check_device, check_dtype
from mimo_codec.lm.backend import TorchBackend
from mimo_codec.lm.config import FRAME_RATE, PRESETS, LMConfig
from mimo_codec.lm.generate import generate_positions
from mimo_codec.lm.layout import Audio, Layout
from mimo_codec.lm.model import SpeechLanguageModel, rebuild_rotary
from mimo_codec.lm.request import Request

EMPTY_ID = 0
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Figures(NamedTuple):
    """The times of one run."""

    first: float
    """Seconds to the first patch."""
    step: float
    """Seconds per patch after it."""
    decoder: float
    """Seconds of each step that the patch decoder takes."""


def make_model(config: LMConfig, device: torch.device, dtype: torch.dtype) -> SpeechLanguageModel:
    """Make a model of random weights, never twice in memory.

    Text logits are all zero: the likeliest token is 0, here `<|empty|>`.
    """
    with torch.device("meta"):
        model = SpeechLanguageModel(config, EMPTY_ID).to(dtype)
    model = model.to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.zeros_(model.lm_head.weight)
    rebuild_rotary(model, device)
    return model.eval()


def measure(backend: TorchBackend, batch_size: int, num_prompt: int, num_new: int) -> Figures:
    """Generate `num_new` patches after prompts of `num_prompt` patches."""
    c, device = backend.model.config, backend.model.device
    layout = Layout(c.group_size, c.speech_zeroemb_idx, c.delay_pattern, EMPTY_ID)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, np.array(c.codebook_sizes)[:, None], (c.audio_channels, c.group_size * num_prompt))
    requests = [Request(layout.build([Audio(codes)]), num_new) for _ in range(batch_size)]
    spent = 0.0
    decode = backend.decode_patches

    def timed(*arguments: object) -> torch.Tensor:
        nonlocal spent
        _wait(device)
        start = perf_counter()
        patches = decode(*arguments)  # type: ignore[arg-type]
        _wait(device)
        spent += perf_counter() - start
        return patches

    backend.decode_patches = timed  # type: ignore[method-assign, assignment]
    try:
        start, first = perf_counter(), 0.0
        for n, _ in enumerate(generate_positions(backend, requests, layout)):
            if n == 0:
                _wait(device)
                first, spent = perf_counter() - start, 0.0
        _wait(device)
        rest = perf_counter() - start - first
    finally:
        backend.decode_patches = decode  # type: ignore[method-assign]
    return Figures(first, rest / (num_new - 1), spent / (num_new - 1))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes that a large copy reads and writes in a second."""
    source = torch.empty(2**28, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    _wait(device)
    start = perf_counter()
    for _ in range(10):
        target.copy_(source)
    _wait(device)
    return 2 * 10 * source.nbytes / (perf_counter() - start)


@app.command()
def main(
    shapes: Annotated[str, typer.Option(help=f"Of {', '.join(PRESETS)}.")] = "0.5b",
    batch_sizes: Annotated[str, typer.Option(help="Such as 1,8,32.")] = "1,8,32",
    num_prompt: Annotated[int, typer.Option(min=1, help="Patches of a prompt; 63 are ten seconds.")] = 63,
    num_new: Annotated[int, typer.Option(min=2, help="New patches.")] = 16,
    compiled: Annotated[bool, typer.Option(help="Compiled steps beside eager ones.")] = True,
    device: Annotated[str | None, typer.Option(help="[default: cuda if there is one]")] = None,
    dtype: Annotated[str | None, typer.Option(help="[default: bfloat16 on cuda, else float32]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="That torch computes with.")] = os.cpu_count() or 1,
) -> None:
    """Print the speed of generation, eager and compiled."""
    torch.set_num_threads(threads)
    place = check_device(device)
    kind = check_dtype(dtype or ("bfloat16" if place.type == "cuda" else "float32"))
    for shape in shapes.split(","):
        sizes = [int(size) for size in parse_numbers("--batch-sizes", batch_sizes)]
        _print_shape(shape.strip(), sizes, num_prompt, num_new, compiled, place, kind)


def _print_shape(
    shape: str,
    batch_sizes: list[int],
    num_prompt: int,
    num_new: int,
    compiled: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    config = LMConfig.preset(shape)
    patch_rate = FRAME_RATE / config.group_size
    model = make_model(config, device, dtype)
    backbone = sum(p.nbytes for name, p in model.named_parameters() if name.startswith(("model.layers", "lm_head")))
    count = sum(p.numel() for p in model.parameters()) / 1e9
    print(
        f"{shape}: {count:.2f} B weights, {dtype}, {device}, {torch.get_num_threads()} threads, torch"
        f" {torch.__version__}; prompts of {num_prompt} patches, {num_new} new"
    )
    print(f"{'':10}{'batch':>6}{'first s':>9}{'patches/s':>11}{'realtime':>10}{'decoder':>9}{'ms/step':>9}")
    for mode in ("eager", "compiled") if compiled else ("eager",):
        backend = TorchBackend(model, mode == "compiled")
        for batch_size in batch_sizes:
            measure(backend, batch_size, num_prompt, num_new)  # warms up, or compiles
            first, step, decoder = measure(backend, batch_size, num_prompt, num_new)
            line = (
                f"{mode:10}{batch_size:6}{first:9.2f}{batch_size / step:11.1f}{1 / step / patch_rate:10.2f}"
                f"{decoder / step:9.0%}{1000 * step:9.1f}"
            )
            if device.type == "cuda":
                line += f"   backbone at {backbone / (step - decoder) / copy_bandwidth(device):.0%} of copy bandwidth"
            print(line, flush=True)


if __name__ == "__main__":
    run_app(app)
