"""A language model of this package as the model that a suite asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mimo_codec.common.arrays import to_numpy
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.lm.prompts import Piece, as_segments, count_positions
from mimo_codec.evaluation.lm.suite import Answer, Ask, Options
from mimo_codec.lm.base import AudioLM
from mimo_codec.lm.checkpoint import find_description, find_language_model
from mimo_codec.lm.config import SAMPLE_RATE, LMConfig
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.layout import Codes, Grid, Layout
from mimo_codec.lm.pipeline import MimoAudioLM
from mimo_codec.lm.prompts import render
from mimo_codec.lm.request import Stop
from mimo_codec.lm.tokenizer import TextTokenizer

REMEMBERED = 2048
"""Sounds whose codes are kept: examples are shown again and again."""


@dataclass(frozen=True)
class ModelChoice:
    """Which model is asked. It holds names only, so that it can be sent to other processes.

    Args:
        name: folder or hub id of the language model.
        codec: name of its codec; None: the one that its configuration names.
        device, dtype, revision, quantize: see `MimoAudioLM.from_pretrained`.
    """

    name: str
    codec: str | None = None
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    quantize: str | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder of its files, downloaded if need be."""
        return find_language_model(self.name, self.revision)

    @cached_property
    def description(self) -> Path:
        """The folder of its configuration and tokenizer."""
        return find_description(self.name, self.revision)

    @cached_property
    def config(self) -> LMConfig:
        """Its configuration."""
        return LMConfig.load(self.description / "config.json")

    def stamp(self) -> list[Any]:
        """Return what tells it apart from another model: names, sizes and times of its files, codec and precision."""
        files = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".json", ".safetensors")]
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return [facts, self.codec, self.dtype, self.quantize]

    def instructions(self) -> Instructions:
        """Return the instructions of its prompts."""
        return Instructions.choose(None, self.description)

    def measure(self) -> Measure:
        """Return what tells how long prompts are; nothing large is loaded."""
        tokenizer, config = TextTokenizer.load(self.description), self.config
        layout = Layout(
            config.group_size,
            config.speech_zeroemb_idx,
            config.delay_pattern,
            tokenizer.special.empty,
            config.vocab_size,
        )
        return Measure(tokenizer, layout, config.max_position_embeddings)

    def load(self) -> LanguageModel:
        """Load it with its codec."""
        recorded = self.config.codec
        codec = self.codec or (recorded and recorded.partition("@")[0])
        lm = MimoAudioLM.from_pretrained(
            self.folder, codec=codec, device=self.device, dtype=self.dtype, quantize=self.quantize
        )
        return LanguageModel(lm)


@dataclass(frozen=True)
class Measure:
    """Tells how many positions prompts have, and how many there may be.

    Without a tokenizer and a layout lengths are estimated, and without a context everything fits.
    """

    tokenizer: TextTokenizer | None = None
    layout: Layout | None = None
    context: int | None = None

    def positions(self, prompt: Sequence[Piece]) -> int:
        """Return how many positions a prompt has, by the headers of its sounds."""
        return count_positions(prompt, self.tokenizer, self.layout)


@dataclass
class LanguageModel:
    """Asks an AudioLM; sounds that were heard before are not encoded again."""

    lm: AudioLM[Any]
    heard: dict[Path, Codes] = field(default_factory=dict)

    def answer(self, asks: Sequence[Ask]) -> list[Answer | MimoError]:
        """Answer each as if it were alone; those that share options are computed together."""
        answers: dict[int, Answer | MimoError] = {}
        batches: dict[Options, list[tuple[int, Ask, Any]]] = {}
        for number, ask in enumerate(asks):
            try:
                grid = self._as_grid(ask.prompt)
                batches.setdefault(replace(ask.options, truth=()), []).append((number, ask, grid))
            except MimoError as error:
                answers[number] = error
        for batch in batches.values():
            answers |= self._generate(batch)
        return [answers[number] for number in range(len(asks))]

    def _generate(self, batch: Sequence[tuple[int, Ask, Any]]) -> Mapping[int, Answer | MimoError]:
        options = batch[0][1].options
        stop = Stop(options.stop, max_seconds=options.max_seconds, min_new=options.min_new)
        try:
            found = self.lm.generate(
                [grid for *_, grid in batch],
                max_new_patches=options.max_new,
                text_sampling=options.text,
                audio_sampling=options.audio,
                stop=stop,
                seed=[ask.seed for _, ask, _ in batch],
            )
        except MimoError as error:
            if len(batch) == 1:
                return {batch[0][0]: error}
            return {number: answer for one in batch for number, answer in self._generate([one]).items()}
        return {
            number: replace(_as_answer(each), perplexity=self._perplexity(ask, grid))
            for (number, ask, grid), each in zip(batch, found, strict=True)
        }

    def _perplexity(self, ask: Ask, grid: Grid) -> float:
        """Return the perplexity of the codes that truly follow a prompt; nan where it is not asked or not known."""
        lm = self.lm
        if not ask.options.truth or not isinstance(lm, MimoAudioLM):
            return math.nan
        layout = lm.layout
        whole, first = self._as_grid(ask.options.truth), layout.num_positions(grid)
        if not first < layout.num_positions(whole) <= lm.config.max_position_embeddings:
            return math.nan
        found = lm.forward(whole)
        rows = found.audio_positions[:, 1] >= first
        patches = torch.from_numpy(layout.patches(whole))[found.audio_positions[rows, 1].cpu()]
        losses = [
            F.cross_entropy(logits[rows].float().flatten(0, 1), patches[:, channel].flatten().to(logits.device))
            for channel, logits in enumerate(found.audio_logits)
        ]
        return math.exp(float(torch.stack(losses).mean()))

    def _as_grid(self, pieces: Sequence[Piece]) -> Grid:
        segments = as_segments(pieces, self._hear)
        return self.lm.layout.build(render(segments, self.lm.tokenizer, self.lm.layout))

    def _hear(self, path: Path) -> Codes:
        if path not in self.heard:
            if len(self.heard) >= REMEMBERED:
                del self.heard[next(iter(self.heard))]
            self.heard[path] = self.lm.reader.codes(path, "audio")
        return self.heard[path]


def _as_answer(found: Any) -> Answer:
    waveform = None if found.waveform is None else np.asarray(to_numpy(found.waveform), np.float32)
    return Answer(found.text, waveform, SAMPLE_RATE, found.stop_reason)
