"""OnnxCodec: what MimoCodec does, by ONNX Runtime, without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mimo_codec.audio.files import check_array, iter_arrays
from mimo_codec.audio.resampling import resample
from mimo_codec.codec.base import BLOCK_SECONDS, check_batch, check_fit, decode_stream, groups, with_last
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codes import AudioCodes
from mimo_codec.common.checks import check_count
from mimo_codec.common.errors import MimoError
from mimo_codec.onnx.session import Provider, Session

AudioLike = str | os.PathLike[str] | np.ndarray
State = dict[str, Any]
MAX_LEVEL = 1e12
UNKNOWN = 2**40
"""Mel frames of a stream whose end is not known."""


class OnnxCodec:
    """An exported codec: the methods and results of MimoCodec, with numpy arrays instead of tensors."""

    def __init__(
        self,
        folder: str | Path,
        providers: Sequence[Provider] | None = None,
        *,
        num_threads: int | None = None,
        cuda_graphs: bool = False,
    ):
        """folder: what `mimo-codec export codec` wrote. providers: of ONNX Runtime, such as ["cuda"], or with its
        options: [("cuda", {"device_id": 1})]; None: TensorRT, CUDA or CPU, the first that works. num_threads: on the
        CPU. cuda_graphs: record the chunks of streams as CUDA graphs, one for each size of chunk, and replay them; on
        the first GPU, from one thread at a time, and not yet tried on a GPU.

        Graphs are loaded when they are first needed. Raises MimoError for a folder without encoder.onnx, and for
        cuda_graphs without CUDA.
        """
        self.folder, self._providers, self._num_threads = Path(folder), providers, num_threads
        self._cuda_graphs = cuda_graphs
        self._sessions: dict[str, Session] = {}
        self.metadata = self._session("encoder").metadata
        self.config = CodecConfig.from_dict(self.metadata["config"])
        self.model_id: str = self.metadata["model_id"]

    def _session(self, name: str) -> Session:
        """MimoError for graphs of different models, and for those that are not what the file is called."""
        if name not in self._sessions:
            path = self.folder / f"{name}.onnx"
            session = Session(path, self._providers, self._num_threads, self._cuda_graphs)
            if session.metadata.get("graph") != name:
                raise MimoError(f"{path}: is no {name} of a codec: a file of another graph has its name")
            for other in self._sessions.values():
                if other.metadata["export_id"] != session.metadata["export_id"]:
                    raise MimoError(f"{session.path}: is of another export than {other.path.name}: export both at once")
            self._sessions[name] = session
        return self._sessions[name]

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the codec that was exported, and the precision: nano-int8."""
        return f"{self.model_id.rpartition('@')[0]}-{self.metadata['dtype']}"

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
        """Codebooks that were exported."""
        return int(self.metadata["num_quantizers"])

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return self.config.codebook_sizes[: self.num_quantizers]

    @property
    def _batches(self) -> bool:
        """Whether an item of a batch gives exactly what it gives alone."""
        return bool(self.metadata["dtype"] == "float32")

    # ---- encode --------------------------------------------------------------------------------------------------

    def encode(self, audio: AudioLike, sample_rate: int | None = None, num_quantizers: int | None = None) -> AudioCodes:
        """Speech -> AudioCodes with the first `num_quantizers` codebooks (None: 8, or all if there are fewer).

        audio: path of a file, or array [S] or [channels, S] with its `sample_rate`; as in MimoCodec.encode.
        """
        count = self._count(num_quantizers)
        num_samples = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal num_samples
            for block in self._blocks(audio, sample_rate):
                num_samples += len(block)
                yield block

        codes = np.concatenate(list(self._codes(counted())), axis=1)
        return self._wrap(codes[:count], num_samples)

    def _count(self, num_quantizers: int | None) -> int:
        if num_quantizers is None:
            return min(8, self.num_quantizers)
        check_count(num_quantizers, self.num_quantizers)
        return num_quantizers

    def _blocks(self, audio: AudioLike, sample_rate: int | None, where: str = "audio") -> Iterator[np.ndarray]:
        """Blocks [S] float32 at the codec's rate."""
        if isinstance(audio, (str, os.PathLike)):
            for block in iter_arrays(audio, BLOCK_SECONDS, self.sample_rate):
                yield _check_level(block, str(audio))
            return
        waveform = _check_level(check_array(audio, sample_rate, where), where)
        assert sample_rate is not None
        waveform = resample(waveform, sample_rate, self.sample_rate)
        size = round(BLOCK_SECONDS * self.sample_rate)
        for start in range(0, len(waveform), size):
            yield waveform[start : start + size]

    def _codes(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks of one waveform -> codes [Q, n], in as many pieces as bounded memory needs."""
        if self.config.segment_frames is not None:
            yield from self._segment_codes(blocks)
            return
        if "encoder_step" not in self.metadata["graphs"]:  # left out at export: at once, whatever memory that takes
            yield self._run_encoder(np.concatenate(list(blocks)))
            return
        state: State | None = None
        for block, last in with_last(blocks):
            if last and state is None:
                yield self._run_encoder(block)
            else:
                codes, state = self.encode_chunk(block, state, last, num_quantizers=self.num_quantizers)
                yield codes

    def _segment_codes(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Segments are coded each for itself, but their mel frames are those of the whole waveform."""
        hop, pad = self.config.mel.hop_length, self.config.mel.n_fft // 2
        assert self.config.segment_frames is not None
        segment = self.config.segment_frames * self.config.mels_per_frame * hop
        samples, before = np.zeros(0, np.float32), 0
        for block, last in with_last(blocks):
            samples = np.concatenate((samples, block))
            while len(samples) - before >= segment + (0 if last else pad):
                part = samples[: before + segment + pad]
                yield self._run_encoder(part, before, len(part) - before - (segment - hop))
                samples, before = samples[before + segment - pad - 1 :], pad + 1  # enough to reflect around its end
        yield self._run_encoder(samples, before)

    def _run_encoder(self, waveform: np.ndarray, before: int = 0, after: int = 0) -> np.ndarray:
        """One waveform [S] -> codes [Q, T]; before, after: samples that only surround it."""
        context = np.array([before, after], dtype=np.int64)
        inputs = {"waveform": waveform[None], "lengths": np.array([len(waveform)]), "context": context}
        found = self._session("encoder").run(inputs)
        return found["codes"][0, :, : int(found["num_frames"][0])]

    def encode_batch(
        self,
        audio: Sequence[AudioLike],
        sample_rate: int | Sequence[int] | None = None,
        num_quantizers: int | None = None,
        *,
        batch_seconds: float = 120.0,
    ) -> list[AudioCodes]:
        """`encode` of several items at once, as MimoCodec.encode_batch."""
        count = self._count(num_quantizers)
        check_batch("audio", audio, batch_seconds)
        if isinstance(sample_rate, np.ndarray):
            sample_rate = sample_rate.tolist()
        rates = sample_rate if isinstance(sample_rate, Sequence) else [sample_rate] * len(audio)
        if len(rates) != len(audio):
            raise MimoError(f"sample_rate: {len(rates)} rates were given for {len(audio)} items")
        results: dict[int, AudioCodes] = {}
        short: dict[int, np.ndarray] = {}
        longest = round((self.config.segment_seconds or 60) * self.sample_rate)
        for i, (item, rate) in enumerate(zip(audio, rates, strict=True)):
            waveform = np.concatenate(list(self._blocks(item, rate, f"audio[{i}]")))
            if len(waveform) < longest and self._batches:
                short[i] = waveform
            else:
                results[i] = self.encode(waveform, self.sample_rate, count)
        for indices in groups({i: len(w) for i, w in short.items()}, batch_seconds * self.sample_rate):
            lengths = np.array([len(short[i]) for i in indices])
            padded = np.stack([np.pad(short[i], (0, lengths.max() - len(short[i]))) for i in indices])
            context = np.zeros(2, np.int64)
            found = self._session("encoder").run({"waveform": padded, "lengths": lengths, "context": context})
            for i, codes, num_frames in zip(indices, found["codes"], found["num_frames"], strict=True):
                results[i] = self._wrap(codes[:count, :num_frames], len(short[i]))
        return [results[i] for i in range(len(audio))]

    def _wrap(self, codes: np.ndarray, num_samples: int) -> AudioCodes:
        sizes = self.codebook_sizes[: codes.shape[0]]
        return AudioCodes(codes, num_samples, self.sample_rate, self.frame_rate, sizes, self.model_id)

    def encode_chunk(
        self, waveform: np.ndarray, state: State | None = None, last: bool = False, *, num_quantizers: int | None = None
    ) -> tuple[np.ndarray, State]:
        """Streaming encode, as MimoCodec.encode_chunk: the next samples [S] -> (codes [Q, n], state)."""
        if "encoder_step" not in self.metadata["graphs"]:
            raise MimoError(f"{self.model_id}: its encoder was exported without steps, or cannot stream; use encode()")
        count = self._count(num_quantizers)
        is_empty = isinstance(waveform, np.ndarray) and waveform.shape == (0,)
        chunk = np.zeros(0, np.float32) if is_empty else _check_level(check_array(waveform, self.sample_rate), "audio")
        stream = _Stream(self.config, state)
        ready = stream.push(chunk, last)
        if ready is None:
            return np.zeros((count, 0), np.int64), stream.state
        session = self._session("encoder_step")
        caches = stream.caches or session.initial_state()
        _check_caches(session, caches, "encode_chunk")
        num_mels = np.array(stream.num_mels if last else UNKNOWN)
        found = session.run({"waveform": ready[None], "num_mels": num_mels, **caches})
        codes = found.pop("codes")[0]
        stream.state["caches"] = found
        return codes[:count], stream.state

    # ---- decode --------------------------------------------------------------------------------------------------

    def decode(self, codes: AudioCodes | np.ndarray) -> np.ndarray:
        """AudioCodes, or an array [Q, T] -> waveform [S] float32, as MimoCodec.decode."""
        wrapped = self._as_codes(codes)
        pieces = list(self._pieces(self._array(wrapped)))
        return np.concatenate(pieces)[: wrapped.num_samples]

    def _pieces(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        segment = self.config.segment_frames
        if segment is None and "decoder_step" not in self.metadata["graphs"]:
            segment = ids.shape[1]  # left out at export: at once, whatever memory that takes
        size = segment or round(BLOCK_SECONDS * self.frame_rate)
        if segment is not None or ids.shape[1] <= size:
            for start in range(0, ids.shape[1], size):
                piece = ids[:, start : start + size]
                yield self._run_decoder(piece[None], [piece.shape[1]])[0]
            return
        state: State | None = None
        for start in range(0, ids.shape[1], size):
            waveform, state = self.decode_chunk(ids[:, start : start + size], state, start + size >= ids.shape[1])
            yield waveform

    def _run_decoder(self, codes: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """Codes [B, q, T] -> waveforms [B, S]."""
        self._require("decoder")
        return self._session("decoder").run({"codes": codes, "lengths": np.array(lengths)})["waveform"]

    def _require(self, name: str) -> None:
        """MimoError for a model that has no decoder."""
        if name not in self.metadata["graphs"]:
            raise MimoError(f"{self.model_id}: this model was exported without {name}.onnx: it is an encoder only")

    def decode_batch(
        self, codes: Sequence[AudioCodes | np.ndarray], *, batch_seconds: float = 120.0
    ) -> list[np.ndarray]:
        """`decode` of several items at once, as MimoCodec.decode_batch."""
        check_batch("codes", codes, batch_seconds)
        wrapped = [self._as_codes(item) for item in codes]
        longest = (self.config.segment_frames or round(60 * self.frame_rate)) if self._batches else 0
        results = {i: self.decode(item) for i, item in enumerate(wrapped) if item.num_frames > longest}
        for count in {item.num_quantizers for item in wrapped}:
            short = {
                i: item.num_frames
                for i, item in enumerate(wrapped)
                if i not in results and item.num_quantizers == count
            }
            for indices in groups(short, batch_seconds * self.frame_rate):
                rows = [self._array(wrapped[i]) for i in indices]
                lengths = [row.shape[1] for row in rows]
                padded = np.stack([np.pad(row, ((0, 0), (0, max(lengths) - row.shape[1]))) for row in rows])
                waveforms = self._run_decoder(padded, lengths)
                results |= {i: w[: wrapped[i].num_samples] for i, w in zip(indices, waveforms, strict=True)}
        return [results[i] for i in range(len(wrapped))]

    def decode_chunk(
        self, codes: AudioCodes | np.ndarray, state: State | None = None, last: bool = False
    ) -> tuple[np.ndarray, State]:
        """Streaming decode, as MimoCodec.decode_chunk: the next codes [Q, n] -> (waveform [S] float32, state)."""
        self._require("decoder")
        if "decoder_step" not in self.metadata["graphs"]:
            raise MimoError(f"{self.model_id}: its decoder was exported without steps, or cannot stream; use decode()")
        ids, delay = self._array(codes), int(self.metadata["decode_delay"])
        session, size = self._session("decoder_step"), self.config.samples_per_frame
        state = _check_state(state, {"done": 0, "caches": session.initial_state()}, "decode_chunk")
        _check_caches(session, state["caches"], "decode_chunk")
        done, num_valid = state["done"], ids.shape[1]
        if num_valid == 0 and not (last and done):
            return np.zeros(0, np.float32), state
        if last:
            ids = np.pad(ids, ((0, 0), (0, -(-delay // size))))
        found = session.run({"codes": ids[None], "num_valid": np.array(num_valid), **state["caches"]})
        waveform, first = found.pop("waveform")[0], done * size - delay
        waveform = waveform[max(-first, 0) :]
        if last:
            waveform = waveform[: (done + num_valid) * size - max(first, 0)]
        return waveform, {"done": done + num_valid, "caches": found}

    def decode_stream(self, codes: Iterable[AudioCodes | np.ndarray]) -> Iterator[np.ndarray]:
        """Chunks of codes as they come -> waveforms [S] as soon as they are complete, as MimoCodec.decode_stream."""
        return decode_stream(codes, self._array, self.decode_chunk, self.config.samples_per_frame)

    def _as_codes(self, codes: AudioCodes | np.ndarray) -> AudioCodes:
        if isinstance(codes, AudioCodes):
            return codes
        if not isinstance(codes, np.ndarray):
            raise MimoError(f"codes: is a {type(codes).__name__}; AudioCodes, or an array [Q, T] of integers is needed")
        if codes.ndim != 2:
            raise MimoError(f"codes: has shape {list(codes.shape)}; [Q, T] is needed")
        check_count(codes.shape[0], self.num_quantizers)
        num_samples = max(codes.shape[1], 1) * self.config.samples_per_frame
        return AudioCodes(codes, num_samples, self.sample_rate, self.frame_rate, self.codebook_sizes[: codes.shape[0]])

    def _array(self, codes: AudioCodes | np.ndarray) -> np.ndarray:
        """Checked codes [Q, T] int64; MimoError when they do not belong to this model."""
        if isinstance(codes, np.ndarray) and codes.ndim == 2 and codes.shape[1] == 0:
            check_count(codes.shape[0], self.num_quantizers)
            return codes.astype(np.int64)
        codes = self._as_codes(codes)
        check_count(codes.num_quantizers, self.num_quantizers)
        check_fit(codes, self.model_id, self.codebook_sizes, self.sample_rate, self.frame_rate)
        return codes.to_numpy()


def _check_level(waveform: np.ndarray, where: str) -> np.ndarray:
    """MimoError for samples whose spectrum would overflow."""
    if np.abs(waveform).max(initial=0) > MAX_LEVEL:
        raise MimoError(f"{where}: has samples beyond {MAX_LEVEL:g}; full scale is 1")
    return waveform


def _check_state(state: object, initial: State, method: str) -> State:
    """A copy of the state of a stream, `initial` for None; MimoError for anything else."""
    if state is None:
        return initial
    if not isinstance(state, Mapping) or state.keys() != initial.keys():
        raise _foreign_state(method)
    return dict(state)


def _check_caches(session: Session, caches: object, method: str) -> None:
    """MimoError for what is no state of this graph."""
    if not session.is_state(caches):
        raise _foreign_state(method)


def _foreign_state(method: str) -> MimoError:
    return MimoError(f"state: is not what {method} of this model returned; None starts a new stream")


class _Stream:
    """Samples of a stream -> those that the next code frames are made of, reflected at both ends."""

    def __init__(self, config: CodecConfig, state: Mapping[str, Any] | None):
        """state: samples from `(s f - 2) hop - n_fft / 2` on, f the next frame (before the start: from 0 on)."""
        self.hop, self.pad = config.mel.hop_length, config.mel.n_fft // 2
        self.stride, self.pool = config.encoder.stride, config.encoder.pool
        self.num_hops = -(-config.mel.n_fft // self.hop)
        empty = np.zeros(0, np.float32)
        initial: State = {"samples": empty, "num_samples": 0, "num_frames": 0, "started": False, "caches": {}}
        self.state = _check_state(state, initial, "encode_chunk")

    @cached_property
    def num_mels(self) -> int:
        """Of all samples so far, if no more come."""
        return int(1 + self.state["num_samples"] // self.hop)

    @property
    def caches(self) -> Any:
        return self.state["caches"]

    def push(self, chunk: np.ndarray, last: bool) -> np.ndarray | None:
        """The next samples -> what the step graph reads for the frames that are complete; None if there are none."""
        state = self.state
        samples = np.concatenate((state["samples"], chunk))
        state["num_samples"] += len(chunk)
        if state["num_samples"] == 0 or (not state["started"] and len(samples) <= self.pad and not last):
            state["samples"] = samples
            return None
        if not state["started"]:
            samples = np.pad(samples, (0, max(self.pad + 1 - len(samples), 0)))  # too short to reflect: zeros follow
            samples = np.pad(np.pad(samples, (self.pad, 0), mode="reflect"), (2 * self.hop, 0))
            state["started"] = True
        per_frame = self.stride * self.pool
        if last:
            num_hidden = (self.num_mels - 1) // self.stride + 1
            num_ready = -(-num_hidden // self.pool) - state["num_frames"]
        else:
            last_mel = (state["num_samples"] - self.pad) // self.hop
            num_ready = (last_mel - (2 - self.stride)) // per_frame - state["num_frames"]
        if num_ready <= 0:
            state["samples"] = samples
            return None
        size = (per_frame * num_ready + 3 - self.stride + self.num_hops + 1) * self.hop
        if last:
            samples = np.pad(samples, (0, self.pad), mode="reflect")
        taken = samples[:size]
        state["samples"] = samples[num_ready * per_frame * self.hop :]
        state["num_frames"] += num_ready
        return np.pad(taken, (0, size - len(taken)))
