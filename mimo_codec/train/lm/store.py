"""Items on disk, as arrays that are mapped into memory: what training draws from, whatever becomes of the audio."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import check_integer, check_type, error_prefix, require, wrap_errors
from mimo_codec.common.files import atomic_path, read_json, write_json
from mimo_codec.lm.layout import Layout
from mimo_codec.train.lm.item import Item

ARRAYS = {"tokens": np.int32, "codes": np.int32, "trained": np.bool_}
INDEX = {"sources": np.int64, "lengths": np.int64, "patches": np.int64}
"""Of every item: its source, positions, and patches among these."""
COUNT, NAMES = "count.json", "names.jsonl"


class ItemStore:
    """Items of a folder, each of a source (its number) from which it came."""

    def __init__(self, folder: Path, layout: Layout):
        """Open what `write_items` wrote; MimoError when it is not whole."""
        self.layout = layout
        with error_prefix(f"{folder / COUNT}: damaged; remove the folder"):
            about = check_type("content", read_json(folder / COUNT), dict, "an object")
            count = check_integer("items", about.get("items"), 0)
        self.sources, self.lengths, patches = (_opened(folder / f"{n}.bin", INDEX[n], count) for n in INDEX)
        with wrap_errors(f"{folder / NAMES}: cannot be read", OSError, ValueError):
            lines = (folder / NAMES).read_text(encoding="utf-8").splitlines()
            self.names: list[str] = [json.loads(line) for line in lines]
        is_whole = len(self.names) == count and min((*self.lengths, *patches), default=0) >= 0
        require(is_whole, f"{folder}: is damaged: its files do not belong together; remove the folder")
        self._starts = np.concatenate(([0], np.cumsum(self.lengths)))
        self._patch_starts = np.concatenate(([0], np.cumsum(patches)))
        sizes = {"tokens": self._starts[-1], "trained": self._starts[-1]}
        sizes["codes"] = self._patch_starts[-1] * layout.num_channels * layout.group_size
        self._arrays = {name: _opened(folder / f"{name}.bin", ARRAYS[name], int(sizes[name])) for name in ARRAYS}

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.names)

    def __getitem__(self, number: int) -> Item:
        """Read an item."""
        span = slice(self._starts[number], self._starts[number + 1])
        tokens = self._arrays["tokens"][span].astype(np.int64)
        each = self.layout.num_channels * self.layout.group_size
        codes = self._arrays["codes"][self._patch_starts[number] * each : self._patch_starts[number + 1] * each]
        patches = np.empty((len(tokens), self.layout.num_channels, self.layout.group_size), np.int64)
        patches[:] = np.array(self.layout.empty_codes)[:, None]
        patches[tokens == self.layout.empty_id] = codes.reshape(-1, *patches.shape[1:])
        return Item(self.layout.join(tokens, patches), self._arrays["trained"][span].copy(), self.names[number])


def write_items(folder: Path, items: Iterable[tuple[int, Item]], layout: Layout) -> None:
    """Write (number of the source, item) into a folder; their count comes last, so a folder with one is whole."""
    count = 0
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        names = stack.enter_context(open(stack.enter_context(atomic_path(folder / NAMES)), "w", encoding="utf-8"))
        for name in (*ARRAYS, *INDEX):
            path = stack.enter_context(atomic_path(folder / f"{name}.bin"))
            files[name] = stack.enter_context(open(path, "wb"))
        for source, item in items:
            tokens = layout.token_ids(item.grid)
            is_audio = tokens == layout.empty_id
            arrays = {"tokens": tokens, "trained": item.trained, "codes": layout.patches(item.grid)[is_audio]}
            facts = {"sources": source, "lengths": len(tokens), "patches": is_audio.sum()}
            for name, dtype in {**ARRAYS, **INDEX}.items():
                files[name].write(np.ascontiguousarray({**arrays, **facts}[name], dtype).tobytes())
            names.write(json.dumps(item.name) + "\n")
            count += 1
    write_json(folder / COUNT, {"items": count})


def _opened(path: Path, dtype: Any, size: int) -> NDArray[Any]:
    with wrap_errors(f"{path}: cannot be read", OSError, ValueError):
        array: NDArray[Any] = np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)
    require(len(array) == size, f"{path}: has {len(array)} values instead of {size}; remove the folder")
    return array


def draw_weights(store: ItemStore, weights: Sequence[float]) -> NDArray[np.float64]:
    """Weigh items so that every source is drawn in proportion to its weight, and its items alike.

    weights: of the sources. Sources without items count nothing.
    """
    counts = np.bincount(store.sources, minlength=len(weights))
    share = np.divide(np.array(weights, np.float64), counts, out=np.zeros(len(weights)), where=counts > 0)
    require(share.sum() > 0, "weights: the weight of every item is 0")
    found: NDArray[np.float64] = share[store.sources]
    return found
