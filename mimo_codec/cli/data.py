"""The commands `data ...`, which prepare speech to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mimo_codec.cli.console import print_line, progress_bar
from mimo_codec.cli.options import Overwrite
from mimo_codec.cli.plan import check_not_read
from mimo_codec.common.checks import require
from mimo_codec.common.files import check_target

data = typer.Typer(rich_markup_mode=None)


@data.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Prepare speech to train on."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@data.command("scan")
def scan(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Folders of audio files or shards, manifests (.jsonl).")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="MANIFEST", help="Manifest to write (.jsonl).")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes.  [default: one per processor]")
    ] = None,
    min_seconds: Annotated[float, typer.Option(help="Shortest duration of an utterance, in seconds.")] = 0.1,
    max_clipped: Annotated[float, typer.Option(help="Largest share of samples at full scale.")] = 0.01,
    max_silence: Annotated[float, typer.Option(help="Largest share of 20 ms blocks below -60 dBFS.")] = 0.9,
    min_sample_rate: Annotated[int, typer.Option(help="Lowest sample rate of a file, in Hz.")] = 0,
    split: Annotated[str | None, typer.Option(help="Part of a data set to use, such as train.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the utterances that are fit to train on, and write one manifest of all sources.

    Every file is decoded completely. The manifest records duration, sample rate, peak, clipping and silence of each
    utterance, and its text. Files that are damaged, silent, clipped, too short or of a low sample rate are left out and
    listed.
    """
    require(output.lower().endswith(".jsonl"), f"{output}: the name of a manifest must end in .jsonl")
    check_target(Path(output), overwrite)
    check_not_read(Path(output), sources)
    from mimo_codec.data import scan as scanning
    from mimo_codec.data.find import find_utterances
    from mimo_codec.data.manifest import write_manifest

    limits = scanning.Limits(min_seconds, max_clipped, max_silence, min_sample_rate)
    found, faults = [], []
    for source in sources:
        utterances, unreadable = find_utterances(source, split)
        found += utterances
        faults += unreadable
    with progress_bar("scan", dict.fromkeys(range(len(found)), 1.0), in_seconds=False) as finished:
        good, bad = scanning.scan(found, limits, workers, finished)
    for fault in (faults := [*faults, *bad]):
        print_line(f"skipped {fault}")
    require(good, f"{', '.join(sources)}: none of {len(found)} utterances is fit to train on")
    write_manifest(output, good, overwrite)
    print("\n".join(scanning.summary(good, faults)))
