"""The codec as torch modules that export to ONNX: waveform in, codes out, and back, with nothing left to do outside.

They hold the networks of a MimoCodec and do what it does, in operations that every provider of ONNX Runtime has: real
arithmetic, no loop or branch over lengths, attention in blocks where its window is limited. Batch, time and number of
codebooks are dynamic; every item of a batch gives what it gives alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.config import MelConfig
from mimo_codec.codec.decoder import UpsampleConv
from mimo_codec.codec.mel import LOG_FLOOR, mel_filters
from mimo_codec.codec.model import MimoCodec
from mimo_codec.codec.quantizer import Quantizer
from mimo_codec.codec.streaming import State, scope, scoped
from mimo_codec.codec.transformer import length_mask
from mimo_codec.codec.vocoder import ENVELOPE_FLOOR, MAX_LOG_MAGNITUDE, Vocoder
from mimo_codec.onnx.codec.stacks import StackGraph, with_stack_graphs
from mimo_codec.onnx.fourier import Analysis, Synthesis


def after(position: Tensor, count: int) -> Tensor:
    """Position [] int64 + count, which is a size and at least 1.

    A plain sum with a size ONNX Runtime takes for one of sizes alone, which it leaves to the host where the rest is on
    CUDA; a CUDA graph knows only what the device does.
    """
    return (position + torch.arange(count, device=position.device))[-1] + 1


def present(state: State) -> State:
    """Without what is empty, and without the statistics of norms that models which stream do not have."""
    return {key: value for key, value in state.items() if value.numel() and not key.endswith("stats")}


# ---- waveform -> log-mel ---------------------------------------------------------------------------------------------


class MelGraph(nn.Module):
    """LogMel of waveforms of different lengths in one batch."""

    filters: Tensor

    def __init__(self, config: MelConfig):
        """The front end of a configuration."""
        super().__init__()
        self.config, self.pad = config, config.n_fft // 2
        before = (config.n_fft - config.window_size) // 2
        window = torch.hann_window(config.window_size, dtype=torch.float64)
        window = F.pad(window, (before, config.n_fft - config.window_size - before))
        self.fourier = Analysis(window, config.hop_length)
        self.num_hops = self.fourier.num_hops
        filters = mel_filters(config.sample_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)
        filters = filters[self.fourier.bins] * ~self.fourier.again[:, None]
        self.register_buffer("filters", filters.T.contiguous())

    def of_frames(self, samples: Tensor, num_frames: int) -> Tensor:
        """Samples [B, (M + r - 1) hop] that hold M frames, r hops each -> log-mel [B, n_mels, M]."""
        real, imaginary = self.fourier(samples.double().unflatten(1, (-1, self.config.hop_length)), num_frames)
        real, imaginary = real.float(), imaginary.float()  # what follows only adds what is positive
        mel = self.filters @ (real * real + imaginary * imaginary).sqrt()
        log_mel: Tensor = mel.clamp(min=LOG_FLOOR).log()
        return log_mel

    def forward(self, waveform: Tensor, lengths: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, S], lengths [B], context [2] -> log-mel [B, 1 + S // hop, n_mels] and mel frames [B].

        context: how many samples at the start and at the end of every item are no sound of its own but surround it,
        either none, then reflections surround it, or more than n_fft / 2.
        """
        hop, before, after = self.config.hop_length, context[0], context[1]
        num_frames = 1 + waveform.shape[1] // hop
        samples = F.pad(waveform * length_mask(lengths, waveform.shape[1]), (0, self.pad + 1))
        ends = torch.clamp(lengths, min=self.pad + 1)[:, None] - 1  # what is too short to reflect sees zeros after it
        size = (num_frames - 1 + self.num_hops) * hop
        index = (torch.arange(size, device=waveform.device) - self.pad + before).abs()[None]
        index = (ends - (ends - index).abs()).clamp(min=0)
        mel = self.of_frames(samples.gather(1, index), num_frames).mT
        return mel, 1 + (lengths - before - after) // hop


# ---- encoder ---------------------------------------------------------------------------------------------------------


