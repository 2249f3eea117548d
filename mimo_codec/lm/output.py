"""Results of generation: positions become pieces of text, codes and audio, and whole answers at the end.

Arrays are those of the model that generates: torch tensors or numpy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import to_numpy
from mimo_codec.lm.audio import SpeechCodec
from mimo_codec.lm.config import FRAME_RATE, SAMPLE_RATE, LMConfig
from mimo_codec.lm.generate import Patches, Position
from mimo_codec.lm.instructions import LANGUAGE_MARKS
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.request import Request, find_stop
from mimo_codec.lm.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT", bound="torch.Tensor | NDArray[Any]")
"""The arrays of a model: torch.Tensor, or numpy's."""
ArrayOut = TypeVar("ArrayOut", bound="torch.Tensor | NDArray[Any]", covariant=True)
MARKS = ("<think>", "</think>")
LANGUAGES = tuple(LANGUAGE_MARKS.values())
PROMPT_END = 16
"""Tokens of a prompt's end in which an open mark of thinking is looked for."""


@dataclass(frozen=True, eq=False)
class Generation(Generic[ArrayT]):
    """The whole answer to one prompt."""

    ids: ArrayT
    """The new positions, int64 [1 + C, G N]; text tokens fill all G columns."""
    text: str
    """The text tokens as text, without special ones, thoughts, and a mark of the language at its beginning."""
    thoughts: str | None
    """The text before `</think>`, if the model thought first."""
    codes: AudioCodes | None
    """The codes of all patches, in order; None when there are none."""
    waveform: ArrayT | None
    """`codes` decoded, [S] at 24 kHz, when a codec is attached."""
    stop_reason: str
    """The stop token or string, or "max_new_patches", "max_seconds", "context", "repetition" or "silence"."""


@dataclass(frozen=True, eq=False)
class Piece(Generic[ArrayT]):
    """A part of an answer, as soon as it is there."""

    item: int
    """Which item of the batch it belongs to."""
    text: str = ""
    thoughts: str = ""
    codes: AudioCodes | None = None
    """One patch."""
    waveform: ArrayT | None = None
    """The samples that are complete, [S] at 24 kHz."""
    generation: Generation[ArrayT] | None = None
    """Everything, in the last piece of an item."""


class WritingModel(Protocol[ArrayOut]):
    """What a `Writer` asks of the language model."""

    config: LMConfig
    tokenizer: TextTokenizer
    layout: Layout
    codec: SpeechCodec | None

    def from_numpy(self, array: NDArray[Any]) -> ArrayOut:
        """Return an array in the kind that the model gives to its users."""


