"""The Lightning data module of language models: files of rows in, packs of tokens and codes out.

Before training every row is turned into tokens and codes once. Item i of a run is a pure function of (seed, i), so the
order does not depend on workers or processes, and a resumed run goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import reprlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from mimo_codec.common.checks import check_choice, check_integer, check_number, check_type, require
from mimo_codec.common.errors import MimoError, MimoWarning
from mimo_codec.common.files import atomic_path, make_folder
from mimo_codec.data.batch import RunSampler, expect_resuming, leave_interrupts_to_training
from mimo_codec.data.skipped import SKIPPED
from mimo_codec.lm.instructions import Instructions, find_instructions
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.tasks import TASKS
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.train.lm.codes_cache import CachedReader
from mimo_codec.train.lm.files import Entry, find_row_files, read_rows
from mimo_codec.train.lm.item import Item, make_item
from mimo_codec.train.lm.pack import Pack, deal, make_pack
from mimo_codec.train.lm.rows import PLAIN, ignored_keys, names_its_use, row_parts
from mimo_codec.train.lm.store import ItemStore, draw_weights, write_items

Roots = str | dict[str, float]
SHOWN_FAULTS, MAX_REASON = 20, 300
AHEAD_ROWS = 64
"""Rows whose audio is encoded together."""
MESSAGE_SECONDS = 60.0
"""Time between two messages while rows are prepared."""


class Preparation:
    """How rows become items: what a language model reads them with."""

    def __init__(
        self,
        reader: CachedReader,
        tokenizer: TextTokenizer,
        layout: Layout,
        max_positions: int,
        instructions: Instructions,
        tasks: Sequence[str | None] = (None,),
    ):
        """Put together what `items` needs; tasks: those that a row which names none is used for."""
        self.reader, self.tokenizer, self.layout = reader, tokenizer, layout
        self.max_positions, self.instructions, self.tasks = max_positions, instructions, tasks

    def items(self, entry: Entry) -> Iterator[Item | tuple[str, str]]:
        """Yield the items of a row, and (name, reason) for what cannot be learnt."""
        if entry.fault is not None:
            yield entry.name, _short(entry.fault)
            return
        for task in (None,) if names_its_use(entry.row) else self.tasks:
            try:
                parts = row_parts(entry.row, self.reader, self.instructions, task)
                yield make_item(parts, self.tokenizer, self.layout, self.max_positions, entry.name)
            except MimoError as error:
                yield entry.name, _short(error)


class DrawnItems(Dataset[Item]):
    """Items drawn at random, with replacement: item `number` is a pure function of (seed, number)."""

    def __init__(self, store: ItemStore, weights: Sequence[float], seed: int):
        """weights: of the sources; see `draw_weights`."""
        self.store, self.seed = store, seed
        self.cumulative = np.cumsum(draw_weights(store, weights))

    def __getitem__(self, number: int) -> Item:
        """Draw item `number`."""
        place = np.random.default_rng((self.seed, number)).random() * self.cumulative[-1]
        return self.store[int(np.searchsorted(self.cumulative, place, side="right"))]


class LanguageData(lightning.LightningDataModule):
    """Conversations and rows of tasks, packed.

    Their tokens and codes are written to `trainer.default_root_dir`/data before training, and the rows that cannot be
    used to skipped.jsonl there, by file and line with the reason. Formats of rows: docs/training-language-models.md.

    Args:
        root: file of rows (.json, .jsonl) or folder of them, or several with their weights, e.g. {"speech": 3, "text":
            1}: each is drawn from in proportion to its weight, whatever its size.
        validation_root: the same, held out; null: no validation.
        batch_size: items per step and device.
        max_positions: positions that one forward pass reads; longer items are not used, shorter ones are packed
            together; null: the context of the model.
        tasks: what rows of audio and text that name no task are used for, e.g. [asr, tts].
        instructions: language of the instructions in prompts, "en" or "zh".
        seed: of the order of items.
        distinct_batches: train on the first so many batches again and again, to see whether a model can learn them by
            heart; 0: all are different. trainer.overfit_batches sets it.
        num_workers: processes that prepare packs; 0: the training process prepares them.
        cache_dir: folder that keeps the codes of audio files for later runs; null: one in the user's cache.
        num_validation_items: held-out items to use, drawn once; 0: all.
    """

    def __init__(
        self,
        root: Roots,
        validation_root: Roots | None = None,
        batch_size: int = 16,
        max_positions: int | None = None,
        tasks: list[str] | None = None,
        instructions: str = "en",
        seed: int = 0,
        distinct_batches: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
        num_validation_items: int = 0,
    ):
        """See the class for the arguments; MimoError for values that are not supported."""
        super().__init__()
        self.save_hyperparameters()
        self.roots = {"train": _weighted("root", root)}
        if validation_root is not None:
            self.roots["validation"] = _weighted("validation_root", validation_root)
            alike = len(set(self.roots["validation"].values())) == 1
            require(alike, "validation_root: every row is used once, so weights have no meaning")
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.max_positions = None if max_positions is None else check_integer("max_positions", max_positions, 2)
        chosen = [check_choice("tasks", task, [*PLAIN, *TASKS]) for task in tasks or ()]
        self.tasks: list[str | None] = [*chosen] or [None]
        self.instructions = find_instructions(instructions)
        self.distinct_batches = check_integer("distinct_batches", distinct_batches, 0)
        self.seed = check_integer("seed", seed, 0, 2**63)
        self.num_workers = check_integer("num_workers", num_workers, 0)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.num_validation_items = check_integer("num_validation_items", num_validation_items, 0)
        self.stores: dict[str, ItemStore] = {}

    # ---- rows -> items -------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Turn all rows into items, in one process of each machine; MimoError when none of a root can be used."""
        faults: list[tuple[str, str]] = []
        try:
            for part, roots in self.roots.items():
                make_folder(folder := self._folder() / part)
                items = self._items(list(roots), faults)
                write_items(folder, items, self._stage.layout)
        finally:  # also where no row of a root can be used: the list says why
            _write_faults(self._folder() / SKIPPED, faults)

    def _items(self, roots: Sequence[str], faults: list[tuple[str, str]]) -> Iterator[tuple[int, Item]]:
        """Yield the number of the root and the item, for every item; add what cannot be used to `faults`."""
        stage = self._stage
        preparation = Preparation(
            stage.make_reader(self.cache_dir),
            stage.tokenizer,
            stage.layout,
            self._pack_positions(),
            self.instructions,
            self.tasks,
        )
        for source, root in enumerate(roots):
            count, start = 0, time.monotonic()
            message, first_fault = start, len(faults)
            ignored: Counter[str] = Counter()
            for path in find_row_files(root):
                for made in self._items_of(path, preparation, ignored):
                    if isinstance(made, Item):
                        count += 1
                        yield source, made
                    else:
                        faults.append(made)
                    if time.monotonic() - message > MESSAGE_SECONDS:
                        message = time.monotonic()
                        rank_zero_info(f"{root}: {count} items are prepared")
            skipped = faults[first_fault:]
            why = f"; {self._folder() / SKIPPED} lists why. The first, {': '.join(skipped[0])}" if skipped else ""
            require(count, f"{root}: {'no row can be used' if skipped else 'there are no rows'}{why}")
            rank_zero_info(
                f"{root}: {count} items, {len(skipped)} skipped, prepared in {time.monotonic() - start:.1f} s"
            )
            if ignored:
                keys = ", ".join(f"{reprlib.repr(key)} ({times})" for key, times in ignored.most_common(SHOWN_FAULTS))
                rank_zero_info(f"{root}: keys that mean nothing here, and how often they occur: {keys}")
            for name, reason in skipped[:SHOWN_FAULTS]:
                rank_zero_warn(f"skipped {name}: {reason}", category=MimoWarning)

    def _items_of(
        self, path: Path, preparation: Preparation, ignored: Counter[str]
    ) -> Iterator[Item | tuple[str, str]]:
        """Yield the items of a file, and what cannot be used, be it a row or the rest of the file."""
        preparation.reader.base = path.parent
        try:
            for entries in _grouped(read_rows(path), AHEAD_ROWS):
                preparation.reader.encode_ahead(entry.row for entry in entries)
                for entry in entries:
                    ignored.update(ignored_keys(entry.row, self.tasks))
                    yield from preparation.items(entry)
        except MimoError as error:
            yield str(path), _short(error)

    def setup(self, stage: str | None = None) -> None:
        """Open the items that `prepare_data` wrote."""
        self.stores = {part: ItemStore(self._folder() / part, self._stage.layout) for part in self.roots}

    @property
    def _stage(self) -> Any:
        """The stage that is trained: it knows tokenizer, layout and codec."""
        assert self.trainer is not None, "how rows become tokens depends on the model that is trained"
        return self.trainer.lightning_module

    def _folder(self) -> Path:
        assert self.trainer is not None
        return Path(self.trainer.default_root_dir) / "data"

    # ---- batches -------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Item]:
        """Make the loader of steps: lists of packs."""
        trainer, stage = self.trainer, self._stage
        assert trainer is not None
        expect_resuming()
        require(
            trainer.max_steps > 0, "trainer.max_steps must be set: training has no epochs that it could count instead"
        )
        sampler = RunSampler(
            lambda: stage.batches_seen,
            trainer.max_steps,
            self.batch_size,
            trainer.global_rank,
            trainer.world_size,
            self.distinct_batches,
        )
        dataset = DrawnItems(self.stores["train"], list(self.roots["train"].values()), self.seed)
        return DataLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self._collate(),
            generator=torch.Generator().manual_seed(self.seed),
            worker_init_fn=leave_interrupts_to_training,
        )

    def val_dataloader(self) -> DataLoader[Item] | list[object]:
        """Make the loader of validation items, one by one."""
        store = self.stores.get("validation")
        if store is None:
            return []
        count = min(self.num_validation_items or len(store), len(store))
        chosen = sorted(np.random.default_rng(0).permutation(len(store))[:count].tolist())
        subset: Dataset[Item] = torch.utils.data.Subset(store, chosen)  # type: ignore[arg-type]
        return DataLoader(subset, 1, collate_fn=self._collate())

    def _collate(self) -> Callable[[list[Item]], list[Pack]]:
        return partial(make_packs, layout=self._stage.layout, max_positions=self._pack_positions())

    def _pack_positions(self) -> int:
        """Return the most positions of a pack, no more than the context of the model."""
        context: int = self._stage.language_model.config.max_position_embeddings
        return min(self.max_positions or context, context)