class QuantizerGraph(nn.Module):
    """A quantizer with the entries of all codebooks in one table, to decode codes of any number of codebooks."""

    table: Tensor
    starts: Tensor

    def __init__(self, quantizer: Quantizer, num_quantizers: int):
        """The first `num_quantizers` codebooks of a quantizer."""
        super().__init__()
        self.quantizer, self.num_quantizers = quantizer, num_quantizers
        codebooks = [quantizer.codebook(index).detach().clone() for index in range(num_quantizers)]
        sizes = [len(codebook) for codebook in codebooks]
        self.register_buffer("table", torch.cat(codebooks))
        self.register_buffer("starts", torch.tensor([sum(sizes[:index]) for index in range(num_quantizers)]))

    def encode(self, features: Tensor) -> Tensor:
        """Features [B, T, D] -> codes [B, Q, T]."""
        codes, _ = self.quantizer.approximate(self.quantizer.project_in(features.float()), self.num_quantizers)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, q, T] of the first q codebooks -> [B, T, D]."""
        rows = codes + self.starts[: codes.shape[1], None]
        return self.quantizer.project_out(F.embedding(rows, self.table).sum(1))


class EncoderGraph(nn.Module):
    """encoder.onnx: waveforms -> codes."""

    def __init__(self, codec: MimoCodec, num_quantizers: int):
        """The encoder and the first `num_quantizers` codebooks of a codec."""
        super().__init__()
        self.mel = MelGraph(codec.config.mel)
        self.encoder, self.layers = codec.encoder, StackGraph(codec.encoder.layers)
        self.quantizer = QuantizerGraph(codec.quantizer, num_quantizers)

    def forward(self, waveform: Tensor, lengths: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, S] at the codec's rate, lengths [B] samples, context [2] -> codes [B, Q, T], code frames [B].

        Codes beyond the end of an item are 0. context: see MelGraph.
        """
        mel, num_mels = self.mel(waveform, lengths, context)
        encoder = self.encoder
        mel = (mel * length_mask(num_mels, mel.shape[1])[..., None]).to(encoder.conv1.weight.dtype)
        x = encoder._convolve(mel, True, True, num_mels)
        num_hidden = (num_mels - 1) // encoder.stride + 1
        x = self.layers(x, num_hidden)
        num_frames = (num_hidden + encoder.pool - 1) // encoder.pool
        codes = self.quantizer.encode(encoder._pool(x, num_hidden))
        return codes * length_mask(num_frames, codes.shape[2])[:, None], num_frames


