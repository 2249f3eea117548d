"""Speed of training a language model: `python -m mimo_codec.benchmarks.lm_training`.

Prints positions and seconds of audio per second of compute, and the multiplications of a step as a share of what one
large matrix product of the same type reaches in the same process. Rows are answers of speech, half text and half
patches, of random tokens and codes; nothing is learnt.
"""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from torch.utils.flop_counter import FlopCounterMode

from mimo_codec.benchmarks.shared import run_app
from mimo_codec.codec.model import check_device
from mimo_codec.lm.config import FRAME_RATE
from mimo_codec.lm.layout import Audio, Layout, Text
from mimo_codec.train.lm.item import Item
from mimo_codec.train.lm.losses import total_loss
from mimo_codec.train.lm.options import LanguageOptions
from mimo_codec.train.lm.pack import Pack, make_pack
from mimo_codec.train.lm.stages import LanguageModelStage
from mimo_codec.train.optimizer import make_optimizer
from mimo_codec.train.run import find_recipe

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
MATMUL_SIZE = 2048
TEXT_SHARE = 0.4
"""Of the positions of an item: text tokens; the others are patches."""


def make_stage(recipe: str) -> LanguageModelStage:
    """Make the stage of a recipe, without a codec."""
    content = yaml.safe_load(find_recipe(recipe).read_text(encoding="utf-8"))
    arguments: dict[str, Any] = {**content["model"]["init_args"], "codec": None}
    return LanguageModelStage(**arguments)


def random_pack(layout: Layout, num_positions: int, item_positions: int) -> Pack:
    """Make a pack of items of random text and codes."""
    draw, items = np.random.default_rng(0), []
    num_text = round(TEXT_SHARE * item_positions)
    for _ in range(num_positions // item_positions):
        text = Text(tuple(draw.integers(0, 256, num_text).tolist()))
        shape = (layout.num_channels, layout.group_size * (item_positions - num_text))
        codes = Audio(draw.integers(0, np.array(layout.empty_codes)[:, None], shape))
        grid = layout.build([text, codes])
        items.append(Item(grid, np.ones(layout.num_positions(grid), bool)))
    return make_pack(items, layout)


def matmul_limit(device: torch.device, seconds: float = 2.0) -> float:
    """Measure the multiplications and additions a second of large products in bfloat16."""
    a, b = (torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device, dtype=torch.bfloat16) for _ in range(2))
    start, count = perf_counter(), 0
    while perf_counter() - start < seconds:
        a @ b
        _wait(device)
        count += 1
    return 2 * MATMUL_SIZE**3 * count / (perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_step(stage: LanguageModelStage, optimizer: torch.optim.Optimizer, pack: Pack) -> None:
    """Forward, backward and optimizer, as in training."""
    h: LanguageOptions = stage.options
    with torch.autocast(pack.tokens.device.type, torch.bfloat16):
        terms = stage.network(pack)
        loss = total_loss(terms.sums, terms.counts, (h.text_weight, *h.channel_weights))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@app.command()
def measure(
    recipe: Annotated[str, typer.Option(help="Recipe of a language model.")] = "lm_small",
    positions: Annotated[int, typer.Option(help="Positions of one forward pass.")] = 2048,
    item: Annotated[int, typer.Option(help="Positions of an item.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps that are measured.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of the CPU.")] = 1,
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cpu",
) -> None:
    """Print the speed of training with random weights."""
    torch.set_num_threads(threads)
    place = check_device(device)
    stage = make_stage(recipe).to(place)
    h = stage.options
    named = [(name, p) for name, p in stage.language_model.named_parameters() if p.requires_grad]
    optimizer = make_optimizer(named, h.matrix_learning_rate, h.learning_rate, h.weight_decay, h.betas)
    pack = random_pack(stage.layout, positions, item).to(place)
    with FlopCounterMode(display=False) as counter:
        train_step(stage, optimizer, pack)
    limits, times = [], []
    for _ in range(steps):
        limits.append(matmul_limit(place, 1.0))
        start = perf_counter()
        train_step(stage, optimizer, pack)
        _wait(place)
        times.append(perf_counter() - start)
    step, limit = float(np.median(times)), float(np.median(limits))
    audio = int((pack.tokens == stage.language_model.empty_id).sum()) * stage.layout.group_size / FRAME_RATE
    reached = counter.get_total_flops() / step
    print(f"{recipe}: {sum(p.numel() for _, p in named) / 1e6:.1f} M parameters, {threads} threads on {place}")
    print(f"a step of {len(pack.tokens)} positions: {step:.2f} s (least {min(times):.2f}, most {max(times):.2f})")
    print(f"{len(pack.tokens) / step:.0f} positions a second, {audio / step:.1f} seconds of audio a second")
    print(f"{reached / 1e9:.1f} of {limit / 1e9:.1f} GFLOP/s that matrix products reach: {100 * reached / limit:.0f} %")


if __name__ == "__main__":
    run_app(app)
