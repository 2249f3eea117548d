"""The commands `corpus ...`: from raw recordings to training tokens."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from mimo_codec.cli.console import print_line, progress_bar

corpus = typer.Typer(rich_markup_mode=None)

Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="Pipeline: a YAML file, or one that is shipped: speech, small_lm.")
]
Input = Annotated[
    str, typer.Option("--input", "-i", metavar="SOURCE", help="Folder of recordings or shards, or manifest (.jsonl).")
]
Device = Annotated[str | None, typer.Option(help="Of the codec, such as cpu or cuda.  [default: cuda if there is one]")]


@corpus.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Turn raw recordings into shards of tokens, on one machine or a cluster."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@corpus.command("run")
def run(
    config: Config,
    source: Input,
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")],
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, such as auto.  [default: start Ray here]")
    ] = None,
    device: Device = None,
    reselect: Annotated[
        bool, typer.Option("--reselect", help="Replace shards that another selection or codec made in OUT.")
    ] = False,
) -> None:
    """Cut recordings into segments, describe and select them, and encode those that stay.

    OUT gets shards/*.parquet, manifest.json, report.html and quarantine.jsonl. The same command continues a run that
    was stopped or killed; with another `select` or `tokenize`, and --reselect, the same segments are used again.
    """
    from mimo_codec.corpus.config import load_pipeline
    from mimo_codec.corpus.report import write_report
    from mimo_codec.corpus.run import Run

    task = Run(load_pipeline(config), source, Path(output), engine, address, device, reselect)
    with ExitStack() as stack:
        finished: dict[str, Any] = {}

        def begin(half: str, seconds: dict[int, float]) -> None:
            stack.close()
            finished[half] = stack.enter_context(progress_bar(half, seconds))

        outcome = task(begin, lambda half, number: finished[half](number))
    report = write_report(Path(output), outcome, f"{source} by {config}")
    for reason, count in outcome.selection.removed.items():
        if count:
            print_line(f"{count} segments removed: {reason}")
    if outcome.quarantine:
        print_line(
            f"{len(outcome.quarantine)} recordings, or parts of them, are in {Path(output) / 'quarantine.jsonl'}"
        )
    manifest, hours = outcome.manifest, outcome.recorded_seconds / 3600
    kept = f"{manifest['rows']} segments, {manifest['seconds'] / 3600:.3f} of {hours:.3f} hours"
    print(f"{kept}, {len(manifest['shards'])} shards")
    for step, seconds in outcome.timing.slowest_first():
        print(f"{step:<14}{seconds:10.1f} s, {3600 * hours / max(seconds, 1e-9):,.0f} times realtime on one core")
    print(report)


@corpus.command("plan")
def plan(
    config: Config,
    source: Input,
    hours: Annotated[list[float] | None, typer.Option(min=0.001, help="Hours of recordings; can be repeated.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Of the sample that is done.")] = 5.0,
    device: Device = None,
) -> None:
    """Say what a pipeline would cost for many hours, by a sample of the input."""
    from mimo_codec.corpus.config import load_pipeline
    from mimo_codec.corpus.cost import describe_cost, measure

    print(describe_cost(measure(load_pipeline(config), source, minutes, device), hours or []))
