"""Where training audio comes from: one source, or several with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mimo_codec.common.checks import check_number, check_type, require


@dataclass(frozen=True)
class Source:
    """One of several sources of audio.

    Args:
        path: a folder, a manifest (.jsonl), a data set or shards; see `find_utterances`.
        weight: how much is drawn from it, in proportion to the others; null, for all: in proportion to the duration.
        split: use only the rows that have this "split".
    """

    path: str
    weight: float | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        """Check the weight."""
        if self.weight is not None:
            check_number(f"{self.path}: weight", self.weight, 0, 1e9)


def sources_of(name: str, root: Sequence[Source] | str, split: str | None) -> list[Source]:
    """Return the sources that an argument called `name` gives; `split` is of all that have none of their own.

    Raises MimoError when there is none, or only some have weights.
    """
    sources = [Source(root)] if isinstance(root, str) else list(root)
    require(sources, f"{name}: at least one source is needed")
    for source in sources:
        check_type(name, source, Source, "a path, or a list of sources")
    weights = [source.weight for source in sources]
    require(None not in weights or set(weights) == {None}, f"{name}: give all sources a weight, or none: {weights}")
    require(weights[0] is None or any(weights), f"{name}: all weights are 0")
    return [source if source.split is not None else replace(source, split=split) for source in sources]


def paths_of(root: Any) -> list[str]:
    """Return the paths in the value of an argument, as a recipe gives it.

    It is a path, a list of sources or of mappings, or a mapping of paths to their weights.
    """
    if root is None or isinstance(root, str):
        return [] if root is None else [root]
    if isinstance(root, Mapping):
        return [str(path) for path in root]
    return [source["path"] if isinstance(source, dict) else source.path for source in root]


def share_out(sources: Sequence[Source], weights: Sequence[Sequence[float]]) -> list[float]:
    """Return what the probability of each utterance is in proportion to, for all sources one after the other.

    weights: of the utterances of each source. Where sources have weights, those of each are scaled to its weight.
    Raises MimoError when a source with a weight has utterances, but all of theirs are 0.
    """
    shared: list[float] = []
    for source, of_one in zip(sources, weights, strict=True):
        total = sum(of_one)
        if source.weight is not None and of_one:
            require(total > 0, f"{source.path}: has the weight {source.weight:g}, but that of every file is 0")
            of_one = [weight * source.weight / total for weight in of_one]
        shared += of_one
    return shared
