"""Originals against what a codec, its prefixes of codebooks and other codecs make of them, or against files.

The model runs in this process, a few files at a time; scoring, which takes longer, in processes of its own, while the
model waits, so that its speed is measured undisturbed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimo_codec.audio import load_audio
from mimo_codec.baselines import Baseline
from mimo_codec.codec import MimoCodec
from mimo_codec.codes import AudioCodes
from mimo_codec.errors import MimoError
from mimo_codec.evaluation import Codebook, Evaluation, System
from mimo_codec.jobs import AUDIO, find_files
from mimo_codec.metrics import METRICS, available_metrics, missing_packages, speech_metrics

FILES_PER_WORKER = 4
"""Coded before they are scored: enough that workers seldom wait, few enough to hold in memory."""
NAMED_FILES = 3
"""In a line about many."""
Sound = tuple[NDArray[np.float32], int]
"""[S] and its rate in Hz."""
Key, Value = TypeVar("Key"), TypeVar("Value")


# ---- what to compare -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """An original, and what is known of it."""

    name: str
    """its path in the folder or manifest it comes from"""
    path: Path
    text: str | None = None
    """what is said"""
    decoded: Path | None = None
    """to compare it with"""


def find_items(reference: str | Path, decoded: str | Path | None = None) -> tuple[list[Item], list[str]]:
    """An audio file, a folder of them or a manifest -> (items, notes).

    A manifest is a .jsonl file: an object with "path", from the manifest's folder on, and perhaps "text" on each line.
    decoded: a folder (or file) of decoded audio; files that are called the same but for their suffix, folders included,
    belong together, and there is a note on those that have no partner.
    MimoError when there is nothing to read, two files have one name, or none has a partner.
    """
    originals = _read_manifest(Path(reference)) if Path(reference).suffix == ".jsonl" else _list_files(Path(reference))
    if decoded is None:
        return originals, []
    if os.path.isfile(reference) and os.path.isfile(decoded) and len(originals) == 1:
        return [Item(originals[0].name, originals[0].path, originals[0].text, Path(decoded))], []
    partners = {stem: item.path for stem, item in _by_stem(_list_files(Path(decoded))).items()}
    stems = _by_stem(originals)
    items = [Item(i.name, i.path, i.text, partners[stem]) for stem, i in stems.items() if stem in partners]
    if not items:
        raise MimoError(f"no file of {reference} has a partner in {decoded}, of the same path but for the suffix")
    lonely = [str(item.path) for stem, item in stems.items() if stem not in partners]
    lonely += [str(path) for stem, path in partners.items() if stem not in stems]
    return items, [f"left out, without a partner: {_some(lonely)}"] if lonely else []


def _list_files(source: Path) -> list[Item]:
    if not os.path.isdir(source):
        return [Item(source.name, source)]
    return [Item(str(path.relative_to(source)), path) for path in find_files(source, AUDIO)]


def _read_manifest(manifest: Path) -> list[Item]:
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MimoError(f"{manifest}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    items = [_read_line(manifest, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise MimoError(f"{manifest}: lists no files")
    return items


def _read_line(manifest: Path, number: int, line: str) -> Item:
    try:
        entry = json.loads(line)
        name, text = entry["path"], entry.get("text")
        return Item(str(name), manifest.parent / name, text)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise MimoError(f'{manifest}: line {number} is not an object with a "path" such as {{"path": "a.wav"}}') from None


def _by_stem(items: Iterable[Item]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in items:
        stem = str(Path(item.name).with_suffix(""))
        if stem in found:
            raise MimoError(f"{found[stem].path} and {item.path} differ in the suffix alone: which one is meant?")
        found[stem] = item
    return found


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_FILES
    return ", ".join(names[:NAMED_FILES]) + (f" and {more} more" if more > 0 else "")


def choose_metrics(names: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """Names asked for, or None for all but the slow ones, or ["all"] -> (metrics to compute, notes on what is missing).

    MimoError for names that are not known, and for named metrics whose packages are not installed.
    """
    if names is not None and list(names) != ["all"]:
        for name in names:
            if name not in METRICS:
                raise MimoError(f"metric {name!r} is not known; {', '.join(METRICS)} and all are")
            if missing := missing_packages(name):
                raise MimoError(f"{name}: {missing[0]} is not installed: {METRICS[name].install}")
        return tuple(dict.fromkeys(names)), []
    wanted = [name for name, metric in METRICS.items() if names is not None or not metric.slow]
    chosen = tuple(name for name in wanted if name in available_metrics())
    by_cause: dict[str, list[str]] = {}
    for name in wanted:
        if missing := missing_packages(name):
            cause = f"{missing[0]} is not installed: {METRICS[name].install}"
            by_cause.setdefault(cause, []).append(name)
    return chosen, [f"left out: {', '.join(left_out)} ({cause})" for cause, left_out in by_cause.items()]
