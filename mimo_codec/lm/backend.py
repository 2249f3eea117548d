"""Generation: prompts of a batch -> new positions, each item as if it were alone.

Prompts are padded on the left; every item has its own sampling settings, generator and end. A position is a text token,
or `<|empty|>` and a patch. All randomness is drawn outside the networks, so that what runs inside can be compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mimo_codec.lm.cache import KeyValueCache
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.model import SpeechLanguageModel, place_of
from mimo_codec.lm.request import WINDOW, Position, Progress, Request, forbidden_tokens
from mimo_codec.lm.sampling import Settings, penalised, sample

logger = logging.getLogger(__name__)
BLOCK = 128
"""Cache sizes are multiples of it, so that compiled graphs serve prompts of many lengths."""


class Steps:
    """The three things that are done over and over, eager or compiled."""

    def __init__(self, model: SpeechLanguageModel, compiled: bool = False):
        self.model, self.compiled = model, compiled
        self.advance: Callable[..., tuple[Tensor, Tensor]] = self._advance
        self.patch_step: Callable[..., tuple[Tensor, Tensor]] = self._patch_step
        self._graphs = compiled and model.device.type == "cuda"
        self._spare: dict[str, KeyValueCache] = {}
        if compiled:
            self.advance = self._replayed(self._compiled(self._advance))
            self.patch_step = self._replayed(self._compiled(self._patch_step))

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """By torch.compile, or as it is where that finds no compiler: a step that was begun can be repeated."""
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        best = torch.compile(function, mode="reduce-overhead" if self._graphs else None)

        def call(*arguments: Any) -> Any:
            nonlocal best
            try:
                return best(*arguments)
            except TorchDynamoException as error:
                logger.warning("generation goes on without torch.compile: %s", str(error).partition("\n")[0])
                best = function
                return function(*arguments)

        return call

    def _replayed(self, function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
        """CUDA graphs write every result where the one before was: it is copied before the next call."""
        if not self._graphs:
            return function

        def call(*arguments: Any) -> tuple[Tensor, Tensor]:
            torch.compiler.cudagraph_mark_step_begin()
            one, other = function(*arguments)
            return one.clone(), other.clone()

        return call

    # ---- caches --------------------------------------------------------------------------------------------------

    def take_cache(self, name: str, batch_size: int, size: int) -> KeyValueCache:
        """A cache for the stack of this name: the one that was given back last if it fits, so that graphs find their
        memory again and runs side by side have each their own."""
        spare = self._spare.pop(name, None)
        if spare is not None and (spare.batch_size, spare.size) == (batch_size, size):
            spare.reset()
            return spare
        del spare  # before there is another
        stack: Any = getattr(self.model, name)
        devices = [place_of(layer) for layer in stack.layers]
        shape = (batch_size, stack.config.num_key_value_heads, size, stack.config.head_dim)
        cache = KeyValueCache(*shape, self.model.dtype, devices)
        if self._graphs:
            for tensor in (*cache.keys, *cache.values):
                torch._dynamo.mark_static_address(tensor)
        return cache

    def give_back(self, name: str, cache: KeyValueCache) -> None:
        """Keep a cache for the next run."""
        self._spare[name] = cache

    # ---- backbone ------------------------------------------------------------------------------------------------

    def _advance(
        self,
        tokens: Tensor,
        patches: Tensor,
        slot: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: KeyValueCache,
        settings: Settings | None,
        forbidden: Tensor | None,
        uniform: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """A position of every item in, the next token out: tokens [B], patches [B, C, G] -> tokens, seeds [B, D]."""
        cache.positions = slot
        embeddings = self.model.embed(tokens[:, None], patches[:, None])
        hidden = self.model.run_backbone(embeddings, mask, positions[:, None], cache)[:, 0]
        return self.choose(hidden, settings, forbidden, uniform)

    def choose(
        self, hidden: Tensor, settings: Settings | None, forbidden: Tensor | None, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [B, H] -> text tokens [B], seeds of the patch decoder [B, D]."""
        logits = self.model.lm_head(hidden).float()
        if forbidden is not None:
            logits = logits.masked_fill(forbidden, -torch.inf)
        return _draw(logits, settings, uniform), self.model.seeds(hidden)

    # ---- patch decoder -------------------------------------------------------------------------------------------

    def _patch_step(
        self,
        inputs: Tensor,
        step: Tensor,
        mask: Tensor,
        active: Tensor,
        channels: tuple[int, ...],
        cache: KeyValueCache,
        settings: Settings | None,
        uniform: Tensor,
        recent: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """inputs [N, D] at step [1] -> codes [N, C], and the next inputs [N, D] from those of the active channels [C].

        channels: those that are worked out; the others are zero. uniform: [N, C].
        """
        model = self.model
        cache.positions = step
        hidden = model.run_local(inputs[:, None], mask, step, cache)[:, 0]
        codes = [torch.zeros_like(inputs[:, 0], dtype=torch.long)] * model.config.audio_channels
        total = inputs.new_zeros(len(inputs), model.config.input_local_dim)
        for r in channels:
            logits = model.local_transformer_lm_heads[r](hidden)[:, :-1].float()  # the last is the empty code
            if recent is not None and settings is not None:
                logits = penalised(logits, recent[:, r], settings.penalty)
            codes[r] = _draw(logits, settings, uniform[:, r])
            total = total + model.embed_channel(r, codes[r]) * active[r].to(inputs.dtype)
        return torch.stack(codes, 1), model.to_local(total)

    def decode_patches(
        self, seeds: Tensor, cache: KeyValueCache, settings: Settings | None, uniform: Tensor, recent: Tensor | None
    ) -> Tensor:
        """Seeds [N, D] -> patches [N, C, G], channel r at steps delay r <= t < delay r + G; uniform: [N, C, G]."""
        c = self.model.config
        group, num_steps, device = c.group_size, self.model.num_steps, seeds.device
        cache.reset()
        delays = torch.tensor(c.delay_pattern, device=device)
        steps = torch.arange(num_steps, device=device)
        patches = torch.zeros(len(seeds), c.audio_channels, group, dtype=torch.long, device=device)
        inputs = seeds
        for t in range(num_steps):
            now = [r for r, d in enumerate(c.delay_pattern) if d <= t < d + group]
            active = (delays <= t) & (t < delays + group)
            frame = (t - delays).clamp(0, group - 1)
            drawn = uniform.gather(2, frame[None, :, None].expand(len(seeds), -1, 1))[..., 0]
            channels = tuple(range(c.audio_channels)) if self.compiled else tuple(now)
            mask = (steps <= t)[None, None, None]
            codes, inputs = self.patch_step(
                inputs, steps[t : t + 1], mask, active, channels, cache, settings, drawn, recent
            )
            for r in now:
                patches[:, r, t - c.delay_pattern[r]] = codes[:, r]
        return patches


def _draw(logits: Tensor, settings: Settings | None, uniform: Tensor) -> Tensor:
    return logits.argmax(-1) if settings is None else sample(logits, settings, uniform)


def generate(steps: Steps, layout: Layout, requests: Sequence[Request]) -> Iterator[list[Position | None]]:
    """Yields, step by step, the new position of every item; None for those that have ended."""
    with torch.inference_mode():
        run = _Run(steps, layout, requests)
        run.prefill()
    try:
        while True:
            with torch.inference_mode():  # never across a yield, where it would hold in the caller's code too
                new = run.positions()
            yield new
            if run.ended:
                return
            with torch.inference_mode():
                run.advance()
    finally:
        steps.give_back("model", run.cache)
        steps.give_back("local_transformer", run.patch_cache)


class _Run:
    """A batch on its way."""

    def __init__(self, steps: Steps, layout: Layout, requests: Sequence[Request]):
        self.steps, self.model = steps, steps.model
        self.progress = Progress(requests, layout)
        c, device = self.model.config, self.model.device
        size = self.progress.longest + max(request.max_new for request in requests)
        self.cache = steps.take_cache("model", len(requests), -(-size // BLOCK) * BLOCK)
        self.patch_cache = steps.take_cache("local_transformer", len(requests), self.model.num_steps)
        texts, audios = [r.text for r in requests], [r.audio for r in requests]
        draws = steps.compiled or any(s.temperature > 0 for s in texts)  # one graph for all settings
        self.text = Settings.of(texts, device) if draws else None
        penalises = steps.compiled or any(s.repetition_penalty != 1 for s in audios)
        draws = penalises or any(s.temperature > 0 for s in audios)
        self.audio = Settings.of(audios, device) if draws else None
        shape = (len(requests), c.audio_channels, WINDOW)
        self.recent = torch.full(shape, -1, device=device) if penalises else None
        forbidden = forbidden_tokens(texts, c.vocab_size)
        self.forbidden = None if forbidden is None else torch.from_numpy(forbidden).to(device)
        self.empty = torch.from_numpy(self.progress.empty_patches(len(requests))).to(device)
        self.generators = [torch.Generator().manual_seed(request.seed) for request in requests]

    @property
    def ended(self) -> bool:
        return self.progress.ended

    def prefill(self) -> None:
        """All prompts through the backbone, and the first token of every item."""
        device, longest = self.model.device, self.progress.longest
        tokens, patches = (torch.from_numpy(array).to(device) for array in self.progress.prompts())
        pads = torch.from_numpy(self.progress.pads).to(device)
        slots, keys = torch.arange(longest, device=device), torch.arange(self.cache.size, device=device)
        visible = (keys[None] <= slots[:, None])[None] & (keys[None, None] >= pads[:, None, None])
        visible |= (keys[None] == slots[:, None])[None]  # padding sees itself: a row of nothing would be NaN
        self.pads, self.keys = pads, keys
        self.cache.positions = slots
        embeddings = self.model.embed(tokens, patches)
        positions = (slots[None] - pads[:, None]).clamp(min=0)
        hidden = self.model.run_backbone(embeddings, visible[:, None], positions, self.cache)[:, -1]
        self.uniform = self._draw_uniform()
        self.tokens, self.seeds = self.steps.choose(hidden, self.text, self.forbidden, self.uniform[:, 0])

    def _draw_uniform(self) -> Tensor:
        """[B, 1 + C G] numbers of this position, of which text uses the first; the same whatever they are used for."""
        c = self.model.config
        count = 1 + c.audio_channels * c.group_size
        rows = [torch.rand(count, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.model.device)

    def positions(self) -> list[Position | None]:
        """Tokens that were drawn -> patches where they are audio, and what has come to its end."""
        tokens = self.tokens.tolist()
        self.patches = self.empty.clone()
        if speaking := self.progress.speaking(tokens):
            self._decode(speaking)
        return self.progress.add(tokens, self.patches.cpu().numpy())

    def _decode(self, speaking: list[int]) -> None:
        c = self.model.config
        uniform = self.uniform[:, 1:].reshape(-1, c.audio_channels, c.group_size)
        rows = torch.tensor(speaking, device=self.model.device)
        if self.steps.compiled:  # graphs want the same shape every time
            decoded = self.steps.decode_patches(self.seeds, self.patch_cache, self.audio, uniform, self.recent)[rows]
        else:
            settings = None if self.audio is None else self.audio.rows(rows)
            recent = None if self.recent is None else self.recent[rows]
            decoded = self.steps.decode_patches(self.seeds[rows], self.patch_cache, settings, uniform[rows], recent)
        self.patches[rows] = decoded
        if self.recent is not None:
            self.recent[rows] = torch.cat((self.recent[rows], decoded), dim=2)[:, :, c.group_size :]

    def advance(self) -> None:
        """The new positions into the backbone, and the next token out."""
        slot = self.progress.longest + self.progress.num_new - 1
        self.uniform = self._draw_uniform()
        slots = torch.tensor([slot], device=self.model.device)
        mask = ((self.keys <= slot)[None] & (self.keys[None] >= self.pads[:, None]))[:, None, None]
        self.tokens, self.seeds = self.steps.advance(
            self.tokens,
            self.patches,
            slots,
            slot - self.pads,
            mask,
            self.cache,
            self.text,
            self.forbidden,
            self.uniform[:, 0],
        )
