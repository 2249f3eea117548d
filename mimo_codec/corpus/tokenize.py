"""The second half of the work: segments that stay -> their codes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.corpus.config import TokenizeOptions
from mimo_codec.corpus.describe import cut
from mimo_codec.corpus.recordings import check_not_gone
from mimo_codec.corpus.timing import Timing
from mimo_codec.corpus.voice import Span
from mimo_codec.data.embedded import audio_file
from mimo_codec.data.utterance import Utterance
from mimo_codec.loading import load_codec

TOLERANCE = 0.05
"""Seconds by which a segment may be shorter than it was when it was described: times are rounded."""
SHARD_PLACE = ("member", "offset", "num_bytes", "row", "column")


@dataclass
class Tokenized:
    """What becomes of a task."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)


class Tokenizer:
    """Reads segments again and encodes them; holds the codec."""

    def __init__(self, options: TokenizeOptions, device: str | None = None):
        """Load the codec; MimoError when there is none of this name, or it has fewer codebooks."""
        self.options = options
        self.codec = load_codec(options.codec, device=device)
        self.count = self.codec.check_num_quantizers(options.num_quantizers)

    @property
    def model_id(self) -> str:
        """Name and fingerprint of the codec."""
        return str(self.codec.model_id)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Tokenized:
        """Encode the segments of rows, which are in the order of their recordings."""
        made = Tokenized()
        waiting: list[tuple[Mapping[str, Any], NDArray[np.float32]]] = []
        for _, of_one in groupby(rows, key=lambda row: row["recording"]):
            segments = list(of_one)
            try:
                for row, samples in self._read(segments, made):
                    waiting.append((row, samples))
                    if sum(row["seconds"] for row, _ in waiting) >= self.options.batch_seconds:
                        self._encode(waiting, made)
                        waiting = []
            except (MimoError, OSError) as error:
                check_not_gone(Path(segments[0]["path"]))
                reason = f"cannot be read any more: {error}"
                made.quarantine.append({"path": segments[0]["path"], "reason": " ".join(reason.split())})
        self._encode(waiting, made)
        return made

    def _read(
        self, rows: Sequence[Mapping[str, Any]], made: Tokenized
    ) -> Iterator[tuple[Mapping[str, Any], NDArray[np.float32]]]:
        """Yield the rows of a recording with their samples at the rate of the codec, equally loud."""
        first = rows[0]
        place = {name: first[name] for name in SHARD_PLACE}
        with audio_file(Utterance(Path(first["path"]), **place)) as path:
            spans = [Span(row["start"] - first["start"], row["end"] - first["start"]) for row in rows]
            pieces = cut(path, spans, self.codec.sample_rate, first["start"])
            for row in rows:
                with made.timing.of("read"):
                    _, samples = next(pieces)
                short = row["seconds"] - len(samples) / self.codec.sample_rate
                require(short < TOLERANCE, f"is {short:.3f} s shorter than before")
                gain = row.get("gain_db")
                yield row, samples if not gain else (samples * 10 ** (gain / 20)).astype(np.float32)

    def _encode(self, waiting: Sequence[tuple[Mapping[str, Any], NDArray[np.float32]]], made: Tokenized) -> None:
        if not waiting:
            return
        with made.timing.of("tokenize"):
            coded = self.codec.encode_batch(
                [samples for _, samples in waiting],
                self.codec.sample_rate,
                self.count,
                batch_seconds=self.options.batch_seconds,
            )
        for (row, _), codes in zip(waiting, coded, strict=True):
            content = codes.to_bytes()
            require(codes.model is not None, "codes: the codec has no name")
            hashed = hashlib.sha256(content).hexdigest()
            made.rows.append({**row, "codes": content, "codec": codes.model, "codes_sha256": hashed})
