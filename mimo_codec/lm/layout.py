"""The grid that the language model reads and writes: ids [1 + C, G P], text tokens over audio codes.

Symbols here: C audio channels, G code frames of a patch, P positions of the backbone. A position is a text token or
one patch of G frames. At a text position the token stands in the first of G columns, `PAD` in the others, and the empty
code in all audio cells; at an audio position the token is `<|empty|>` and real codes stand below it. Only numpy is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import ArrayT, is_array, to_numpy
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.config import FRAME_RATE

PAD = -100
"""What fills the columns of the text row that hold no token."""
INTERLEAVED_TOKENS, INTERLEAVED_PATCHES = 5, 5
"""A spoken answer is so many text tokens and so many patches in turn."""

Codes = NDArray[np.int64]
"""Audio codes [C, T]."""
Grid = NDArray[np.int64]
"""What a model reads: [1 + C, G P]."""


@dataclass(frozen=True, eq=False)
class Text:
    """A run of text tokens."""

    ids: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        """Compare the tokens."""
        return isinstance(other, Text) and self.ids == other.ids


@dataclass(frozen=True, eq=False)
class Audio:
    """A run of code frames, int64 [C, T]."""

    codes: Codes

    def __eq__(self, other: object) -> bool:
        """Compare the codes."""
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
        """Audio channels C."""
        return len(self.empty_codes)

    # ---- runs -> grid --------------------------------------------------------------------------------------------

    def build(self, runs: Iterable[Run]) -> Grid:
        """Runs -> grid [1 + C, G P]. Audio whose length is no multiple of G repeats its last frame."""
        parts = [self._text(run.ids) if isinstance(run, Text) else self._audio(run.codes) for run in runs]
        return np.concatenate([np.zeros((1 + self.num_channels, 0), np.int64), *parts], axis=1)

    def _text(self, ids: Sequence[int]) -> Grid:
        grid = np.full((1 + self.num_channels, self.group_size * len(ids)), PAD, np.int64)
        grid[0, :: self.group_size] = ids
        grid[1:] = np.array(self.empty_codes)[:, None]
        return grid

    def _audio(self, codes: Codes) -> Grid:
        codes = self.whole_patches(codes)
        text = np.full((1, codes.shape[1]), PAD, np.int64)
        text[0, :: self.group_size] = self.empty_id
        return np.concatenate([text, codes])

    def whole_patches(self, codes: Codes) -> Codes:
        """Codes [C, T] -> [C, T'], T' the next multiple of G, the last frame repeated."""
        missing = -codes.shape[1] % self.group_size
        return np.pad(codes, ((0, 0), (0, missing)), mode="edge") if missing else codes

    def interleave(self, ids: Sequence[int], codes: Codes, end_id: int) -> list[Run]:
        """Return a spoken answer: text tokens and patches in turn, then the rest of whichever is longer.

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

    def token_ids(self, grid: ArrayT) -> ArrayT:
        """Grids [..., 1 + C, G P] -> the text token of every position [..., P]."""
        return grid[..., 0, :: self.group_size]

    def patches(self, grid: ArrayT) -> ArrayT:
        """Grids [..., 1 + C, G P] -> codes [..., P, C, G]."""
        codes = grid[..., 1:, :]
        split = codes.reshape(*codes.shape[:-1], codes.shape[-1] // self.group_size, self.group_size)
        patches: ArrayT = split.swapaxes(-3, -2)
        return patches

    def join(self, token_ids: NDArray[np.int64], patches: NDArray[np.int64]) -> Grid:
        """Undo `token_ids` and `patches`: [P] and [P, C, G] -> grid [1 + C, G P]."""
        text = np.full((1, len(token_ids) * self.group_size), PAD, np.int64)
        text[0, :: self.group_size] = token_ids
        return np.concatenate([text, patches.swapaxes(0, 1).reshape(self.num_channels, -1)])

    def patches_in(self, seconds: float) -> int:
        """Whole patches in so much audio, whatever the rounding of its float."""
        return int(seconds * FRAME_RATE / self.group_size + 1e-6)

    def num_positions(self, grid: Grid) -> int:
        """Positions P of a grid."""
        return int(grid.shape[1]) // self.group_size

    def parse(self, grid: Grid) -> list[Run]:
        """Return the runs of which `build` makes this grid, neighbours of one kind joined.

        The repeated frames of a last patch stay.
        """
        ids = self.token_ids(grid)
        runs: list[Run] = []
        is_audio = ids == self.empty_id
        for start, stop in _stretches(is_audio):
            frames = grid[1:, start * self.group_size : stop * self.group_size]
            runs.append(Audio(frames.copy()) if is_audio[start] else Text(tuple(ids[start:stop].tolist())))
        return runs

    # ---- what callers give ---------------------------------------------------------------------------------------

    def check_grid(self, grid: object, where: str = "ids") -> Grid:
        """Return `grid` as int64 [1 + C, G P]; MimoError, which calls it `where`, when it is none."""
        array, rows = _as_integers(grid, where), 1 + self.num_channels
        fits = array.ndim == 2 and array.shape[0] == rows and array.shape[1] and not array.shape[1] % self.group_size
        require(fits, f"{where}: has shape {list(array.shape)}; [{rows}, {self.group_size} P] is needed")
        ids = self.token_ids(array)
        known = (ids >= 0) & (ids < self.vocab_size)
        require(known.all(), f"{where}: text tokens are out of range; there are {self.vocab_size}")
        self._check_range(array[1:], where, most=0)
        at_audio = self.patches(array)[ids == self.empty_id]
        is_empty = at_audio == np.array(self.empty_codes)[:, None]
        require(not is_empty.any(), f"{where}: an audio position holds empty codes")
        return array

    def check_codes(self, codes: object, where: str = "audio") -> Codes:
        """Return the first C codebooks [C, T] of AudioCodes, or of an array [Q, T], of this model's codec.

        Raises MimoError, which calls them `where`, when the codebooks are others or fewer, or codes out of range.
        """
        if isinstance(codes, AudioCodes):
            rate, sizes = codes.frame_rate, codes.codebook_sizes[: self.num_channels]
            require(rate == FRAME_RATE, f"{where}: {rate:g} code frames a second; {FRAME_RATE:g} are needed")
            require(
                sizes == self.empty_codes,
                f"{where}: codebooks of {list(sizes)} entries ({codes.model or 'unknown codec'}); this model reads"
                f" {list(self.empty_codes)}",
            )
            return codes.to_numpy()[: self.num_channels]
        array = _as_integers(codes, where)
        fits = array.ndim == 2 and array.shape[0] >= self.num_channels
        require(fits, f"{where}: has shape {list(array.shape)}; [{self.num_channels}, T] or AudioCodes are needed")
        require(array.shape[1], f"{where}: there are no code frames")
        self._check_range(array := array[: self.num_channels], where, most=-1)
        return array

    def _check_range(self, codes: Codes, where: str, most: int) -> None:
        """Raise MimoError unless 0 <= code <= the empty code + `most` in every channel of codes [C, T]."""
        highest = np.array(self.empty_codes)[:, None] + most
        valid = ((codes >= 0) & (codes <= highest)).all()
        require(valid, f"{where}: audio codes are out of range; the codebooks have {list(self.empty_codes)} entries")


def _as_integers(values: object, where: str) -> NDArray[np.int64]:
    """Return values of any integer type as int64; MimoError, which calls them `where`, for anything else."""
    try:
        array = to_numpy(values) if is_array(values) else np.asarray(values)
    except ValueError:  # nested lists of unequal lengths
        array = np.zeros(0)
    if array.dtype.kind not in "iu":
        raise MimoError(f"{where}: an array of integers is needed, not {array.dtype} {list(array.shape)}")
    return array.astype(np.int64)


def _stretches(values: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield start and stop (exclusive) of every run of equal values."""
    if len(values):
        cuts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
        yield from pairwise(cuts)


# ---- the delay pattern of the patch decoder --------------------------------------------------------------------------


def delay(codes: ArrayT, delays: Sequence[int], empty: Sequence[int]) -> ArrayT:
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


def undelay(delayed: ArrayT, delays: Sequence[int]) -> ArrayT:
    """Undo `delay`: codes [..., C, T + max(delays)] -> [..., C, T]."""
    num_frames, channels = delayed.shape[-1] - max(delays), np.arange(len(delays))[:, None]
    return delayed[..., channels, np.arange(num_frames) + np.array(delays)[:, None]]
