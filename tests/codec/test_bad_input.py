"""Waveforms, files and codes that a codec refuses, and why."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from chunks import EXACT, RATE, SPEECH
from goldens import (
    golden_codec,
    streaming_codec,
)

from mimo_codec import AudioCodes, MimoCodec, MimoError

RATES = [None, 0, -24000, 999, 10**6, 24000.5, "24000", float("nan"), True]


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_bad_sample_rates(rate):
    with pytest.raises(MimoError, match="sample_rate|sample rate"):
        streaming_codec().encode(SPEECH, rate)


BAD_AUDIO = [
    (torch.zeros(0), "no samples"),
    (torch.zeros(2, 0), "no samples"),
    (torch.zeros(1, 2, 100), "shape"),
    (torch.tensor(1.0), "shape"),
    (np.zeros((24000, 2), np.float32), "transpose"),
    (torch.tensor([0.0, float("nan")]), "sample 1 is NaN"),
    (torch.tensor([0.0, 0.0, -float("inf")]), "sample 2 is infinite"),
    (torch.zeros(100, dtype=torch.complex64), "dtype"),
    (np.array(["a", "b"]), "dtype"),
    (np.zeros(100, bool), "dtype"),
    ([0.0, 0.1], "list"),
    (None, "NoneType"),
]


@pytest.mark.parametrize(("audio", "message"), BAD_AUDIO)
def test_bad_arrays(audio, message):
    codec = streaming_codec()
    for use in (lambda: codec.encode(audio, RATE), lambda: codec.encode_batch([audio], RATE)):
        with pytest.raises(MimoError, match=f"audio.*{message}"):
            use()


def test_bad_files(tmp_path):
    empty, text = tmp_path / "empty.wav", tmp_path / "text.wav"
    empty.write_bytes(b"")
    text.write_text("no audio")
    for path in (empty, text, tmp_path, tmp_path / "none.wav", Path("/dev/null")):
        with pytest.raises(MimoError, match=f"^{path}: .*") as caught:
            streaming_codec().encode(path)
        assert "\n" not in str(caught.value)


def test_a_file_of_codes_that_is_not_there():
    """`decode` takes files; a stream of chunks has none."""
    codec = streaming_codec()
    with pytest.raises(MimoError, match=r"speech\.mimo: cannot be read"):
        codec.decode("speech.mimo")
    with pytest.raises(MimoError, match="is a str"):
        codec.decode_chunk("speech.mimo")


@pytest.mark.parametrize("count", [0, -1, 9, 2.0, "8"])
def test_bad_numbers_of_codebooks(count):
    codec = streaming_codec()
    for use in (
        lambda: codec.encode(SPEECH, RATE, count),
        lambda: codec.encode_batch([SPEECH], RATE, count),
    ):
        with pytest.raises(MimoError, match=r"num_quantizers = .*8 codebooks, ask for 1\.\.8"):
            use()


BAD_CODES = [
    (torch.full((8, 3), 128), "out of range"),
    (torch.full((1, 3), 1024), "codebook 0, frame 0: 1024"),
    (torch.full((8, 3), -1), "out of range"),
    (torch.zeros(8, 3), "integers"),
    (torch.zeros(8, 3, dtype=torch.bool), "integers"),
    (np.zeros((8, 3)), "integers"),
    (torch.zeros(3, dtype=torch.int64), "shape"),
    (torch.zeros(1, 8, 3, dtype=torch.int64), "shape"),
    (torch.zeros(9, 3, dtype=torch.int64), "this model has 8"),
    ([[0, 1]], "is a list"),
    (3, "is a int"),
    (None, "is a NoneType"),
]


@pytest.mark.parametrize(("codes", "message"), BAD_CODES)
def test_bad_codes(codes, message):
    codec = streaming_codec()
    uses = (
        codec.decode,
        codec.decode_chunk,
        lambda c: codec.decode_batch([c]),
        lambda c: list(codec.decode_stream([c])),
    )
    for use in uses:
        with pytest.raises(MimoError, match=message) as caught:
            use(codes)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(8, 0), (0, 0), (0, 5)])
def test_no_codes(shape):
    with pytest.raises(MimoError):
        streaming_codec().decode(torch.zeros(shape, dtype=torch.int64))


def test_codes_of_another_model(codes):
    for other in (golden_codec("codec_base"), MimoCodec(streaming_codec().config)):
        for use in (other.decode, other.decode_chunk, lambda c: other.decode_batch([c])):  # noqa: B023
            with pytest.raises(MimoError, match=rf"made by {codes.model}.*{other.model_id}"):
                use(codes)


def test_codes_of_the_same_codebooks_under_another_name(codes):
    renamed = copy.deepcopy(streaming_codec())
    renamed.name = "renamed"
    torch.testing.assert_close(renamed.decode(codes), streaming_codec().decode(codes))


@pytest.mark.parametrize(
    "changes",
    [
        {"codebook_sizes": (1024,) * 8},
        {"sample_rate": 16000},
        {"sample_rate": 16000, "num_samples": 40_000},
        {"sample_rate": 48000, "frame_rate": 50.0},
        {"frame_rate": 12.5},
    ],
)
def test_codes_of_other_rates_or_sizes(codes, changes):
    fields = {"num_samples": 40_000, "sample_rate": RATE, "frame_rate": 25.0, "codebook_sizes": codes.codebook_sizes}
    plain = AudioCodes(codes.codes, **fields)
    assert torch.equal(streaming_codec().decode(plain), streaming_codec().decode(codes)[:40_000])
    for model in (None, codes.model):
        other = AudioCodes(codes.codes, **fields | changes, model=model)
        with pytest.raises(MimoError, match=r"codes: .*do not fit"):
            streaming_codec().decode(other)


def test_codes_as_arrays(codes):
    codec, decoded = streaming_codec(), streaming_codec().decode(codes.codes)
    for array in (codes.to_numpy(), codes.to_numpy().astype(np.int16), np.asfortranarray(codes.to_numpy())):
        torch.testing.assert_close(codec.decode(array), decoded, atol=EXACT, rtol=0)
    reverse = codes.to_numpy()[:, ::-1]
    torch.testing.assert_close(codec.decode(reverse), codec.decode(codes.codes.flip(1)), atol=EXACT, rtol=0)
