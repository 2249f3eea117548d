"""Which utterances a run has skipped and why: kept while training goes on, written as lists, logged at the end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mimo_codec.data.manifest import read_faults, write_faults
from mimo_codec.data.utterance import Fault

log = logging.getLogger(__name__)

SHOWN_FAULTS = 20
"""Of each kind in the log; the others are in skipped.jsonl only."""
SKIPPED = "skipped.jsonl"


class SkippedUtterances:
    """The faults of a run, each once by its name.

    Those found later than by the scan are written at once to skipped-RANK.jsonl, one list of each process, so that
    nothing is lost when training breaks off; `finish` gathers them in skipped.jsonl.
    """

    def __init__(self, faults: Iterable[Fault] = ()):
        """faults: what the scan has found."""
        self.faults = {fault.name: fault for fault in faults}
        self.late_faults: list[Fault] = []

    def add(self, faults: Iterable[Fault], folder: Path | None, rank: int) -> None:
        """Keep faults that are new, log each, and write the list of this process into `folder`, if there is one."""
        new = {fault.name: fault for fault in faults if fault.name not in self.faults}
        for fault in new.values():
            log.warning("skipped %s", fault)
        self.faults |= new
        self.late_faults += new.values()
        if folder is not None and new:
            write_faults(folder / f"skipped-{rank}.jsonl", self.late_faults)

    def finish(self, folder: Path) -> None:
        """Gather the lists of all processes in skipped.jsonl and log the faults by kind."""
        faults = dict(self.faults)
        for other in sorted(folder.glob("skipped-*.jsonl")):
            faults |= {fault.name: fault for fault in read_faults(other)}
        if not faults:
            return
        write_faults(folder / SKIPPED, faults.values())
        lines = [f"{len(faults)} utterances were skipped, see {folder / SKIPPED}"]
        for kind, count in Counter(fault.kind for fault in faults.values()).most_common():
            shown = [fault for fault in faults.values() if fault.kind == kind][:SHOWN_FAULTS]
            lines += [f"{kind}: {count}", *(f"  {fault.name}: {fault.reason}" for fault in shown)]
            lines += [f"  and {count - len(shown)} more"] if count > len(shown) else []
        log.warning("\n".join(lines))
