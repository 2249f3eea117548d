"""OnnxAudioLM: what MimoAudioLM does, by ONNX Runtime and numpy, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import require
from mimo_codec.lm.audio import SpeechCodec
from mimo_codec.lm.base import AudioLM
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.generate import Backend, Batch, Kept, Numbers, Patches, Tokens
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.request import Request, forbidden_tokens
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.loading import is_export, load_codec
from mimo_codec.onnx.codec.runtime import OnnxCodec
from mimo_codec.onnx.lm.sampling import penalised, sample
from mimo_codec.onnx.session import Provider, Session

Array = NDArray[Any]
PREFILL = 512
"""Positions of a prompt that are computed at a time: the memory of attention is that many times the context."""


class OnnxAudioLM(AudioLM[Array]):
    """An exported language model: the methods and results of MimoAudioLM, with numpy arrays instead of tensors.

    Greedy answers are the same. Drawn ones come of the same algorithm, but of numpy's random numbers: the same seed
    gives the same tokens here, and others than with torch.
    """

    attach_codec = "OnnxAudioLM(..., codec=...)"

    def __init__(
        self,
        folder: str | Path,
        *,
        codec: SpeechCodec | str | Path | None = None,
        providers: Sequence[Provider] | None = None,
        num_threads: int | None = None,
        cuda_graphs: bool = False,
        instructions: Instructions | str | None = None,
    ):
        """Load the graphs in a folder.

        Args:
            folder: what `mimo-codec export lm` wrote.
            codec: the codec to listen and speak with, or its name (see `load_codec`); without it audio goes in and
                comes out as codes.
            providers: of ONNX Runtime, as in OnnxCodec.
            num_threads: on the CPU, as in OnnxCodec.
            cuda_graphs: replay the steps of patches as CUDA graphs, as OnnxCodec does chunks, and those of an exported
                codec that is loaded here.
            instructions: of the prompts, or a language ("en", "zh"); None for those of the model.

        Raises:
            MimoError: for a folder in which something is missing, for graphs of different exports, and for cuda_graphs
                without CUDA.
        """
        self.folder = Path(folder)
        self.backbone = Session(self.folder / "backbone.onnx", providers, num_threads, cuda_graphs)
        self.patch_step = Session(self.folder / "patch_step.onnx", providers, num_threads, cuda_graphs)
        self.metadata = self.backbone.metadata
        for session, name in ((self.backbone, "backbone"), (self.patch_step, "patch_step")):
            require(session.metadata.get("graph") == name, f"{session.path}: is no {name} of a language model")
        same = self.patch_step.metadata["export_id"] == self.metadata["export_id"]
        names = f"{self.patch_step.path} and {self.backbone.path.name}"
        require(same, f"{names} come from different exports; export them together")
        if isinstance(codec, (str, Path)):
            if is_export(codec):
                codec = OnnxCodec(codec, providers, num_threads=num_threads, cuda_graphs=cuda_graphs)
            else:
                codec = load_codec(codec)
        config, tokenizer = LMConfig.from_dict(self.metadata["config"]), TextTokenizer.load(self.folder)
        super().__init__(config, tokenizer, codec, Instructions.choose(instructions, self.folder))
        self.backend = OnnxBackend(self.backbone, self.patch_step, config)

    def from_numpy(self, array: Array) -> Array:
        """Return an array as it is."""
        return array


class OnnxBackend(Backend):
    """Computes the steps of generation by ONNX Runtime."""

    def __init__(self, backbone: Session, patch_step: Session, config: LMConfig):
        """Take the two graphs of a language model and its configuration."""
        self.backbone, self.patch_step, self.config = backbone, patch_step, config
        self.kept: Kept | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what was kept of the last prompt."""
        return {**vars(self), "kept": None}

    def batch(self, requests: Sequence[Request], num_positions: int) -> OnnxBatch:
        """Begin a batch; its memory grows with every position."""
        return OnnxBatch(self, requests)

    def random_numbers(self, seed: int) -> Callable[[int], Numbers]:
        """Return a function that gives so many random numbers more at every call, from numpy's generator."""
        generator = np.random.default_rng(seed)
        return lambda count: generator.random(count, np.float32)

    def new_seeds(self, count: int) -> list[int]:
        """Return seeds drawn from the system's randomness."""
        return [int(seed) for seed in np.random.default_rng().integers(2**31, size=count)]


