"""The state of a stream is plain tensors that do not grow, and can be kept."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from chunks import FRAME, SPEECH, cut, stream
from conftest import make_speech
from goldens import (
    expected,
    segmented_codec,
    streaming_codec,
)
from torch import Tensor

from mimo_codec import MimoError
from mimo_codec.codec.streaming import State


def states(step: Callable[..., tuple[Tensor, State]], pieces: Iterable[Tensor]) -> list[State]:
    found, state = [], None
    for piece in pieces:
        _, state = step(piece, state)
        found.append(state)
    return found


def assert_plain(found: list[State]) -> None:
    for state in found:
        assert type(state) is dict
        assert state.keys() == found[0].keys()
        for name, value in state.items():
            assert type(value) is Tensor, name
            assert value.dtype == found[0][name].dtype, name
            assert value.dtype != torch.float64, name  # not all devices have it


def shapes(state: State) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def test_state_is_plain_tensors_that_do_not_grow(codes):
    codec = streaming_codec()
    encoding = states(codec.encode_chunk, SPEECH.repeat(3).split(FRAME))
    decoding = states(codec.decode_chunk, codes.codes.repeat(1, 3).split(1, dim=1))
    for found in (encoding, decoding):
        assert len(found) > 200
        assert_plain(found)
        assert all(shapes(state) == shapes(found[3]) for state in found[3:-1])


def test_state_stays_small_in_chunks_of_any_size(codes):
    """At most 2 frames of audio (n_fft and a code frame's look-ahead) are waiting, whatever came in before."""
    sizes = [1, 5000, 17, 959, 24000, 0, 3, 8000]
    found = states(streaming_codec().encode_chunk, cut(SPEECH.repeat(2), sizes * 3))
    assert_plain(found)
    for state in found:
        assert state["mel.tail"].shape[1] < 960
        assert state["encoder.mel"].shape[1] <= 2 + 4
    fixed = [{n: v for n, v in shapes(s).items() if n not in ("mel.tail", "encoder.mel")} for s in found]
    assert all(f == fixed[0] for f in fixed)


@pytest.mark.parametrize("name", ["codec_variant", "codec_hybrid"])
def test_state_of_segmented_models(name):
    """Unlimited windows remember their segment, no more; the names stay the same across segments."""
    codec = segmented_codec(name)
    found = states(codec.encode_chunk, make_speech(5.0).split(FRAME))
    assert_plain(found)
    assert max(value.shape[2] for state in found for n, value in state.items() if n.endswith(".k")) <= 100
    if name == "codec_variant":
        ids = expected(name)["long.codes"].long()
        assert_plain(states(codec.decode_chunk, ids.split(4, dim=1)))


def test_state_can_be_kept_and_used_again(codes):
    """A value: a step does not change the state that it was given."""
    codec = streaming_codec()
    for step, first, second in (
        (codec.encode_chunk, SPEECH[:9000], SPEECH[9000:19000]),
        (codec.decode_chunk, codes.codes[:, :9], codes.codes[:, 9:19]),
    ):
        _, state = step(first)
        before = {name: value.clone() for name, value in state.items()}
        one, _ = step(second, state)
        two, _ = step(second, state)
        assert torch.equal(one, two)
        assert all(torch.equal(before[name], state[name]) for name in before)


def test_two_streams_do_not_disturb_each_other(codes):
    codec = streaming_codec()
    pieces = [SPEECH[:30000].split(5000), (-SPEECH[30000:60000]).split(5000)]
    alone = [stream(codec.encode_chunk, list(p)) for p in pieces]
    state: list[State | None] = [None, None]
    outputs: list[list[Tensor]] = [[], []]
    for step in range(6):
        for i in (0, 1):
            output, state[i] = codec.encode_chunk(pieces[i][step], state[i], last=step == 5)
            outputs[i].append(output)
    for i in (0, 1):
        assert torch.equal(torch.cat(outputs[i], dim=1), alone[i])


SPOILT = {
    "sparse": lambda value: value.to_sparse() if value.ndim else value.double(),
    "meta": lambda value: value.to("meta"),
    "float64": lambda value: value.double(),
    "of two streams": lambda value: torch.cat([value, value]) if value.ndim else value[None],
    "huge": lambda value: torch.full_like(value, 2**62) if value.dtype == torch.int64 else None,
}
"""Other forms that a value of a state could have."""


@pytest.mark.parametrize("kind", SPOILT)
def test_values_of_another_kind_are_no_state(codes, kind):
    codec = streaming_codec()
    for step, chunk in ((codec.encode_chunk, SPEECH[:9000]), (codec.decode_chunk, codes.codes[:, :9])):
        _, state = step(chunk)
        for name, value in state.items():
            for last in (False, True):
                with pytest.raises(MimoError, match="state: is not what"):
                    step(chunk[..., :0], {**state, name: SPOILT[kind](value)}, last)


@pytest.mark.parametrize("size", [0, 1, 719, 960, 5000])
def test_samples_that_no_stream_keeps_are_no_state(size):
    codec = streaming_codec()
    _, state = codec.encode_chunk(SPEECH[:9000])
    for last in (False, True):
        with pytest.raises(MimoError, match="state: is not what"):
            codec.encode_chunk(SPEECH[:0], {**state, "mel.tail": torch.zeros(1, size)}, last)


def test_last_is_a_flag_of_any_kind_and_nothing_else():
    codec = streaming_codec()
    for last in (True, np.bool_(True), np.array(1), torch.tensor(True), 1):
        _, state = codec.encode_chunk(SPEECH[:9000], last=last)
        _, states_of_many = codec.encode_chunks([SPEECH[:9000]], last=last)
        assert state["ended"] == states_of_many[0]["ended"] == 1
    for last in ("no", None, 2, 0.5, torch.tensor([1, 0])):
        for step in (codec.encode_chunk, lambda chunk, last: codec.encode_chunks([chunk], last=last)):
            with pytest.raises(MimoError, match="last"):
                step(SPEECH[:9000], last=last)
