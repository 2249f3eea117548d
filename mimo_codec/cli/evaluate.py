"""The command `evaluate`: from names to a printed table, and a folder of report files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mimo_codec.cli.console import FilesFailed, print_error, progress_bar
from mimo_codec.cli.plan import Job, Plan, check_new, make_folders
from mimo_codec.codec.base import Codec
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.codec import plots, tables
from mimo_codec.evaluation.codec.baselines import find_baselines
from mimo_codec.evaluation.codec.items import find_items
from mimo_codec.evaluation.codec.run import evaluate
from mimo_codec.evaluation.codec.scoring import choose_metrics


def evaluate_files(
    load_codec: Callable[[], Codec[Any]],
    reference: str,
    decoded: str | None = None,
    output: str | None = None,
    *,
    num_quantizers: int | None = None,
    codebooks: Sequence[int] = (),
    metrics: Sequence[str] | None = None,
    baselines: Sequence[str] = (),
    workers: int | None = None,
    as_json: bool = False,
    overwrite: bool = False,
) -> None:
    """Print how a codec does on the files of `reference`, or, with `decoded`, how those files do; see `find_items`,
    `choose_metrics`, `find_baselines` and `evaluate`.

    load_codec: called when all the rest is in order, and not with `decoded`. output: folder for `REPORT_FILES`.
    workers: None for one per core.
    A file that fails is reported on stderr and the others go on: FilesFailed at the end, MimoError when it is the only
    one.
    """
    if decoded is not None and codebooks:
        raise MimoError("codebooks are of a model, and decoded files come without one: leave --codebooks away")
    items, notes = find_items(reference, decoded)
    chosen, without_metrics = choose_metrics(metrics)
    systems, without_programs = find_baselines(baselines)
    folder = None if output is None else _plan_report(Path(output), overwrite)
    codec = None if decoded is not None else load_codec()
    jobs = {item.name: Job(item.path, Path(item.name)) for item in items}
    with progress_bar("evaluate", dict.fromkeys(jobs.values(), 1.0)) as finished:
        found = evaluate(
            codec,
            items,
            num_quantizers=num_quantizers,
            codebooks=codebooks,
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
    """What cannot be written is known before work starts."""
    plots.require_matplotlib()
    targets = [folder / name for name in tables.REPORT_FILES]
    if not overwrite:
        check_new(targets)
    make_folders(Plan(tuple(Job(target, target) for target in targets), single=False))
    return folder
