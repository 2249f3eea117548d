"""MimoCodec: speech <-> codes, at once, in batches and as streams."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mimo_codec.audio.files import check_waveform, iter_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.codec.base import BLOCK_SECONDS, check_batch, check_fit, decode_stream, groups, with_last
from mimo_codec.codec.checkpoint import find_checkpoint, load_state, read_tensors, save_checkpoint
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.decoder import Decoder
from mimo_codec.codec.encoder import Encoder
from mimo_codec.codec.mel import LogMel
from mimo_codec.codec.quantizer import make_quantizer
from mimo_codec.codec.transformer import State, scope, scoped
from mimo_codec.codes import MAX_MODEL_LENGTH, AudioCodes
from mimo_codec.common.errors import MimoError

AudioLike = str | os.PathLike[str] | np.ndarray | Tensor
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MimoCodec(nn.Module):
    """A neural speech codec of the MiMo-Audio-Tokenizer family (arXiv 2512.23808, section 2.1).

    `MimoCodec(config)` has random weights; `MimoCodec.from_pretrained(...)` loads a trained model.
    """

    def __init__(self, config: CodecConfig, *, decoder: bool = True):
        """decoder: False for an encoder-only model, which encodes but cannot decode."""
        super().__init__()
        self.config = config
        self.name = "custom"
        self.mel = LogMel(config.mel)
        self.encoder = Encoder(config)
        self.quantizer = make_quantizer(config.quantizer, config.d_model)
        self.decoder = Decoder(config) if decoder else None

    # ---- loading and saving --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "nano",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
    ) -> MimoCodec:
        """Load a model, in evaluation mode.

        name_or_path: a shipped name ("nano"), a folder with config.json and safetensors, or a Hugging Face hub id.
        device: None for CUDA where there is one, else the CPU. dtype: of encoder and decoder, float32 (None),
        bfloat16 or float16; quantization is float32 always. revision: of a hub repository.
        Raises MimoError for unknown names, unreadable or unsupported configurations, and weights that do not fit
        (every missing, unexpected or wrongly shaped tensor is named).
        """
        wanted = check_dtype(dtype)
        place = check_device(device)
        folder, name = find_checkpoint(name_or_path, revision)
        config = CodecConfig.load(folder / "config.json")
        tensors = read_tensors(folder, wanted)
        has_decoder = any(key.startswith("decoder.") for key in tensors)
        with torch.device("meta"):  # the weights are assigned, so never exist twice
            codec = cls(config, decoder=has_decoder)
        codec.mel = LogMel(config.mel)
        codec.quantizer = make_quantizer(config.quantizer, config.d_model)
        load_state(codec, tensors, folder)
        codec.name = name
        return codec.to(place).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, training state included, as the released code reads them."""
        save_checkpoint(folder, self.config, self.state_dict())

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms it works on."""
        return self.config.mel.sample_rate

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.config.frame_rate

    @property
    def num_quantizers(self) -> int:
        """Codebooks."""
        return self.config.quantizer.num_quantizers

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return self.config.codebook_sizes

    @property
    def device(self) -> torch.device:
        return self.encoder.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.conv1.weight.dtype

    @property
    def model_id(self) -> str:
        """ "name@fingerprint": what the codes of this model are marked with. The fingerprint names its codebooks."""
        clean = "".join(c if c.isprintable() and c.isascii() else "_" for c in self.name)
        return f"{clean[: MAX_MODEL_LENGTH - 9] or 'custom'}@{self.quantizer.fingerprint()}"

    @property
    def encode_latency(self) -> float:
        """Seconds from the first sample of a frame to its code: the frame itself and the front end's look-ahead.

        Encoders that are not causal need a whole segment (`segment_seconds`).
        """
        c = self.config
        if not c.streams_encode:
            return float(c.segment_seconds or 0)
        look_ahead = (2 - c.encoder.stride) * c.mel.hop_length + c.mel.n_fft // 2
        return (c.samples_per_frame + look_ahead) / c.mel.sample_rate

    @property
    def decode_latency(self) -> float:
        """Seconds from the start of a code frame to the last of its samples that `decode_chunk` can return at once:
        the frame itself, the vocoder's look-ahead and the overlap of the inverse STFT."""
        return (self.config.samples_per_frame + self.require_decoder().vocoder.delay) / self.sample_rate

    def require_decoder(self) -> Decoder:
        """The decoder; MimoError for a model that has none."""
        if self.decoder is None:
            raise MimoError(f"{self.name}: this checkpoint holds an encoder only (no decoder.*), it cannot decode")
        return self.decoder

    # ---- the steps -----------------------------------------------------------------------------------------------

    def log_mel(self, waveform: np.ndarray | Tensor) -> Tensor:
        """waveform [S] at `sample_rate` -> log-mel [M, n_mels] float32, M = 1 + S // hop_length."""
        return self.mel(self._own(waveform)[None])[0]

    def features(self, waveform: np.ndarray | Tensor) -> Tensor:
        """waveform [S] at `sample_rate` -> encoder output [T, D], before quantization."""
        return torch.cat(list(self._features([self._own(waveform)])), dim=1)[0]

    def quantize(self, features: np.ndarray | Tensor, num_quantizers: int = 8) -> Tensor:
        """features [T, D] -> codes [Q, T] int64 of the first `num_quantizers` codebooks."""
        features = torch.as_tensor(features)
        if features.ndim != 2 or features.shape[1] != self.config.d_model:
            raise MimoError(f"features: has shape {list(features.shape)}; [T, {self.config.d_model}] is needed")
        return self.quantizer.encode(features.to(self.device), num_quantizers)

    def dequantize(self, codes: Tensor | AudioCodes) -> Tensor:
        """codes [Q, T] -> quantized [T, D] float32, the sum of the chosen codebook entries."""
        return self.quantizer.decode(self._code_tensor(codes))

    def _own(self, waveform: np.ndarray | Tensor) -> Tensor:
        return check_waveform(waveform, self.sample_rate).to(self.device)

    # ---- encode --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, audio: AudioLike, sample_rate: int | None = None, num_quantizers: int = 8) -> AudioCodes:
        """Speech -> AudioCodes with the first `num_quantizers` codebooks.

        audio: path of a file, or array or tensor [S] or [channels, S] with its `sample_rate` (Hz); channels are
        averaged, other rates resampled. Files are read in blocks, so memory does not grow with their length.
        Models with `segment_seconds` code longer audio in independent segments (released models: 60 s).
        Raises MimoError for unreadable files, bad arrays, and more codebooks than the model has.
        """
        self.quantizer.check_count(num_quantizers)
        num_samples = 0

        def counted() -> Iterator[Tensor]:
            nonlocal num_samples
            for block in self._blocks(audio, sample_rate):
                num_samples += len(block)
                yield block.to(self.device)

        codes = [self.quantizer.encode(f[0], num_quantizers).cpu() for f in self._features(counted())]
        return self._wrap(torch.cat(codes, dim=1), num_samples)

    def _blocks(self, audio: AudioLike, sample_rate: int | None, where: str = "audio") -> Iterator[Tensor]:
        """Blocks [S] float32 at the codec's rate."""
        if isinstance(audio, (str, os.PathLike)):
            yield from iter_audio(audio, BLOCK_SECONDS, self.sample_rate)
            return
        waveform = check_waveform(audio, sample_rate, where)
        assert sample_rate is not None
        yield from resample(waveform, sample_rate, self.sample_rate).split(round(BLOCK_SECONDS * self.sample_rate))

    def _features(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Blocks of one waveform -> features [1, n, D], in as many pieces as bounded memory needs."""
        if self.config.segment_frames is None:
            yield from self._stream_features(blocks)
            return
        segment = self.config.segment_frames * self.config.mels_per_frame
        state = self.mel.initial_state(1)
        waiting = torch.zeros(1, 0, self.config.mel.n_mels, device=self.device)
        for block, last in with_last(blocks):
            mel, state = self.mel.step(block[None], state, last)
            waiting = torch.cat((waiting, mel), dim=1)
            while waiting.shape[1] >= segment or (last and waiting.shape[1] > 0):
                yield self.encoder(waiting[:, :segment].to(self.dtype))
                waiting = waiting[:, segment:]

    def _stream_features(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        mel_state, state = self.mel.initial_state(1), self.encoder.initial_state(1)
        for block, last in with_last(blocks):
            mel, mel_state = self.mel.step(block[None], mel_state, last)
            features, state = self.encoder.step(mel, state, last)
            yield features

    @torch.no_grad()
    def encode_batch(
        self,
        audio: Sequence[AudioLike],
        sample_rate: int | Sequence[int] | None = None,
        num_quantizers: int = 8,
        *,
        batch_seconds: float = 120.0,
    ) -> list[AudioCodes]:
        """`encode` of several items at once; each gives what it gives alone.

        Models in bfloat16 or float16 round differently in a batch, so there the items go one by one.
        sample_rate: one for all arrays, or one per item. batch_seconds: most audio, padding included, that goes
        through the model at a time; items longer than a segment (or a minute) go alone.
        """
        self.quantizer.check_count(num_quantizers)
        check_batch("audio", audio, batch_seconds)
        if isinstance(sample_rate, (np.ndarray, Tensor)):
            sample_rate = sample_rate.tolist()
        rates = sample_rate if isinstance(sample_rate, Sequence) else [sample_rate] * len(audio)
        if len(rates) != len(audio):
            raise MimoError(f"sample_rate: {len(rates)} rates were given for {len(audio)} items")
        results: dict[int, AudioCodes] = {}
        short: dict[int, Tensor] = {}
        for i, (item, rate) in enumerate(zip(audio, rates, strict=True)):
            waveform = torch.cat(list(self._blocks(item, rate, f"audio[{i}]")))
            if len(waveform) < self._longest_batched and self.dtype == torch.float32:
                short[i] = waveform
            else:
                results[i] = self.encode(waveform, self.sample_rate, num_quantizers)
        for indices in groups({i: len(w) for i, w in short.items()}, batch_seconds * self.sample_rate):
            mels = [self.mel(short[i][None].to(self.device))[0] for i in indices]
            lengths = torch.tensor([len(m) for m in mels], device=self.device)
            features = self.encoder(pad_sequence(mels, batch_first=True).to(self.dtype), lengths)
            for i, feature in zip(indices, features, strict=True):
                feature = feature[: self.config.num_frames(len(short[i]))]
                codes = self.quantizer.encode(feature, num_quantizers).cpu()
                results[i] = self._wrap(codes, len(short[i]))
        return [results[i] for i in range(len(audio))]

    @property
    def _longest_batched(self) -> int:
        """Samples from which on audio is encoded alone."""
        return round((self.config.segment_seconds or 60) * self.sample_rate)

    def _wrap(self, codes: Tensor, num_samples: int) -> AudioCodes:
        sizes = self.codebook_sizes[: codes.shape[0]]
        return AudioCodes(codes, num_samples, self.sample_rate, self.frame_rate, sizes, self.model_id)

    @torch.no_grad()
    def encode_chunk(
        self,
        waveform: np.ndarray | Tensor,
        state: State | None = None,
        last: bool = False,
        *,
        num_quantizers: int = 8,
    ) -> tuple[Tensor, State]:
        """Streaming encode, for models with a causal encoder: (codes [Q, n], state).

        waveform: the next samples [S] at `sample_rate`, any number of them, none included.
        state: what the previous call returned, None at the start. last: the stream ends with this chunk; the next
        stream starts with None. All codes together are those of `encode` (none of a stream without samples); each
        comes at most `encode_latency` seconds after its first sample.
        Raises MimoError when the encoder is not causal.
        """
        if not self.config.streams_encode:
            raise MimoError(f"{self.name}: its encoder is not causal, so it cannot encode a stream; use encode()")
        self.quantizer.check_count(num_quantizers)
        is_empty = isinstance(waveform, (np.ndarray, Tensor)) and tuple(waveform.shape) == (0,)
        chunk = torch.zeros(0, device=self.device) if is_empty else self._own(waveform)
        initial = self._initial_encode_state()
        state = initial if state is None else _check_state(state, initial, "encode_chunk")
        mel, mel_state = self.mel.step(chunk[None], scoped(state, "mel"), last)
        encoder = scoped(state, "encoder")
        segment = self.config.segment_frames
        features = []
        if segment is not None:  # every segment is encoded as if it were alone
            num_mels = int(state["num_mels"])
            while num_mels + mel.shape[1] >= segment * self.config.mels_per_frame:
                cut = segment * self.config.mels_per_frame - num_mels
                features.append(self.encoder.step(mel[:, :cut].to(self.dtype), encoder, last=True)[0])
                mel, num_mels, encoder = mel[:, cut:], 0, self.encoder.initial_state(1)
            state = {**state, "num_mels": torch.tensor(num_mels + mel.shape[1])}
        piece, encoder = self.encoder.step(mel.to(self.dtype), encoder, last)
        codes = self.quantizer.encode(torch.cat([*features, piece], dim=1)[0], num_quantizers)
        return codes, {"num_mels": state["num_mels"], **scope(mel_state, "mel"), **scope(encoder, "encoder")}

    def _initial_encode_state(self) -> State:
        mel, encoder = self.mel.initial_state(1), self.encoder.initial_state(1)
        return {"num_mels": torch.zeros((), dtype=torch.int64), **scope(mel, "mel"), **scope(encoder, "encoder")}

    # ---- decode --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, codes: AudioCodes | Tensor) -> Tensor:
        """AudioCodes -> waveform [S] float32 on the CPU, of the original length; any prefix of the codebooks.

        A bare tensor or array [Q, T] decodes to all samples of its T frames. Long codes are decoded in chunks: with
        models that stream exactly the result is that of decoding at once, the others decode independent segments.
        Raises MimoError for codes of another model, out of range or of a wrong shape, and without a decoder.
        """
        return torch.cat([piece.cpu() for piece in self.decode_pieces(codes)])

    @torch.no_grad()
    def decode_pieces(self, codes: AudioCodes | Tensor) -> Iterator[Tensor]:
        """What `decode` gives, piece by piece as it is asked for, so that memory does not grow with the length.

        Yields waveforms [S] float32 on this model's device; raises what `decode` does.
        """
        wrapped = self._as_codes(codes)
        remaining = wrapped.num_samples
        for piece in self._whole_pieces(self._code_tensor(wrapped)):
            yield piece[:remaining]
            remaining -= min(len(piece), remaining)

    def _whole_pieces(self, ids: Tensor) -> Iterator[Tensor]:
        """Codes [Q, T] -> waveforms [S] of all their frames."""
        decoder = self.require_decoder()
        size = self.config.segment_frames or round(BLOCK_SECONDS * self.frame_rate)
        state: State | None = None
        for piece, last in with_last(ids.split(size, dim=1)):
            if self.config.segment_frames is None:
                waveform, state = self.decode_chunk(piece, state, last)
                yield waveform
            else:
                yield decoder(self.quantizer.decode(piece)[None].to(self.dtype))[0]

    @torch.no_grad()
    def decode_batch(self, codes: Sequence[AudioCodes | Tensor], *, batch_seconds: float = 120.0) -> list[Tensor]:
        """`decode` of several items at once; each gives what it gives alone, however many codebooks it has.

        Models in bfloat16 or float16 round differently in a batch, so there the items go one by one.
        """
        decoder = self.require_decoder()
        check_batch("codes", codes, batch_seconds)
        wrapped = [self._as_codes(item) for item in codes]
        longest = self.config.segment_frames or round(60 * self.frame_rate)
        longest = longest if self.dtype == torch.float32 else 0
        results = {i: self.decode(item) for i, item in enumerate(wrapped) if item.num_frames > longest}
        short = {i: item.num_frames for i, item in enumerate(wrapped) if i not in results}
        for indices in groups(short, batch_seconds * self.frame_rate):
            rows = [self.quantizer.decode(self._code_tensor(wrapped[i])) for i in indices]
            lengths = torch.tensor([len(r) for r in rows], device=self.device)
            waveforms = decoder(pad_sequence(rows, batch_first=True).to(self.dtype), lengths).cpu()
            results.update({i: w[: wrapped[i].num_samples] for i, w in zip(indices, waveforms, strict=True)})
        return [results[i] for i in range(len(wrapped))]

    @torch.no_grad()
    def decode_chunk(
        self, codes: Tensor | AudioCodes, state: State | None = None, last: bool = False
    ) -> tuple[Tensor, State]:
        """Streaming decode: the next codes [Q, n] -> (waveform [S] float32, state), a dictionary of named tensors.

        state: what the previous call returned, None at the start. last: the stream ends with this chunk, which may be
        empty ([Q, 0]); the next stream starts with None. Every call returns the samples that are complete; all
        together are those of `decode`.

        Models with per-frame norms and windowed attention (nano) stream exactly. The released models normalise over
        whole sequences: here their norms use the statistics of the stream so far, and segments of `segment_seconds`
        are independent as in `decode`. On the two golden checkpoints (rms 0.06, chunks of 0.2 s) the result differs
        from `decode` by at most 0.021 in the first second, 0.005 in the second, 0.002 up to the fourth and less than
        0.001 after the eighth.
        """
        decoder = self.require_decoder()
        if (
            any(window[1] != 0 for window in self.config.decoder.layer_windows())
            or self.config.vocoder.look_ahead is None
        ):
            raise MimoError(f"{self.name}: its decoder needs the whole future, so it cannot decode a stream")
        ids = self._code_tensor(codes)
        initial = decoder.initial_state(1)
        state = initial if state is None else _check_state(state, initial, "decode_chunk")
        pieces = []
        segment = self.config.segment_frames
        while segment is not None and int(state["num_frames"]) + ids.shape[1] >= segment:
            cut = segment - int(state["num_frames"])
            pieces.append(decoder.step(self._quantized(ids[:, :cut]), state, last=True)[0])
            ids, state = ids[:, cut:], decoder.initial_state(1)
        if ids.shape[1] or (last and int(state["num_frames"])):
            piece, state = decoder.step(self._quantized(ids), state, last)
            pieces.append(piece)
        empty = torch.zeros(1, 0, device=self.device)
        return torch.cat([empty, *pieces], dim=1)[0], state

    def decode_stream(self, codes: Iterable[Tensor | AudioCodes]) -> Iterator[Tensor]:
        """Chunks of codes [Q, n] (or AudioCodes) as they come -> waveforms [S] as soon as they are complete.

        The original length is known only of AudioCodes: one that ends inside a frame ends the stream there.
        """
        return decode_stream(codes, self._code_tensor, self.decode_chunk, self.config.samples_per_frame)

    def _quantized(self, ids: Tensor) -> Tensor:
        return self.quantizer.decode(ids)[None].to(self.dtype)

    def _as_codes(self, codes: AudioCodes | Tensor) -> AudioCodes:
        if isinstance(codes, AudioCodes):
            return codes
        self._check_array(codes)
        num_quantizers, num_frames = codes.shape
        num_samples = max(num_frames, 1) * self.config.samples_per_frame
        return AudioCodes(codes, num_samples, self.sample_rate, self.frame_rate, self.codebook_sizes[:num_quantizers])

    def _check_array(self, codes: object) -> None:
        """MimoError unless these are codes [Q, T] of at most as many codebooks as this model has."""
        if not isinstance(codes, (np.ndarray, Tensor)):
            kind = type(codes).__name__
            raise MimoError(f"codes: is a {kind}; AudioCodes, or a tensor or array [Q, T] of integers is needed")
        if codes.ndim != 2:
            raise MimoError(f"codes: has shape {list(codes.shape)}; [Q, T] is needed")
        self.quantizer.check_count(codes.shape[0])

    def _code_tensor(self, codes: AudioCodes | Tensor) -> Tensor:
        """Checked codes [Q, T] int64 on this device; MimoError when they do not belong to this model."""
        if not isinstance(codes, AudioCodes) and tuple(getattr(codes, "shape", ()))[1:] == (0,):
            self._check_array(codes)  # AudioCodes are never empty, a chunk of a stream may be
            return torch.zeros(codes.shape, dtype=torch.int64, device=self.device)
        codes = self._as_codes(codes)
        check_fit(codes, self.model_id, self.codebook_sizes, self.sample_rate, self.frame_rate)
        ids = codes.codes if isinstance(codes.codes, Tensor) else torch.from_numpy(codes.to_numpy())
        return ids.to(self.device)


def check_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The torch.dtype of weights meant by a name, None for float32; MimoError for what weights cannot be."""
    known = DTYPES | {str(value): value for value in DTYPES.values()}
    name = "float32" if dtype is None else str(dtype)
    if name not in known:
        raise MimoError(f"dtype: {dtype!r} is not supported: float32, bfloat16 or float16")
    return known[name]


def check_device(device: str | torch.device | None) -> torch.device:
    """The device meant by a name, None for CUDA where there is one; MimoError for what cannot be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MimoError(f"device: {device!s} cannot be used ({reason})") from None
    return torch.device(device)


def _check_state(state: object, initial: State, function: str) -> State:
    if not isinstance(state, dict) or state.keys() != initial.keys():
        raise MimoError(f"state: is not what {function} of this model returned; None starts a new stream")
    return state
