"""The grid that the language model reads and writes: ids [1 + C, G P], text tokens over audio codes.

Symbols here: C audio channels, G code frames of a patch, P positions of the backbone. A position is a text token or
one patch of G frames. At a text position the token stands in the first of G columns, `PAD` in the others, and the empty
code in all audio cells; at an audio position the token is `<|empty|>` and real codes stand below it. Only numpy is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mimo_codec.codes import AudioCodes
from mimo_codec.common.errors import MimoError

PAD = -100
"""What fills the columns of the text row that hold no token."""
INTERLEAVED_TOKENS, INTERLEAVED_PATCHES = 5, 5
"""A spoken answer is so many text tokens and so many patches in turn."""

Grid = NDArray[np.int64]
Array = TypeVar("Array", bound=Any)  # numpy array or torch tensor


@dataclass(frozen=True, eq=False)
class Text:
    """A run of text tokens."""

    ids: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and self.ids == other.ids


@dataclass(frozen=True, eq=False)
class Audio:
    """A run of code frames, int64 [C, T]."""

    codes: NDArray[np.int64]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Audio) and np.array_equal(self.codes, other.codes)


Run = Text | Audio


@dataclass(frozen=True)
class Layout:
    """How runs of text and audio become a grid and come back."""

    group_size: int
    empty_codes: tuple[int, ...]
    """The empty code of each channel, which is the number of its real codes too."""
    delays: tuple[int, ...]
    empty_id: int
    """The text token `<|empty|>`."""
    vocab_size: int = 2**31
    """Text tokens."""

    @property
    def num_channels(self) -> int:
        return len(self.empty_codes)

    # ---- runs -> grid --------------------------------------------------------------------------------------------

    def build(self, runs: Iterable[Run]) -> Grid:
        """Runs -> [1 + C, G P]. Audio whose length is no multiple of G repeats its last frame."""
        parts = [self._text(run.ids) if isinstance(run, Text) else self._audio(run.codes) for run in runs]
        return np.concatenate([np.zeros((1 + self.num_channels, 0), np.int64), *parts], axis=1)

    def _text(self, ids: Sequence[int]) -> Grid:
        grid = np.full((1 + self.num_channels, self.group_size * len(ids)), PAD, np.int64)
        grid[0, :: self.group_size] = ids
        grid[1:] = np.array(self.empty_codes)[:, None]
        return grid

    def _audio(self, codes: NDArray[np.int64]) -> Grid:
        codes = self.whole_patches(codes)
        text = np.full((1, codes.shape[1]), PAD, np.int64)
        text[0, :: self.group_size] = self.empty_id
        return np.concatenate([text, codes])

    def whole_patches(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """[C, T] -> [C, T'], T' the next multiple of G, the last frame repeated."""
        missing = -codes.shape[1] % self.group_size
        return np.pad(codes, ((0, 0), (0, missing)), mode="edge") if missing else codes

    def interleave(self, ids: Sequence[int], codes: NDArray[np.int64], end_id: int) -> list[Run]:
        """A spoken answer: text tokens and patches in turn, then the rest of whichever is longer.

        end_id: `<|eot|>`, which follows the last text token at once.
        """
        codes = self.whole_patches(codes)
        frames = INTERLEAVED_PATCHES * self.group_size
        texts = [Text(tuple(ids[i : i + INTERLEAVED_TOKENS])) for i in range(0, max(len(ids), 1), INTERLEAVED_TOKENS)]
        texts[-1] = Text((*texts[-1].ids, end_id))
        audios = [Audio(codes[:, i : i + frames]) for i in range(0, codes.shape[1], frames)]
        both = min(len(texts), len(audios))
        turns: list[Run] = [run for pair in zip(texts, audios, strict=False) for run in pair]
        return [*turns, *texts[both:], *audios[both:]]

    # ---- grid -> runs --------------------------------------------------------------------------------------------

    def token_ids(self, grid: Array) -> Array:
        """[..., 1 + C, G P] -> the text token of every position [..., P]."""
        return grid[..., 0, :: self.group_size]

    def patches(self, grid: Array) -> Array:
        """[..., 1 + C, G P] -> codes [..., P, C, G]."""
        codes = grid[..., 1:, :]
        split = codes.reshape(*codes.shape[:-1], codes.shape[-1] // self.group_size, self.group_size)
        return split.swapaxes(-3, -2)

    def parse(self, grid: Grid) -> list[Run]:
        """The inverse of `build`, neighbours of one kind joined; the repeated frames of a last patch stay."""
        ids, runs = self.token_ids(grid), []
        is_audio = ids == self.empty_id
        for start, stop in _stretches(is_audio):
            frames = grid[1:, start * self.group_size : stop * self.group_size]
            runs.append(Audio(frames.copy()) if is_audio[start] else Text(tuple(ids[start:stop].tolist())))
        return runs

    def check_grid(self, grid: object, where: str = "ids") -> Grid:
        """`grid` as int64 [1 + C, G P]; MimoError when it is none, or codes are out of range."""
        try:
            array = np.asarray(grid)
        except ValueError:  # nested lists of unequal lengths
            raise MimoError(f"{where}: an array of integers is needed") from None
        rows = 1 + self.num_channels
        if array.ndim != 2 or array.shape[0] != rows or array.shape[1] % self.group_size or not array.shape[1]:
            raise MimoError(f"{where}: has shape {list(array.shape)}; [{rows}, {self.group_size} P] is needed")
        if array.dtype.kind not in "iu":
            raise MimoError(f"{where}: integers are needed, not {array.dtype}")
        array = array.astype(np.int64)
        ids = self.token_ids(array)
        if (ids < 0).any() or (ids >= self.vocab_size).any():
            raise MimoError(f"{where}: text tokens are out of range; there are {self.vocab_size}")
        codes, most = array[1:], np.array(self.empty_codes)[:, None]
        if (codes < 0).any() or (codes > most).any():
            raise MimoError(f"{where}: audio codes are out of range; their codebooks have {list(self.empty_codes)}")
        at_audio = self.patches(array)[ids == self.empty_id]
        if (at_audio == np.array(self.empty_codes)[:, None]).any():
            raise MimoError(f"{where}: an audio position holds empty codes")
        return array

    def check_codes(self, codes: object, frame_rate: float = 25.0, where: str = "audio") -> NDArray[np.int64]:
        """AudioCodes, or an array [Q, T], of this model's codec -> [C, T], its first C codebooks.

        MimoError when the codebooks are others or fewer, or codes out of range.
        """
        if isinstance(codes, AudioCodes):
            if codes.frame_rate != frame_rate:
                raise MimoError(f"{where}: {codes.frame_rate:g} code frames a second; {frame_rate:g} are needed")
            sizes, array = codes.codebook_sizes[: self.num_channels], codes.to_numpy()
            if sizes != self.empty_codes:
                raise MimoError(
                    f"{where}: codebooks of {list(sizes)} entries ({codes.model or 'unknown codec'}); this model reads"
                    f" {list(self.empty_codes)}"
                )
        else:
            array = np.asarray(codes)
            if array.ndim != 2 or array.dtype.kind not in "iu" or array.shape[0] < self.num_channels:
                need = f"integers [{self.num_channels}, T] or AudioCodes are needed"
                raise MimoError(f"{where}: {need}, not {array.dtype} {list(array.shape)}")
        array = array[: self.num_channels].astype(np.int64)
        if not array.shape[1]:
            raise MimoError(f"{where}: there are no code frames")
        if (array < 0).any() or (array >= np.array(self.empty_codes)[:, None]).any():
            raise MimoError(f"{where}: codes are out of range; the codebooks have {list(self.empty_codes)} entries")
        return array


def _stretches(values: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """[start, stop) of every run of equal values."""
    if len(values):
        cuts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
        yield from zip(cuts[:-1], cuts[1:], strict=True)


# ---- the delay pattern of the patch decoder --------------------------------------------------------------------------


def delay(codes: Array, delays: Sequence[int], empty: Sequence[int]) -> Array:
    """Codes [..., C, T] -> [..., C, T + max(delays)]: channel r begins delays[r] steps later, `empty[r]` around it.

    Numpy arrays and torch tensors (arXiv 2512.23808, section 2.2).
    """
    num_frames, channels = codes.shape[-1], np.arange(len(delays))[:, None]
    steps = np.arange(num_frames + max(delays))
    delayed = codes[..., channels, np.clip(steps - np.array(delays)[:, None], 0, num_frames - 1)]
    for r, (start, code) in enumerate(zip(delays, empty, strict=True)):
        delayed[..., r, :start] = code
        delayed[..., r, start + num_frames :] = code
    return delayed


def undelay(delayed: Array, delays: Sequence[int]) -> Array:
    """The inverse: [..., C, T + max(delays)] -> [..., C, T]."""
    num_frames, channels = delayed.shape[-1] - max(delays), np.arange(len(delays))[:, None]
    return delayed[..., channels, np.arange(num_frames) + np.array(delays)[:, None]]