class Writer(Generic[ArrayT]):
    """Turns the positions of one item into pieces."""

    def __init__(self, lm: WritingModel[ArrayT], item: int, request: Request, stream: bool):
        """With `stream` every piece is given as it comes, else the whole answer alone."""
        self.lm, self.item, self.request, self.stream = lm, item, request, stream
        self.patches: list[Patches] = []
        self.columns: list[Patches] = []
        self.waveforms: list[NDArray[np.float32]] = []
        self.state: Any = None
        self.empty = np.tile(np.array(lm.layout.empty_codes)[:, None], lm.layout.group_size)
        self.text = _Text(lm.tokenizer, lm.layout.token_ids(request.grid).tolist(), request.stop_text)

    def add(self, position: Position) -> Iterator[Piece[ArrayT]]:
        """Take a new position; yield what can be shown of it, and the generation when it is the last."""
        group = self.lm.layout.group_size
        codes = self.empty if position.patch is None else position.patch
        self.columns.append(np.concatenate((np.full((1, group), position.token), codes)))
        if position.patch is not None:
            self.patches.append(position.patch)
        else:
            self.text.tokens.append(position.token)
        if self.stream:
            yield from self._pieces(position)
        if position.end is not None:
            yield Piece(self.item, generation=self._generation(position.end))

    def _pieces(self, position: Position) -> Iterator[Piece[ArrayT]]:
        """Yield what is new, and at the end what was held back."""
        is_last = position.end is not None
        thoughts, text = self.text.new(is_last)
        if text or thoughts:
            yield Piece(self.item, text, thoughts)
        if position.patch is not None:
            yield Piece(self.item, codes=self._wrap([position.patch]), waveform=self._decode(position.patch))
        if is_last and self.waveforms:
            yield Piece(self.item, waveform=self._decode(self.patches[-1][:, :0], last=True))

    def _decode(self, patch: Patches, last: bool = False) -> ArrayT | None:
        lm = self.lm
        if lm.codec is None:
            return None
        waveform, self.state = lm.codec.decode_chunk(patch, self.state, last=last)
        self.waveforms.append(to_numpy(waveform))
        return lm.from_numpy(self.waveforms[-1])

    def _generation(self, end: int | str) -> Generation[ArrayT]:
        lm = self.lm
        codes = self._wrap(self.patches)
        reason = end if isinstance(end, str) else lm.tokenizer.token(end)
        length = lm.layout.num_positions(self.request.grid) + len(self.columns)
        if reason == "max_new_patches" and length >= lm.config.max_position_embeddings:
            reason = "context"
        waveform = None
        if self.waveforms:  # what was streamed is not decoded again
            waveform = lm.from_numpy(np.concatenate(self.waveforms))
        elif codes is not None and lm.codec is not None:
            waveform = lm.from_numpy(to_numpy(lm.codec.decode(codes)))
        thoughts, text = (part.strip() for part in self.text.whole())
        ids = lm.from_numpy(np.concatenate(self.columns, axis=1))
        return Generation(ids, text, thoughts or None, codes, waveform, reason)

    def _wrap(self, patches: Sequence[Patches]) -> AudioCodes | None:
        """Join patches [C, G] to AudioCodes; None without any."""
        if not patches:
            return None
        codes, lm = np.concatenate(patches, axis=1), self.lm
        num_samples = codes.shape[1] * round(SAMPLE_RATE / FRAME_RATE)
        name = lm.codec.model_id if lm.codec is not None else None
        return AudioCodes(lm.from_numpy(codes), num_samples, SAMPLE_RATE, FRAME_RATE, lm.config.codebook_sizes, name)


class _Text:
    """Turns tokens, as they come, into thoughts and text, as far as characters and marks of thinking are complete.

    Marks are told by their letters: not every tokenizer has a token for each.
    """

    def __init__(self, tokenizer: TextTokenizer, prompt: Sequence[int], stops: Sequence[str]):
        self.tokenizer, self.stops = tokenizer, stops
        self.marks = {tokenizer.tokenizer.token_to_id(mark): mark for mark in MARKS}
        self.tokens: list[int] = []
        self.shown = "", ""
        self.thinks = self._decode(prompt[-PROMPT_END:]).rstrip().endswith(MARKS[0])

    def _decode(self, tokens: Sequence[int]) -> str:
        """Return the text with the marks, special tokens or not, in their places."""
        text, start = "", 0
        for i, token in enumerate(tokens):
            if token in self.marks:
                text += self.tokenizer.decode(tokens[start:i]) + self.marks[token]
                start = i + 1
        return text + self.tokenizer.decode(tokens[start:])

    def whole(self) -> tuple[str, str]:
        """Return thoughts and text so far."""
        text = self._decode(self.tokens)
        stop = find_stop(text, self.stops)
        return self._split(text if stop is None else text[: stop[0]])

    def _split(self, text: str) -> tuple[str, str]:
        parts, thinks = ["", ""], self.thinks
        for piece in re.split(f"({'|'.join(MARKS)})", text):
            if piece in MARKS:
                thinks = piece == MARKS[0]
            else:
                parts[0 if thinks else 1] += piece
        return parts[0], _without_mark(parts[1])

    def new(self, last: bool = False) -> tuple[str, str]:
        """Return what has not been shown yet of both."""
        found = (
            self.whole()
            if last
            else self._split(_settled(self._decode(self.tokens), (*MARKS, *LANGUAGES, *self.stops)))
        )
        new = found[0][len(self.shown[0]) :], found[1][len(self.shown[1]) :]
        self.shown = found
        return new


def _without_mark(text: str) -> str:
    """Remove the mark of a language that a recognizer puts in front of what was said."""
    begun = text.lstrip()
    found = [mark for mark in LANGUAGES if begun.startswith(mark)]
    return begun.removeprefix(found[0]) if found else text


def _settled(text: str, marks: Sequence[str]) -> str:
    """Cut off what the next token may still change: the bytes of a character, the beginning of a mark."""
    text = text.rstrip("\ufffd")
    held = max((n for mark in marks for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)
    return text[: len(text) - held]
