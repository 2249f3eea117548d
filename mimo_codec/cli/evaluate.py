"""The command `evaluate`: from names to a printed table, and a folder of report files."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from mimo_codec.cli.console import FilesFailed, print_error, progress_bar
from mimo_codec.cli.options import Device, Dtype, Model, NumQuantizers, Overwrite, Revision, Strict
from mimo_codec.cli.plan import Job, Plan, check_new, make_folders
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError


def evaluate(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="Speech: file, folder or .jsonl manifest.")],
    decoded: Annotated[
        str | None, typer.Argument(metavar="[DECODED]", help="Folder of decoded files to score instead of a model.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write report.json, report.md and plots.")
    ] = None,
    num_quantizers: NumQuantizers = None,
    codebooks: Annotated[str, typer.Option(help="Smaller numbers of codebooks to measure too, such as 1,2,4.")] = "",
    baselines: Annotated[
        str, typer.Option(help="Codecs to measure too if their programs are installed; or none.")
    ] = "opus,codec2",
    metrics: Annotated[
        str | None, typer.Option(help="Names such as pesq_wb,stoi, or all.  [default: all but word error rates]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Number of processes.  [default: one per core]")
    ] = None,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the scores of every file.")] = False,
    strict: Strict = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure a codec on speech, beside Opus and Codec2.

    Every file is encoded, decoded and compared with the original, or compared with the file of the same name in
    DECODED. A manifest has a line like {"path": "a.wav", "text": "what is said"} for each file; the text is for word
    error rates.
    """
    numbers = [_integer("--codebooks", word) for word in _words(codebooks)]
    require(decoded is None or not numbers, "--codebooks needs a model, and decoded files come without one")
    from mimo_codec.evaluation.codec import run, tables
    from mimo_codec.evaluation.codec.baselines import find_baselines
    from mimo_codec.evaluation.codec.items import find_items
    from mimo_codec.evaluation.codec.scoring import choose_metrics
    from mimo_codec.loading import load_codec

    items, notes = find_items(reference, decoded)
    chosen, without_metrics = choose_metrics(None if metrics is None else _words(metrics))
    systems, without_programs = find_baselines([] if baselines == "none" else _words(baselines))
    folder = None if output is None else _plan_report(Path(output), overwrite)
    codec = None if decoded is not None else load_codec(model, device=device, dtype=dtype, revision=revision)
    jobs = {item.name: Job(item.path, Path(item.name)) for item in items}
    with progress_bar("evaluate", dict.fromkeys(jobs.values(), 1.0), in_seconds=False) as finished:
        found = run.evaluate(
            codec,
            items,
            num_quantizers=num_quantizers,
            codebooks=numbers,
            metrics=chosen,
            baselines=systems,
            workers=os.cpu_count() or 1 if workers is None else workers,
            progress=lambda item: finished(jobs[item.name]),
        )
    found = dataclasses.replace(found, notes=(*notes, *without_metrics, *without_programs))
    if found.failed and len(items) == 1:
        raise MimoError(*found.failed.values())
    for message in found.failed.values():
        print_error(message)
    if found.num_files:
        print(tables.as_json(found) if as_json else tables.as_text(found))
        if folder is not None:
            tables.write_report(found, folder, overwrite)
    if found.failed:
        raise FilesFailed(f"{len(found.failed)} of {len(items)} files failed")


def _plan_report(folder: Path, overwrite: bool) -> Path:
    """Find out before work starts what cannot be written."""
    from mimo_codec.evaluation.codec import plots, tables

    plots.require_matplotlib()
    targets = [folder / name for name in tables.REPORT_FILES]
    if not overwrite:
        check_new(targets)
    make_folders(Plan(tuple(Job(target, target) for target in targets), single=False))
    return folder


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _integer(option: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise MimoError(f"{option}: {word!r} is not a number") from None
