"""OnnxAudioLM: what MimoAudioLM does, by ONNX Runtime and numpy, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimo_codec.codec.base import Codec
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.base import AudioLM
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.prompts import PROMPTS, Wording, find_wording
from mimo_codec.lm.request import WINDOW, Position, Progress, Request, forbidden_tokens
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.loading import is_export, load_codec
from mimo_codec.onnx.codec.runtime import OnnxCodec
from mimo_codec.onnx.lm.sampling import penalised, sample
from mimo_codec.onnx.session import Provider, Session

Array = np.ndarray
PREFILL = 512
"""Positions of a prompt that are computed at a time: the memory of attention is that many times the context."""


class OnnxAudioLM(AudioLM):
    """An exported language model: the methods and results of MimoAudioLM, with numpy arrays instead of tensors.

    Greedy answers are the same. Drawn ones come of the same algorithm, but of numpy's random numbers: the same seed
    gives the same tokens here, and others than with torch.
    """

    attach_codec = "OnnxAudioLM(..., codec=...)"

    def __init__(
        self,
        folder: str | Path,
        *,
        codec: Codec[Any] | str | Path | None = None,
        providers: Sequence[Provider] | None = None,
        num_threads: int | None = None,
        cuda_graphs: bool = False,
        wording: Wording | str | None = None,
    ):
        """folder: what `mimo-codec export lm` wrote. codec: one to hear and speak with, or its name (see
        `load_codec`); without it audio goes in and comes out as codes. providers, num_threads: as in OnnxCodec.
        cuda_graphs: replay the steps of patches as CUDA graphs, as OnnxCodec does chunks, and those of an exported
        codec that is loaded here. wording: of the instructions, or a language ("en", "zh"); None for that of the model.

        Raises MimoError for a folder in which something is missing, for graphs of different exports, and for
        cuda_graphs without CUDA.
        """
        self.folder = Path(folder)
        self.backbone = Session(self.folder / "backbone.onnx", providers, num_threads, cuda_graphs)
        self.patch_step = Session(self.folder / "patch_step.onnx", providers, num_threads, cuda_graphs)
        self.metadata = self.backbone.metadata
        for session, name in ((self.backbone, "backbone"), (self.patch_step, "patch_step")):
            if session.metadata.get("graph") != name:
                raise MimoError(f"{session.path}: is no {name} of a language model")
        if self.patch_step.metadata["export_id"] != self.metadata["export_id"]:
            raise MimoError(
                f"{self.patch_step.path} and {self.backbone.path.name} come from different exports; export them"
                " together"
            )
        if isinstance(wording, str):
            wording = find_wording(wording)
        elif wording is None and (self.folder / PROMPTS).is_file():
            wording = Wording.load(self.folder / PROMPTS)
        if isinstance(codec, (str, Path)):
            if is_export(codec):
                codec = OnnxCodec(codec, providers, num_threads=num_threads, cuda_graphs=cuda_graphs)
            else:
                codec = load_codec(codec)
        tokenizer = TextTokenizer.load(self.folder)
        super().__init__(LMConfig.from_dict(self.metadata["config"]), tokenizer, codec, wording)

    def _positions(self, requests: Sequence[Request]) -> Iterator[list[Position | None]]:
        run = _Run(self.backbone, self.patch_step, self.config, self.layout, requests)
        run.prefill()
        while True:
            yield run.positions()
            if run.progress.ended:
                return
            run.advance()

    def own(self, array: Array) -> Array:
        """An array as it is."""
        return array

    def _new_seeds(self, count: int) -> list[int]:
        return [int(seed) for seed in np.random.default_rng().integers(2**31, size=count)]


class _Run:
    """A batch on its way."""

    def __init__(
        self, backbone: Session, patch_step: Session, config: LMConfig, layout: Layout, requests: Sequence[Request]
    ):
        self.backbone, self.patch_step, self.config = backbone, patch_step, config
        self.progress = Progress(requests, layout)
        self.texts, self.audios = [r.text for r in requests], [r.audio for r in requests]
        self.forbidden = forbidden_tokens(self.texts, config.vocab_size)
        self.generators = [np.random.default_rng(request.seed) for request in requests]
        self.recent = np.full((len(requests), config.audio_channels, WINDOW), -1)
        self.state: dict[str, Any] = backbone.initial_state(len(requests))

    def prefill(self) -> None:
        """All prompts through the backbone, and the first token of every item."""
        tokens, patches = self.progress.prompts()
        for start in range(0, self.progress.longest, PREFILL):
            part = slice(start, start + PREFILL)
            logits, seeds = self._step(tokens[:, part], patches[:, part])
        self._choose(logits, seeds)

    def advance(self) -> None:
        """The new positions into the backbone, and the next token out."""
        self._choose(*self._step(self.tokens[:, None], self.patches[:, None]))

    def _step(self, tokens: Array, patches: Array) -> tuple[Array, Array]:
        """tokens [B, n], patches [B, n, C, G] -> logits [B, V], seeds [B, D]."""
        inputs = {"tokens": tokens, "patches": patches, "pads": self.progress.pads}
        self.state = self.backbone.run({**inputs, **self.state})
        return self.state.pop("logits"), self.state.pop("seeds")

    def _choose(self, logits: Array, seeds: Array) -> None:
        """The next token of every item, and the random numbers of its position, the same whatever they are used for."""
        c = self.config
        count = 1 + c.audio_channels * c.group_size
        numbers = np.stack([generator.random(count, np.float32) for generator in self.generators])
        if self.forbidden is not None:
            logits = np.where(self.forbidden, -np.inf, logits)
        self.tokens, self.seeds = sample(logits, self.texts, numbers[:, 0]), seeds
        self.uniform = numbers[:, 1:].reshape(-1, c.audio_channels, c.group_size)

    def positions(self) -> list[Position | None]:
        """Tokens that were drawn -> patches where they are audio, and what has come to its end."""
        tokens = self.tokens.tolist()
        self.patches = self.progress.empty_patches(len(tokens))
        if rows := self.progress.speaking(tokens):
            self.patches[rows] = new = self._decode(rows)
            self.recent[rows] = np.concatenate((self.recent[rows], new), axis=2)[:, :, self.config.group_size :]
        return self.progress.add(tokens, self.patches)

    def _decode(self, rows: list[int]) -> Array:
        """Patches [N, C, G] of some items, channel r at steps delay r <= t < delay r + G."""
        c, group = self.config, self.config.group_size
        patches = np.zeros((len(rows), c.audio_channels, group), np.int64)
        empty = np.tile(np.array(c.speech_zeroemb_idx), (len(rows), 1))
        samplings = [self.audios[i] for i in rows]
        starts = np.cumsum([0, *c.speech_vocab_size])
        state: dict[str, Any] = self.patch_step.initial_state(len(rows))
        seeds, codes = self.seeds[rows], empty
        for t in range(group + max(c.delay_pattern)):
            state = self.patch_step.run({"seeds": seeds, "codes": codes, **state})
            logits, seeds, codes = state.pop("logits"), np.zeros_like(seeds), empty.copy()
            for r, delay in enumerate(c.delay_pattern):
                if not delay <= t < delay + group:
                    continue
                own = logits[:, starts[r] : starts[r + 1] - 1]  # the last is the empty code
                own = penalised(own, self.recent[rows, r], samplings)
                codes[:, r] = patches[:, r, t - delay] = sample(own, samplings, self.uniform[rows, r, t - delay])
        return patches
