"""The command `train`: a recipe and what overrides it."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file, or name of a shipped recipe.")],
) -> None:
    """Train a model by a recipe.

    Options after RECIPE override its keys, as in mimo-codec train nano_stage1 --data.root speech --trainer.max_steps
    1000. For a list of them: mimo-codec train nano_stage1 --help. With --plan it prints how much memory training a
    language model would take, and trains nothing.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported; see docs/training.md
    from mimo_codec.train import run

    arguments, plan = list(context.args), None
    if "--plan" in arguments:
        from mimo_codec.train.lm import memory

        arguments.remove("--plan")
        plan = memory.plan
    run.train(recipe, arguments, all_cores=True, plan=plan)
