"""The configuration of a pipeline: a YAML file -> the options of its parts, all checked.

A part that is null is left out. `describe` lists steps in their order, each by its name or class path with its options.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mimo_codec.common.beside import import_beside
from mimo_codec.common.checks import check_type, error_prefix, require, wrap_errors
from mimo_codec.common.fields import check_fields, flag, integer, number
from mimo_codec.common.files import open_regular
from mimo_codec.corpus.expressions import check_expression

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_YAML_BYTES = 2**20
Options = TypeVar("Options", bound="DataclassInstance")


@dataclass(frozen=True)
class ReadOptions:
    """What is read.

    Args:
        source: name of the corpus, for the column `source`; null: that which a manifest gives, else that of the input.
        licence: of the recordings, for the column `licence`; null: that which a manifest gives.
        split: part of a manifest or data set to use.
        sample_rate: in Hz, at which segments are described.
        min_sample_rate: of the recordings that are used, in Hz.
    """

    source: str | None = None
    licence: str | None = None
    split: str | None = None
    sample_rate: int = integer(24000, low=8000, high=192_000)
    min_sample_rate: int = integer(0)

    def __post_init__(self) -> None:
        """Check what is text."""
        for name in ("source", "licence", "split"):
            if getattr(self, name) is not None:
                check_type(name, getattr(self, name), str, "text")


@dataclass(frozen=True)
class SegmentOptions:
    """How recordings are cut at pauses; those with a text that are short enough stay whole.

    Args:
        min_seconds: of a segment; shorter ones are left out.
        max_seconds: of a segment; longer speech is cut where it is most like a pause.
        threshold: probability from which 32 ms count as speech.
        pause_seconds: shortest pause at which speech is cut.
        margin_seconds: kept before and after the speech.
    """

    min_seconds: float = number(1.0, low=0.1, high=3600)
    max_seconds: float = number(30.0, low=0.5, high=3600)
    threshold: float = number(0.5, low=0.01, high=0.99)
    pause_seconds: float = number(0.5, low=0.05, high=60)
    margin_seconds: float = number(0.1, low=0, high=10)

    def __post_init__(self) -> None:
        """Check what concerns several fields."""
        require(2 * self.min_seconds <= self.max_seconds, "segment: max_seconds must be at least twice min_seconds")


@dataclass(frozen=True)
class SelectOptions:
    """Which segments stay, of the whole corpus.

    Args:
        exact_duplicates: whether of segments with the same samples only the first stays.
        near_duplicates: whether of segments that sound alike only the first stays.
        similarity: share of their fingerprints that near duplicates have in common, and not less than four moments.
        keep: name -> expression over the columns that must be true, such as "snr_db >= 10 and seconds < 20". A
            value that is missing is None, and neither more nor less than another.
        share: of the segments that are left, which stays, by a hash of their ids.
    """

    exact_duplicates: bool = flag(True)
    near_duplicates: bool = flag(True)
    similarity: float = number(0.04, low=0, high=1)
    keep: Mapping[str, str] = field(default_factory=dict)
    share: float = number(1.0, low=0, high=1)

    def __post_init__(self) -> None:
        """Check the expressions, as far as can be told without their columns."""
        for name, expression in check_type("keep", self.keep, dict, "names with expressions").items():
            with error_prefix(f"keep: {name}"):
                check_expression(expression)


@dataclass(frozen=True)
class TokenizeOptions:
    """Which codes segments get.

    Args:
        codec: name or folder of a codec of either backend.
        num_quantizers: codebooks to use; null: 8, or all if there are fewer.
        batch_seconds: most audio, padding included, that goes through the codec at a time.
    """

    codec: str = "nano"
    num_quantizers: int | None = None
    batch_seconds: float = number(60.0, low=1, high=36_000)

    def __post_init__(self) -> None:
        """Check what is text."""
        check_type("codec", self.codec, str, "text")


@dataclass(frozen=True)
class EngineOptions:
    """How work is shared out; no setting but task_minutes and shard_hours changes the result.

    Args:
        workers: processes, or actors of Ray; 0: one for each core.
        cpus, gpus: of each actor of Ray, fractions included.
        task_minutes: recordings that one task describes.
        shard_hours: segments of one shard.
    """

    workers: int = integer(0, high=100_000)
    cpus: float = number(1.0, low=0, high=1024)
    gpus: float = number(0.0, low=0, high=64)
    task_minutes: float = number(30.0, low=0.1, high=10_000)
    shard_hours: float = number(2.0, low=0.001, high=1000)


@dataclass(frozen=True)
class StepOptions:
    """A step of `describe`: its name in `STEPS` or class path, and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Pipeline:
    """All parts."""

    read: ReadOptions = ReadOptions()
    segment: SegmentOptions | None = SegmentOptions()
    describe: tuple[StepOptions, ...] = ()
    select: SelectOptions = SelectOptions()
    tokenize: TokenizeOptions | None = TokenizeOptions()
    engine: EngineOptions = EngineOptions()

    def fingerprint(self) -> str:
        """Eight hex digits of everything that decides over the rows."""
        content = {name: value for name, value in asdict(self).items() if name != "engine"}
        return _digest([content, self.engine.shard_hours, self.engine.task_minutes])

    def description_fingerprint(self) -> str:
        """Eight hex digits of everything that decides over the segments before the selection."""
        content = asdict(self)
        return _digest([*(content[name] for name in ("read", "segment", "describe")), self.engine.task_minutes])