def make_packs(items: Sequence[Item], layout: Layout, max_positions: int) -> list[Pack]:
    """Pack the items of a step."""
    return [make_pack(dealt, layout) for dealt in deal(items, max_positions)]


def _grouped(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Yield entries in lists of at most `size`; those before an error come before it."""
    group: list[Entry] = []
    try:
        for entry in entries:
            group.append(entry)
            if len(group) == size:
                yield group
                group = []
    except MimoError:
        yield group
        raise
    yield group


def _weighted(name: str, roots: object) -> dict[str, float]:
    """Return roots with their weights; MimoError for others than a path, or paths with numbers."""
    given = {roots: 1.0} if isinstance(roots, (str, os.PathLike)) else roots
    mapping: Mapping[Any, Any] = check_type(name, given, dict, "a path, or paths with their weights")
    require(mapping, f"{name}: there are no paths")
    return {str(path): check_number(f"{name}: weight of {path}", w, 0, 1e9) for path, w in mapping.items()}


def _short(error: MimoError | str) -> str:
    """Return the reason in one line of at most MAX_REASON characters that can be printed."""
    text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def _write_faults(path: Path, faults: Sequence[tuple[str, str]]) -> None:
    with atomic_path(path) as temporary:
        lines = [json.dumps({"row": name, "reason": reason}, ensure_ascii=False) + "\n" for name, reason in faults]
        temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
