"""The modules that are exported do what the codec does; no ONNX yet."""

import pytest
import torch
from conftest import make_speech
from goldens import CASES, CODECS, DECODING_CODECS, any_codec, expected, log_mel
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_codec.codec import transformer
from mimo_codec.onnx.codec.graphs import DecoderGraph, DecoderStepGraph, EncoderGraph, EncoderStepGraph
from mimo_codec.onnx.codec.stacks import attend
from mimo_codec.onnx.fourier import Analysis, Synthesis

ALONE = torch.zeros(2, dtype=torch.int64)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), hop=st.integers(1, 300), num_frames=st.integers(1, 4), seed=st.integers(0, 99))
def test_fourier_transforms(n, hop, num_frames, seed):
    """Against torch.fft of windowed frames in float64."""
    hop = min(hop, n)
    generator = torch.Generator().manual_seed(seed)
    window, num_hops = torch.rand(n, generator=generator) + 0.1, num_frames - 1 - (-n // hop)
    samples = torch.randn(2, num_hops * hop, generator=generator)
    analysis, synthesis = Analysis(window, hop), Synthesis(window, hop)
    bins = analysis.bins
    assert sorted(bins[~analysis.again].tolist()) == list(range(n // 2 + 1))

    spectra = torch.fft.rfft(samples.unfold(1, n, hop)[:, :num_frames].double() * window.double())
    rows = spectra.mT[:, bins]
    rows = torch.where(analysis.mirrored[:, None], rows.conj(), rows)
    found = torch.complex(*analysis(samples.double().unflatten(1, (-1, hop)), num_frames))
    assert (found - rows).abs().max() < 1e-13 * spectra.abs().max()

    frames = torch.fft.irfft(spectra, n) * window
    expected = torch.zeros(samples.shape, dtype=torch.float64)
    for i in range(num_frames):
        expected[:, i * hop : i * hop + n] += frames[:, i]
    rows = spectra.mT[:, bins]
    assert (synthesis(rows.real.float(), rows.imag.float()).flatten(1) - expected).abs().max() < 1e-5


@settings(max_examples=80, deadline=None)
@given(
    length=st.integers(1, 150),
    left=st.integers(-1, 12),
    right=st.integers(-1, 12),
    cut=st.integers(0, 149),
    seed=st.integers(0, 99),
)
def test_attention_in_blocks(length, left, right, cut, seed):
    q, k, v = torch.randn(3, 2, 2, length, 4, generator=torch.Generator().manual_seed(seed))
    valid = torch.arange(length) < torch.tensor([[length], [max(length - cut, 1)]])
    found = attend(q / 2, k, v, (left, right), valid)  # scaled by 1 / sqrt(4)
    reference = transformer.attend(q, k, v, (left, right), valid=valid)
    assert (found - reference)[valid[:, None].expand(-1, 2, -1)].abs().max() < 1e-5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_golden_inputs(name, case):
    """In a batch behind another item, with noise where the padding is."""
    codec, waveform = any_codec(name), expected(name)[f"{case}.waveform"]
    count = codec.num_quantizers
    batch = torch.randn(2, len(waveform) + 1234)
    batch[1, : len(waveform)] = waveform
    lengths = torch.tensor([batch.shape[1], len(waveform)])
    graph = EncoderGraph(codec, count)
    mels, num_mels = graph.mel(batch, lengths, ALONE)
    mel, reference = mels[1, : num_mels[1]], log_mel(codec, waveform)
    assert mel.shape == reference.shape and (mel - reference).abs().max() < 2e-6
    codes = codec.encode(waveform, 24000, count).codes
    found, num_frames = graph(batch, lengths, ALONE)
    assert num_frames.tolist() == [codec.config.num_frames(int(n)) for n in lengths]
    assert (found[1, :, : num_frames[1]] == codes).float().mean() >= 0.999
    assert not found[1, :, num_frames[1] :].any()
    if name in DECODING_CODECS:
        both = torch.nn.functional.pad(codes, (0, 5)).expand(2, -1, -1)
        decoded, num_samples = DecoderGraph(codec, count)(both, torch.tensor([both.shape[2], codes.shape[1]]))
        reference = codec.decode(codes)
        assert num_samples[1] == len(reference) and not decoded[1, num_samples[1] :].any()
        assert (decoded[1, : num_samples[1]] - reference).abs().max() < 1e-5


@settings(max_examples=12, deadline=None)
@given(num_samples=st.integers(1, 6000), more=st.integers(0, 3000))
@torch.no_grad()
def test_any_length(num_samples, more):
    codec, speech = any_codec("tiny"), make_speech(0.5)
    codes = codec.encode(speech[:num_samples], codec.sample_rate).codes
    padded = torch.cat((speech[:num_samples], torch.ones(more)))[None]
    found, num_frames = EncoderGraph(codec, 8)(padded, torch.tensor([num_samples]), ALONE)
    assert torch.equal(found[0, :, : num_frames[0]], codes)


@pytest.mark.parametrize("chunk", [1, 3, 25])
@torch.no_grad()
def test_steps_give_what_comes_at_once(chunk):
    codec = any_codec("tiny")
    codes = codec.encode(make_speech(2.0), codec.sample_rate).codes
    graph = DecoderStepGraph(codec, 8)
    delay, state, pieces = codec.require_decoder().vocoder.delay, graph.initial_state(), []
    for piece in codes.split(chunk, dim=1):
        waveform, state = graph(piece[None], torch.tensor(piece.shape[1]), state)
        pieces.append(waveform)
    flush = torch.zeros(1, 8, -(-delay // codec.config.samples_per_frame), dtype=torch.int64)
    pieces.append(graph(flush, torch.tensor(0), state)[0])
    reference = codec.decode(codes)
    assert (torch.cat(pieces, dim=1)[0, delay : delay + len(reference)] - reference).abs().max() < 1e-5


@torch.no_grad()
def test_state_keeps_names_and_shapes():
    codec = any_codec("tiny")
    for graph, first in (
        (EncoderStepGraph(codec, 8), (torch.zeros(1, (4 * 2 + 6) * 240), torch.tensor(99))),
        (DecoderStepGraph(codec, 8), (torch.zeros(1, 8, 2, dtype=torch.int64), torch.tensor(2))),
    ):
        state = graph.initial_state()
        new = graph(*first, state)[1]
        assert {k: (v.shape, v.dtype) for k, v in new.items()} == {k: (v.shape, v.dtype) for k, v in state.items()}
        assert int(new["num_frames"]) == 2 and not any(value.any() for value in state.values())