class OnnxBatch(Batch):
    """One batch: its settings, keys and values of its past, and what was computed last."""

    def __init__(self, backend: OnnxBackend, requests: Sequence[Request]):
        """Begin without a past."""
        self.backbone, self.patch_step, self.config = backend.backbone, backend.patch_step, backend.config
        self.backend, self.keep = backend, requests[0].keep_cache
        self.read: list[tuple[Tokens, Patches]] = []
        """What has been read, tokens [n] and patches [n, C, G], if it is to be kept."""
        self.texts, self.audios = [r.text for r in requests], [r.audio for r in requests]
        self.forbidden = forbidden_tokens(self.texts, self.config.vocab_size)
        self.state: dict[str, Any] = self.backbone.initial_state(len(requests))

    def read_prompts(self, tokens: Tokens, patches: Patches, pads: Array, uniform: Numbers) -> Tokens:
        """Read all prompts in blocks of `PREFILL` positions and draw the first tokens; see `Batch`."""
        self.pads = pads
        self.read = [(tokens[0], patches[0])]
        kept, self.backend.kept = self.backend.kept, None
        first = 0 if kept is None or not self.keep else kept.common(tokens[0], patches[0])
        if kept is not None and first:
            self.state = {name: value.numpy()[:, :, :first] for name, value in kept.cache.items()}
        for start in range(first, tokens.shape[1], PREFILL):
            block = slice(start, start + PREFILL)
            logits = self._read(tokens[:, block], patches[:, block])
        return self._draw(logits, uniform)

    def read_position(self, tokens: Tokens, patches: Patches, uniform: Numbers) -> Tokens:
        """Read one position of every item and draw the next tokens; see `Batch`."""
        logits = self._read(tokens[:, None], patches[:, None])
        if self.keep:
            self.read.append((tokens, patches))
        return self._draw(logits, uniform)

    def _read(self, tokens: Array, patches: Array) -> Array:
        """Read tokens [B, n] and patches [B, n, C, G]; keep the seeds [B, D] and return the logits [B, V]."""
        outputs = self.backbone.run({"tokens": tokens, "patches": patches, "pads": self.pads, **self.state})
        logits: Array = outputs.pop("logits")
        self.seeds: Array = outputs.pop("seeds")
        self.state = outputs
        return logits

    def _draw(self, logits: Array, uniform: Numbers) -> Tokens:
        allowed = logits if self.forbidden is None else np.where(self.forbidden, -np.inf, logits)
        return sample(allowed, self.texts, uniform)

    def decode_patches(self, items: list[int], uniform: Numbers, recent: Patches) -> Patches:
        """Draw the patches of some items, channel r at steps delay r <= t < delay r + G; see `Batch`."""
        c, group = self.config, self.config.group_size
        patches = np.zeros((len(items), c.audio_channels, group), np.int64)
        empty = np.tile(np.array(c.speech_zeroemb_idx), (len(items), 1))
        samplings = [self.audios[i] for i in items]
        starts = np.cumsum([0, *c.speech_vocab_size])
        state: dict[str, Any] = self.patch_step.initial_state(len(items))
        seeds, codes = self.seeds[items], empty
        for t in range(group + max(c.delay_pattern)):
            state = self.patch_step.run({"seeds": seeds, "codes": codes, **state})
            logits, seeds, codes = state.pop("logits"), np.zeros_like(seeds), empty.copy()
            for r, delay in enumerate(c.delay_pattern):
                if not delay <= t < delay + group:
                    continue
                channel = logits[:, starts[r] : starts[r + 1] - 1]  # the last is the empty code
                channel = penalised(channel, recent[items, r], samplings)
                codes[:, r] = patches[:, r, t - delay] = sample(channel, samplings, uniform[items, r, t - delay])
        return patches

    def close(self) -> None:
        """Let go of the past, or keep it for the next batch."""
        if self.keep:
            self.backend.kept = Kept.join(self.read, self.state)
        self.state = {}
