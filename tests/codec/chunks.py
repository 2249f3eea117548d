"""Speech in chunks, and what the steps of a codec give for them."""

from collections.abc import Callable, Iterable

import torch
from conftest import make_speech
from hypothesis import settings
from torch import Tensor

from mimo_codec.codec.streaming import State

RATE = 24000

FRAME = 960

SPEECH = make_speech(3.0)

EXACT = 1e-5  # of waveforms with peaks of about 0.1: what remains is float32 rounding, 1e-7

few = settings(max_examples=15, deadline=None)


def cut(x: Tensor, sizes: Iterable[int]) -> list[Tensor]:
    """`x` in pieces of `sizes` along its last dimension, the rest of it at the end."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(x[..., start : start + size])
        start = min(start + size, x.shape[-1])
    return [*pieces, x[..., start:]]


def stream(step: Callable[..., tuple[Tensor, State]], pieces: list[Tensor], **options: int) -> Tensor:
    """All output of encode_chunk or decode_chunk, concatenated; the last piece ends the stream."""
    outputs, state = [], None
    for piece in pieces[:-1]:
        output, state = step(piece, state, **options)
        outputs.append(output)
    return torch.cat([*outputs, step(pieces[-1], state, last=True, **options)[0]], dim=-1)


def every(size: int, x: Tensor) -> list[int]:
    return [size] * ((x.shape[-1] - 1) // size)