def _digest(content: list[Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True, default=str).encode()):08x}"


PARTS: Mapping[str, type[Any]] = {
    "read": ReadOptions,
    "segment": SegmentOptions,
    "select": SelectOptions,
    "tokenize": TokenizeOptions,
    "engine": EngineOptions,
}


def shipped_pipelines() -> dict[str, Path]:
    """Find the pipelines that come with the package: name -> file."""
    package = Path(__file__).parent.parent
    root = package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted((root / "corpus").glob("*.yaml"))}


def find_pipeline(name: str) -> Path:
    """Find a pipeline by its path or the name of a shipped one; MimoError lists the known names."""
    if os.path.isfile(name):
        return Path(name)
    shipped = shipped_pipelines()
    require(name in shipped, f"pipeline {name!r}: no such file, nor a shipped one ({', '.join(shipped)})")
    return shipped[name]


def load_pipeline(name: str) -> Pipeline:
    """Read a pipeline; MimoError, which names file and key, for what is no pipeline.

    Steps are then imported also from Python files beside it.
    """
    import yaml

    path = find_pipeline(name)
    import_beside([path])
    with wrap_errors(f"{path}: cannot be read", OSError), open_regular(path) as file:
        text = file.read(MAX_YAML_BYTES + 1)
    require(len(text) <= MAX_YAML_BYTES, f"{path}: is larger than any pipeline")
    with wrap_errors(f"{path}: not valid YAML", yaml.YAMLError, RecursionError, ValueError):
        content = yaml.safe_load(text)
    with error_prefix(path):
        return make_pipeline({} if content is None else content)


def make_pipeline(content: object) -> Pipeline:
    """Make a pipeline of what a YAML file holds."""
    parts = check_type("pipeline", content, dict, "a mapping")
    known = [f.name for f in fields(Pipeline)]
    for name in parts:
        require(name in known, f"{name} is no part of a pipeline; there are {', '.join(known)}")
    made: dict[str, Any] = {}
    for name, value in parts.items():
        if name == "describe":
            steps = check_type("describe", value or [], list, "a list of steps")
            made[name] = tuple(_step(number, step) for number, step in enumerate(steps))
        elif value is None and name in ("segment", "tokenize"):
            made[name] = None
        else:
            made[name] = _options(name, PARTS[name], {} if value is None else value)
    return Pipeline(**made)


def _options(name: str, kind: type[Options], value: object) -> Options:
    given = check_type(name, value, dict, "a mapping of options")
    known = [f.name for f in fields(kind)]
    for key in given:
        require(key in known, f"{name}: {key} is not known; there are {', '.join(known)}")
    with error_prefix(name):
        with wrap_errors("options", TypeError):
            options = kind(**given)
        check_fields(options)
    return options


def _step(number: int, value: object) -> StepOptions:
    """Return a step given as "name", {"name": options}, or {"class_path": ..., "init_args": ...}."""
    where = f"describe[{number}]"
    if isinstance(value, str):
        return StepOptions(value, {})
    given = check_type(where, value, dict, "the name of a step, or the name with its options")
    if "class_path" in given:
        extra = set(given) - {"class_path", "init_args"}
        require(not extra, f"{where}: beside class_path there is only init_args, not {', '.join(map(str, extra))}")
        name, arguments = given["class_path"], given.get("init_args") or {}
    else:
        require(len(given) == 1, f"{where}: one step is needed, not {len(given)} keys")
        name, arguments = next(iter(given.items()))
    check_type(f"{where}: name", name, str, "text")
    return StepOptions(name, check_type(f"{where}: {name}", arguments or {}, dict, "a mapping of options"))
