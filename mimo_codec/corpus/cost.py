"""What a pipeline would cost for many hours, by a sample of the input that is really done."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mimo_codec.common.checks import require
from mimo_codec.corpus.config import Pipeline
from mimo_codec.corpus.describe import Describer
from mimo_codec.corpus.recordings import Recording, find_recordings
from mimo_codec.corpus.schema import BASE, schema, write_rows
from mimo_codec.corpus.select import select
from mimo_codec.corpus.steps import check_steps
from mimo_codec.corpus.timing import Timing
from mimo_codec.corpus.tokenize import Tokenizer

HOURS = (1e3, 1e5, 1e8)
"""For which the cost is told beside what is asked for; the last is what MiMo-Audio was trained on."""
SELECTED_BYTES = 5500
"""Of a segment, measured, while near duplicates are found on the machine that starts the run."""


@dataclass(frozen=True)
class Cost:
    """What a sample took."""

    recorded_hours: float
    kept_hours: float
    num_segments: int
    seconds: Timing
    """Of computing on one core, by step."""
    shard_bytes: int

    def per_hour(self) -> dict[str, float]:
        """Return seconds of one core for each hour of recordings, by step."""
        return {step: seconds / self.recorded_hours for step, seconds in self.seconds.slowest_first()}


def draw_sample(recordings: Sequence[Recording], minutes: float) -> list[Recording]:
    """Draw recordings of so many minutes together, at least one; long ones are cut to fit."""
    drawn, total = [], 0.0
    for recording in random.Random(0).sample(list(recordings), len(recordings)):
        left = 60 * minutes - total
        if left <= 0:
            break
        if recording.seconds > left:
            u = recording.utterance
            recording = replace(
                recording, utterance=replace(u, end=u.start + max(left, 1.0), seconds=None), seconds=left
            )
        drawn.append(recording)
        total += recording.seconds
    return drawn


def measure(pipeline: Pipeline, source: str, minutes: float, device: str | None = None) -> Cost:
    """Do a sample of the input in this process; MimoError when there is no speech in it."""
    recordings, _ = find_recordings(source, pipeline)
    sample = draw_sample(recordings, minutes)
    described = Describer(pipeline)(sample)
    require(described.rows, f"{source}: no segment of speech was found in {minutes:g} minutes of it")
    columns = check_steps(pipeline.describe, BASE)
    kept = select(described.rows, pipeline.select, (*BASE, *columns)).kept
    rows = [described.rows[number] for number in kept]
    seconds = described.timing
    if pipeline.tokenize is not None and rows:
        made = Tokenizer(pipeline.tokenize, device)(rows)
        rows = made.rows
        seconds.add(made.timing)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sample.parquet"
        write_rows(path, rows, schema(columns, pipeline.tokenize is not None))
        size = path.stat().st_size
    kept_hours = sum(row["seconds"] for row in rows) / 3600
    return Cost(described.recorded_seconds / 3600, kept_hours, len(described.rows), seconds, size)


def describe_cost(cost: Cost, hours: Sequence[float]) -> str:
    """Say what a sample took, and what so many hours would."""
    per_hour = cost.per_hour()
    sample, stays = 60 * cost.recorded_hours, 60 * cost.kept_hours
    lines = [f"a sample of {sample:.1f} min: {stays:.1f} min stay, {cost.num_segments} segments"]
    lines += ["seconds of one core for an hour of recordings:"]
    lines += [f"  {step:<14}{value:10.2f}" for step, value in per_hour.items()]
    lines += [f"  {'in all':<14}{sum(per_hour.values()):10.2f}"]
    lines += [f"{'hours':>14} {'core hours':>14} {'hours of tokens':>16} {'GB of shards':>14} {'GB to select':>13}"]
    for asked in sorted({*hours, *HOURS}):
        factor = asked / cost.recorded_hours
        cells = (
            f"{asked:>14,.0f}",
            f"{asked * sum(per_hour.values()) / 3600:>14,.1f}",
            f"{factor * cost.kept_hours:>16,.0f}",
            f"{factor * cost.shard_bytes / 1e9:>14,.2f}",
            f"{factor * cost.num_segments * SELECTED_BYTES / 1e9:>13,.2f}",
        )
        lines.append(" ".join(cells))
    lines.append("Duplicates are found on the machine that starts the run, which needs the memory of the last column.")
    return "\n".join(lines)