class EncoderStepGraph(nn.Module):
    """encoder_step.onnx: a chunk of a stream -> its codes, for causal encoders.

    Frame f of a stream needs its samples from (s f - 2) hop - n_fft / 2 to (s (f + 1) + 2 - stride) hop + n_fft / 2,
    s = stride pool mel frames a code frame; what lies outside the stream is reflected by the caller.
    """

    def __init__(self, codec: MimoCodec, num_quantizers: int):
        """The encoder and the first `num_quantizers` codebooks of a codec that encodes streams."""
        super().__init__()
        self.mel = MelGraph(codec.config.mel)
        self.encoder, self.layers = codec.encoder, StackGraph(codec.encoder.layers)
        self.quantizer = QuantizerGraph(codec.quantizer, num_quantizers)

    def initial_state(self) -> State:
        """Named tensors, all zero, that the first step reads; batch 1."""
        layers = self.encoder.layers.initial_state(1, self.encoder.conv1.weight)
        return present({"num_frames": torch.zeros((), dtype=torch.int64), **scope(layers, "layers")})

    def forward(self, waveform: Tensor, num_mels: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples of n frames, waveform [B, (s n + 4 - stride + r) hop] as above -> codes [B, Q, n] and the new state.

        num_mels []: mel frames of the whole stream, or any large number as long as they are not known.
        """
        encoder, hop = self.encoder, self.mel.config.hop_length
        per_frame = encoder.stride * encoder.pool
        count = waveform.shape[1] // hop - self.mel.num_hops + 1
        start = state["num_frames"]
        mel = self.mel.of_frames(waveform, count)
        positions = start * per_frame - 2 + torch.arange(count, device=waveform.device)
        inside = (positions >= 0) & (positions < num_mels)
        x = (mel * inside).to(encoder.conv1.weight.dtype)
        x = encoder.activation(encoder.conv1(x)) * inside[1:-1]
        x = encoder.activation(encoder.conv2(x)).transpose(1, 2)
        first = start * encoder.pool
        x, layers = self.layers.step(x, scoped(state, "layers"), first, after(first, x.shape[1]))
        num_hidden = (num_mels - 1) // encoder.stride + 1 - first
        features = encoder._pool(x, num_hidden.reshape(1))
        new_state = {"num_frames": after(start, features.shape[1]), **scope(layers, "layers")}
        return self.quantizer.encode(features), new_state


# ---- decoder ---------------------------------------------------------------------------------------------------------


def upsample(block: UpsampleConv, x: Tensor, lengths: Tensor) -> Tensor:
    """UpsampleConv.forward without loops over items: x [B, T, D], input frames [B] -> [B, stride T, D_out]."""
    x = x * length_mask(lengths, x.shape[1])[..., None]
    y = block.conv(x.transpose(1, 2)).transpose(1, 2)
    if block.per_frame:
        y = F.layer_norm(y, y.shape[2:], block.norm.weight, block.norm.bias, block.norm.eps)
    else:
        ends = lengths * block.stride + block.extra
        inside = length_mask(ends, y.shape[1])[..., None].float()
        count = (ends * y.shape[2])[:, None, None].float()
        mean = (y.float() * inside).sum((1, 2), keepdim=True) / count
        deviation = (y.float() - mean) * inside
        variance = deviation.square().sum((1, 2), keepdim=True) / count
        y = block._scale(y, torch.cat((count, mean, variance * count), dim=1)[..., 0])
    return y[:, : y.shape[1] - block.extra]


class HeadGraph(nn.Module):
    """SpectrumHead and InverseSTFT in real numbers: hidden frames -> waveform."""

    weight: Tensor
    bias: Tensor
    squares: Tensor

    def __init__(self, vocoder: Vocoder):
        """The head of any vocoder."""
        super().__init__()
        out, istft = vocoder.head.out, vocoder.head.istft
        self.hop, self.cut = istft.hop_length, istft.cut
        window = istft.window.detach().float()
        self.fourier = Synthesis(window, self.hop)
        bins = self.fourier.bins
        rows = torch.cat((bins, bins + istft.n_fft // 2 + 1))  # of magnitudes and of phases
        self.register_buffer("weight", out.weight.detach()[rows])
        self.register_buffer("bias", out.bias.detach()[rows, None])
        missing = self.fourier.num_hops * self.hop - istft.n_fft
        self.register_buffer("squares", F.pad(window.square(), (0, missing)).unflatten(0, (-1, self.hop)))

    def overlap_add(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Frames x [B, M, D], valid [B or 1, M] -> signal and envelope [B or 1, (M + r - 1) hop], not yet divided."""
        magnitude, phase = (self.weight @ x.mT + self.bias).float().chunk(2, dim=1)
        magnitude = magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp() * valid[:, None]
        signal = self.fourier(magnitude * phase.cos(), magnitude * phase.sin())
        num_hops = self.fourier.num_hops
        covering = torch.stack([F.pad(valid, (i, num_hops - 1 - i)) for i in range(num_hops)], dim=-1)
        return signal.flatten(1), (covering @ self.squares).flatten(1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames x [B, M, D], mel frames [B] -> [B, M hop]."""
        signal, envelope = self.overlap_add(x, length_mask(lengths, x.shape[1]).float())
        return (signal / envelope.clamp(min=ENVELOPE_FLOOR))[:, self.cut : self.cut + x.shape[1] * self.hop]


class _DecoderParts(nn.Module):
    """What both decoder graphs are made of."""

    def __init__(self, codec: MimoCodec, num_quantizers: int):
        super().__init__()
        self.decoder = codec.require_decoder()
        self.quantizer = QuantizerGraph(codec.quantizer, num_quantizers)
        self.layers = StackGraph(self.decoder.layers)
        self.vocoder = with_stack_graphs(self.decoder.vocoder)
        self.head = HeadGraph(self.decoder.vocoder)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [B, q, T] -> [B, T, D] in the dtype of the decoder."""
        return self.quantizer.decode(codes).to(self.decoder.dconv2.conv.weight.dtype)


class DecoderGraph(_DecoderParts):
    """decoder.onnx: codes -> waveforms."""

    def forward(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, q, T] of the first q codebooks, lengths [B] code frames -> waveform [B, S], samples [B].

        Samples beyond the end of an item are 0.
        """
        decoder = self.decoder
        x, frames = self.dequantize(codes), lengths
        if decoder.pool > 1:
            x, frames = upsample(decoder.dconv1, x, frames), frames * decoder.pool
        x = self.layers(x, frames)
        mel = upsample(decoder.dconv2, decoder.layer_norm(x), frames)
        num_mels = lengths * decoder.mels_per_frame
        waveform = self.head(self.vocoder.hidden(mel, num_mels), num_mels)
        num_samples = num_mels * self.head.hop
        return waveform * length_mask(num_samples, waveform.shape[1]), num_samples


class DecoderStepGraph(_DecoderParts):
    """decoder_step.onnx: a chunk of codes -> as many samples, `delay` samples late, for models that stream exactly.

    The stream is brought to its end by frames after the last one, of any codes, that `num_valid` does not count.
    """

    def initial_state(self) -> State:
        """Named tensors, all zero, that the first step reads; batch 1."""
        return present(self.decoder.initial_state(1))

    def forward(self, codes: Tensor, num_valid: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes [B, q, n] -> waveform [B, n samples_per_frame] and the new state.

        num_valid []: how many of the n frames belong to the stream. Sample i of the first chunk is number i - delay of
        the stream; those before 0 are silence.
        """
        decoder, start = self.decoder, state["num_frames"]
        x, new_state = self.dequantize(codes), {"num_frames": after(start, codes.shape[2])}
        if decoder.pool > 1:
            x, part = _step_upsample(decoder.dconv1, x, scoped(state, "dconv1"))
            new_state |= scope(part, "dconv1")
        first = start * decoder.pool
        x, part = self.layers.step(x, scoped(state, "layers"), first, after(first, x.shape[1]))
        new_state |= scope(part, "layers")
        mel, part = _step_upsample(decoder.dconv2, decoder.layer_norm(x), scoped(state, "dconv2"))
        new_state |= scope(part, "dconv2")
        first, end = start * decoder.mels_per_frame, (start + num_valid) * decoder.mels_per_frame
        waveform, part = self._step_vocoder(mel, scoped(state, "vocoder"), first, end)
        return waveform, new_state | scope(part, "vocoder")

    def _step_vocoder(self, mel: Tensor, state: State, start: Tensor, end: Tensor) -> tuple[Tensor, State]:
        hidden, part = self.vocoder.step_hidden(mel, scoped(state, "layers"), start, end)
        positions = start - self.vocoder.look_ahead + torch.arange(mel.shape[1], device=mel.device)
        valid = ((positions >= 0) & (positions < end)).float().expand(mel.shape[0], -1)
        parts = self.head.overlap_add(hidden, valid)
        signal, envelope = (
            torch.cat((new[:, : old.shape[1]] + old, new[:, old.shape[1] :]), dim=1)
            for new, old in zip(parts, (state["signal"], state["envelope"]), strict=True)
        )
        done = mel.shape[1] * self.head.hop
        waveform = signal[:, :done] / envelope[:, :done].clamp(min=ENVELOPE_FLOOR)
        return waveform, {"signal": signal[:, done:], "envelope": envelope[:, done:], **scope(part, "layers")}


def _step_upsample(block: UpsampleConv, x: Tensor, state: State) -> tuple[Tensor, State]:
    """UpsampleConv.step with norms of each frame."""
    joined = torch.cat((state["x"], x), dim=1) if block.extra else x
    y = block.conv(joined.transpose(1, 2)).transpose(1, 2)
    y = y[:, (joined.shape[1] - x.shape[1]) * block.stride : joined.shape[1] * block.stride]
    y = F.layer_norm(y, y.shape[2:], block.norm.weight, block.norm.bias, block.norm.eps)
    return y, {"x": joined[:, x.shape[1] :]} if block.extra else {}
