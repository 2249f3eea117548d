"""The PyTorch backend of generation, eager or compiled.

All randomness is drawn outside the networks, so that what runs inside can be compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from mimo_codec.common.autocast import without_autocast
from mimo_codec.lm.cache import KeyValueCache
from mimo_codec.lm.generate import Backend, Batch, Kept, Numbers, Patches, Tokens
from mimo_codec.lm.model import SpeechLanguageModel, place_of
from mimo_codec.lm.request import Request, forbidden_tokens
from mimo_codec.lm.sampling import Settings, penalised, sample

logger = logging.getLogger(__name__)
BLOCK = 128
"""Cache sizes are multiples of it, so that compiled graphs serve prompts of many lengths."""
Step = TypeVar("Step", bound=Callable[..., tuple[Tensor, Tensor]])


class TorchBackend(Backend):
    """Computes the steps of generation by a SpeechLanguageModel, eager or compiled."""

    def __init__(self, model: SpeechLanguageModel, compiled: bool = False):
        """With `compiled` steps run by torch.compile, on CUDA as CUDA graphs."""
        self.model, self.compiled = model, compiled
        self.advance, self.patch_step = self._advance, self._patch_step
        self._graphs = compiled and model.device.type == "cuda"
        self._spare: dict[str, KeyValueCache] = {}
        self.kept: Kept | None = None
        if compiled:
            self.advance = self._replayed(self._compiled(self._advance))
            self.patch_step = self._replayed(self._compiled(self._patch_step))

    def __getstate__(self) -> dict[str, Any]:
        """What it was made of: what is compiled and cached belongs to this process."""
        return {"model": self.model, "compiled": self.compiled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it anew."""
        TorchBackend.__init__(self, **state)

    def batch(self, requests: Sequence[Request], num_positions: int) -> TorchBatch:
        """Begin a batch whose items have at most `num_positions` positions."""
        return TorchBatch(self, requests, num_positions)

    def random_numbers(self, seed: int) -> Callable[[int], Numbers]:
        """Return a function that gives so many random numbers more at every call, from torch's generator."""
        generator = torch.Generator().manual_seed(seed)
        return lambda count: torch.rand(count, generator=generator, dtype=torch.float32).numpy()

    def new_seeds(self, count: int) -> list[int]:
        """Return seeds drawn from torch's default generator."""
        return cast("list[int]", torch.randint(2**31, (count,)).tolist())

    def _compiled(self, function: Step) -> Step:
        """Compile a function; it stays as it is where torch.compile finds no compiler."""
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        best = torch.compile(function, mode="reduce-overhead" if self._graphs else None)

        def call(*arguments: Any) -> tuple[Tensor, Tensor]:
            nonlocal best
            try:
                return best(*arguments)
            except TorchDynamoException as error:  # a step that was begun can be repeated
                logger.warning("generation goes on without torch.compile: %s", str(error).partition("\n")[0])
                best = function
                return function(*arguments)

        return cast(Step, call)

    def _replayed(self, function: Step) -> Step:
        """Copy results before the next call: CUDA graphs write each where the one before was."""
        if not self._graphs:
            return function

        begin_step: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin

        def call(*arguments: Any) -> tuple[Tensor, Tensor]:
            begin_step()
            one, other = function(*arguments)
            return one.clone(), other.clone()

        return cast(Step, call)

    # ---- caches --------------------------------------------------------------------------------------------------

    def take_cache(self, name: str, batch_size: int, size: int) -> KeyValueCache:
        """Return a cache of `size` slots for the stack of this name, empty.

        It is the one that was given back last if that fits, so that graphs find their memory again; batches side by
        side have each their own.
        """
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

    def take_kept(self, tokens: Tokens, patches: Patches, cache: KeyValueCache) -> int:
        """Copy into a cache what was kept of a prompt that begins like tokens [P] and patches [P, C, G].

        Returns how many positions were copied.
        """
        kept = self.kept
        if kept is None:
            return 0
        count = kept.common(tokens, patches)
        for new, old in zip((*cache.keys, *cache.values), (*kept.cache.keys, *kept.cache.values), strict=True):
            new[:, :, :count] = old[:, :, :count]
        self.give_back("model", kept.cache)
        return count

    def give_back(self, name: str, cache: KeyValueCache) -> None:
        """Keep a cache for the next batch."""
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
        """Read a position of every item, tokens [B] and patches [B, C, G]; return the next tokens [B], seeds [B, D]."""
        cache.positions = slot
        embeddings = self.model.embed(tokens[:, None], patches[:, None])
        hidden = self.model.run_backbone(embeddings, mask, positions[:, None], cache)[:, 0]
        return self.choose(hidden, settings, forbidden, uniform)

    def choose(
        self, hidden: Tensor, settings: Settings | None, forbidden: Tensor | None, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw from hidden states [B, H] the text tokens [B]; return them and seeds of the patch decoder [B, D]."""
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
        """Draw from inputs [N, D] at step [1] the codes [N, C]; return them and the next inputs [N, D].

        Args:
            inputs: seeds, or the embedding of the codes of the step before.
            step: which of `num_steps` it is.
            mask: which steps can be seen.
            active: the channels [C] whose codes go into the next inputs.
            channels: those that are worked out; the others are zero.
            cache: of the patch decoder.
            settings: how to draw; None for the likeliest codes.
            uniform: random numbers [N, C].
            recent: codes [N, C, WINDOW] to which the repetition penalty applies, if any.
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
        """Seeds [N, D] -> patches [N, C, G], channel r at steps delay r <= t < delay r + G, by numbers [N, C, G]."""
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


class TorchBatch(Batch):
    """One batch: its caches, its settings, and what was computed last."""

    def __init__(self, backend: TorchBackend, requests: Sequence[Request], num_positions: int):
        """Take the caches and put the settings on the device."""
        self.backend, self.model = backend, backend.model
        config, device = self.model.config, self.model.device
        self.cache = backend.take_cache("model", len(requests), -(-num_positions // BLOCK) * BLOCK)
        self.patch_cache = backend.take_cache("local_transformer", len(requests), self.model.num_steps)
        texts, audios = [r.text for r in requests], [r.audio for r in requests]
        draws = backend.compiled or any(s.temperature > 0 for s in texts)  # one graph for all settings
        self.text = Settings.of(texts, device) if draws else None
        self.penalises = backend.compiled or any(s.repetition_penalty != 1 for s in audios)
        draws = self.penalises or any(s.temperature > 0 for s in audios)
        self.audio = Settings.of(audios, device) if draws else None
        forbidden = forbidden_tokens(texts, config.vocab_size)
        self.forbidden = None if forbidden is None else torch.from_numpy(forbidden).to(device)
        self.keys = torch.arange(self.cache.size, device=device)
        self.slot = 0
        """Where in the cache the next position goes."""
        self.keep = requests[0].keep_cache
        self.read: list[tuple[Tokens, Patches]] = []
        """What has been read, tokens [n] and patches [n, C, G], if it is to be kept."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.model.device

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    @torch.inference_mode()
    @without_autocast
    def read_prompts(self, tokens: Tokens, patches: Patches, pads: np.ndarray, uniform: Numbers) -> Tokens:
        """Read all prompts at once and draw the first tokens; see `Batch`."""
        first = self.backend.take_kept(tokens[0], patches[0], self.cache) if self.keep else 0
        self.backend.kept = None
        self.read = [(tokens[0], patches[0])]
        tokens, patches = tokens[:, first:], patches[:, first:]
        self.slot, self.pads = first + tokens.shape[1], self._on_device(pads)
        slots = torch.arange(first, self.slot, device=self.model.device)
        visible = (self.keys[None] <= slots[:, None])[None] & (self.keys[None, None] >= self.pads[:, None, None])
        visible |= (self.keys[None] == slots[:, None])[None]  # padding sees itself: a row of nothing would be NaN
        self.cache.positions = slots
        embeddings = self.model.embed(self._on_device(tokens), self._on_device(patches))
        positions = (slots[None] - self.pads[:, None]).clamp(min=0)
        hidden = self.model.run_backbone(embeddings, visible[:, None], positions, self.cache)[:, -1]
        drawn, self.seeds = self.backend.choose(hidden, self.text, self.forbidden, self._on_device(uniform))
        return drawn.cpu().numpy()

    @torch.inference_mode()
    @without_autocast
    def read_position(self, tokens: Tokens, patches: Patches, uniform: Numbers) -> Tokens:
        """Read one position of every item and draw the next tokens; see `Batch`."""
        slot, self.slot = self.slot, self.slot + 1
        mask = ((self.keys <= slot)[None] & (self.keys[None] >= self.pads[:, None]))[:, None, None]
        drawn, self.seeds = self.backend.advance(
            self._on_device(tokens),
            self._on_device(patches),
            torch.tensor([slot], device=self.model.device),
            slot - self.pads,
            mask,
            self.cache,
            self.text,
            self.forbidden,
            self._on_device(uniform),
        )
        if self.keep:
            self.read.append((tokens, patches))
        return drawn.cpu().numpy()

    @torch.inference_mode()
    @without_autocast
    def decode_patches(self, items: list[int], uniform: Numbers, recent: Patches) -> Patches:
        """Draw the patches of some items; see `Batch`."""
        settings, seeds, numbers = self.audio, self.seeds, self._on_device(uniform)
        codes = self._on_device(recent) if self.penalises else None
        rows = torch.tensor(items, device=self.model.device)
        if self.backend.compiled:  # graphs want the same shape every time
            return self.backend.decode_patches(seeds, self.patch_cache, settings, numbers, codes)[rows].cpu().numpy()
        settings = None if settings is None else settings.rows(rows)
        codes = None if codes is None else codes[rows]
        decoded = self.backend.decode_patches(seeds[rows], self.patch_cache, settings, numbers[rows], codes)
        return decoded.cpu().numpy()

    def close(self) -> None:
        """Keep the caches for the next batch."""
        if self.keep and self.read:
            self.backend.kept = Kept.join(self.read, self.cache)
        else:
            self.backend.give_back("model", self.cache)
        self.backend.give_back("local_transformer", self.patch_cache)
