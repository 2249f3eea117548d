"""Positions as they are generated -> pieces of text, codes and sound, and the whole at the end.

Arrays are those of the model that writes: torch tensors or numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mimo_codec.arrays import is_tensor
from mimo_codec.codes import AudioCodes
from mimo_codec.lm.request import FRAME_RATE, SAMPLE_RATE, Patches, Position, Request
from mimo_codec.lm.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from mimo_codec.lm.interface import AudioLM

Array = Any
"""A torch tensor or a numpy array."""


@dataclass(frozen=True, eq=False)
class Generation:
    """What the model wrote."""

    ids: Array
    """The new positions, int64 [1 + C, G N]; text tokens fill all G columns."""
    text: str
    """Of the text tokens, without special ones and thoughts."""
    thoughts: str | None
    """What was thought before, up to `</think>`."""
    codes: AudioCodes | None
    """Of all patches, in order; None when there are none."""
    waveform: Array | None
    """`codes` decoded, [S] at 24 kHz, when a codec is attached."""
    stop_reason: str
    """The stop token, or "max_new_patches", "max_seconds" or "context"."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a generation, as it comes."""

    item: int
    """Of the batch."""
    text: str = ""
    thoughts: str = ""
    codes: AudioCodes | None = None
    """A patch."""
    waveform: Array | None = None
    """The samples that are complete, [S] at 24 kHz."""
    generation: Generation | None = None
    """Everything, in the last piece of an item."""


class Writer:
    """Positions of one item -> pieces."""

    def __init__(self, lm: AudioLM, item: int, request: Request, stream: bool):
        self.lm, self.item, self.request, self.stream = lm, item, request, stream
        self.patches: list[Patches] = []
        self.columns: list[Patches] = []
        self.state: Any = None
        empty = np.array(lm.config.speech_zeroemb_idx)[:, None]
        self.empty = np.broadcast_to(empty, (len(empty), lm.config.group_size))
        self.think, self.answer = (lm.tokenizer.tokenizer.token_to_id(name) for name in ("<think>", "</think>"))
        self.thoughts, self.text = _Text(lm.tokenizer), _Text(lm.tokenizer)
        self.is_thinking = False
        for token in lm.layout.token_ids(request.grid).tolist():
            self._turn(token)

    def _turn(self, token: int) -> bool:
        """Thinking begins or ends with this token."""
        turns = token in (self.think, self.answer)
        self.is_thinking = token == self.think if turns else self.is_thinking
        return turns

    def add(self, position: Position) -> Iterator[Piece]:
        """A new position -> what can be shown of it, and the generation when it is the last."""
        group = self.lm.config.group_size
        codes = self.empty if position.patch is None else position.patch
        self.columns.append(np.concatenate((np.full((1, group), position.token), codes)))
        if position.patch is not None:
            self.patches.append(position.patch)
        elif not self._turn(position.token):
            (self.thoughts if self.is_thinking else self.text).tokens.append(position.token)
        if self.stream:
            piece = self._piece(position)
            if piece.text or piece.thoughts or piece.codes is not None:
                yield piece
        if position.end is not None:
            yield self._last(position.end)

    def _piece(self, position: Position) -> Piece:
        if position.patch is None:
            return Piece(self.item, self.text.new(), self.thoughts.new())
        waveform = None
        if self.lm.codec is not None:
            waveform, self.state = self.lm.codec.decode_chunk(self.lm.own(position.patch), self.state)
        return Piece(self.item, codes=self._wrap([position.patch]), waveform=_on_cpu(waveform))

    def _last(self, end: int | str) -> Piece:
        lm = self.lm
        codes = self._wrap(self.patches)
        reason = end if isinstance(end, str) else lm.tokenizer.token(end)
        length = self.request.grid.shape[1] // lm.config.group_size + len(self.columns)
        if reason == "max_new_patches" and length >= lm.config.max_position_embeddings:
            reason = "context"
        waveform = rest = None
        if codes is not None and lm.codec is not None:
            waveform = lm.codec.decode(codes)
            if self.stream:
                rest = lm.codec.decode_chunk(lm.own(self.patches[-1][:, :0]), self.state, last=True)[0]
        text, thoughts = self.text.whole().strip(), self.thoughts.whole().strip() or None
        ids = lm.own(np.concatenate(self.columns, axis=1))
        generation = Generation(ids, text, thoughts, codes, waveform, reason)
        if not self.stream:
            return Piece(self.item, generation=generation)
        return Piece(
            self.item, self.text.new(True), self.thoughts.new(True), waveform=_on_cpu(rest), generation=generation
        )

    def _wrap(self, patches: Sequence[Patches]) -> AudioCodes | None:
        """Patches [C, G] -> AudioCodes."""
        if not patches:
            return None
        codes, lm = np.concatenate(patches, axis=1), self.lm
        num_samples = codes.shape[1] * round(SAMPLE_RATE / FRAME_RATE)
        name = lm.codec.model_id if lm.codec is not None else None
        return AudioCodes(lm.own(codes), num_samples, SAMPLE_RATE, FRAME_RATE, lm.config.codebook_sizes, name)


def _on_cpu(waveform: Array | None) -> Array | None:
    return waveform.cpu() if is_tensor(waveform) else waveform


class _Text:
    """Tokens as they come -> text as far as its characters are complete."""

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.shown = ""

    def whole(self) -> str:
        return self.tokenizer.decode(self.tokens)

    def new(self, last: bool = False) -> str:
        """What has not been shown yet."""
        whole = self.whole()
        if whole.endswith("\ufffd") and not last:  # a character of which bytes are still to come
            return ""
        new, self.shown = whole[len(self.shown) :], whole
        return new
