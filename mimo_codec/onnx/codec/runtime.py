"""OnnxCodec: an exported codec by ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mimo_codec.codec.base import Codec, CodecState, Ids, Samples
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.pieces import check_finite, padded
from mimo_codec.codec.streaming import MEL_CONTEXT, as_count, code_frames, mel_look_ahead, scope, scoped
from mimo_codec.common.checks import error_prefix
from mimo_codec.common.errors import MimoError
from mimo_codec.common.rounding import ceil_div
from mimo_codec.onnx.codec.metadata import CodecMetadata
from mimo_codec.onnx.session import Provider, Session, read_metadata

UNKNOWN = 2**40
"""Mel frames of a stream whose end is not known."""


class OnnxCodec(Codec[NDArray[Any]]):
    """A codec that `mimo-codec export codec` wrote: what MimoCodec does, with numpy arrays instead of tensors."""

    def __init__(
        self,
        folder: str | Path,
        providers: Sequence[Provider] | None = None,
        *,
        num_threads: int | None = None,
        cuda_graphs: bool = False,
    ):
        """Load an exported codec; graphs are loaded when they are first needed.

        folder: what `mimo-codec export codec` wrote. providers: of ONNX Runtime, such as ["cuda"], or with its options:
        [("cuda", {"device_id": 1})]; None: TensorRT, CUDA or CPU, the first that works. num_threads: on the CPU.
        cuda_graphs: record the chunks of streams as CUDA graphs, one for each size of chunk, and replay them; on the
        first GPU, from one thread at a time, and not yet tried on a GPU.

        Raises MimoError for a folder without encoder.onnx, and for
        cuda_graphs without CUDA.
        """
        self.folder, self._providers, self._num_threads = Path(folder), providers, num_threads
        self._cuda_graphs = cuda_graphs
        self._sessions: dict[str, Session] = {}
        path = self.folder / "encoder.onnx"
        self.metadata = read_metadata(path)
        with error_prefix(path):
            self._checked = CodecMetadata.from_dict(self.metadata)
        self.config = self._checked.config
        self.name = self.model_id.rpartition("@")[0]
        self._session("encoder")

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the loaded graphs, which another process loads for itself."""
        return {**vars(self), "_sessions": {}}

    def _session(self, name: str) -> Session:
        """MimoError for graphs of different models, and for those that are not what the file is called."""
        if name not in self._sessions:
            path = self.folder / f"{name}.onnx"
            metadata = read_metadata(path)
            if metadata.get("graph") != name:
                raise MimoError(f"{path}: is no {name} of a codec: a file of another graph has its name")
            if metadata != {**self.metadata, "graph": name}:
                raise MimoError(f"{path}: is of another export than encoder.onnx: export both at once")
            self._sessions[name] = Session(path, self._providers, self._num_threads, self._cuda_graphs)
        return self._sessions[name]

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def precision(self) -> str:
        """Precision of the networks: "float32", "float16" or "int8"."""
        return self._checked.dtype

    @property
    def num_quantizers(self) -> int:
        """Number of codebooks that were exported."""
        return self._checked.num_quantizers

    @property
    def model_id(self) -> str:
        """Mark of the codes of the codec that was exported: "name@fingerprint"."""
        return self._checked.model_id

    @property
    def decode_delay(self) -> int | None:
        """Samples by which the output of `decode_chunk` lags behind its input; None without a decoder."""
        return self._checked.decode_delay if "decoder" in self._checked.graphs else None

    @property
    def encodes_streams(self) -> bool:
        """Whether `encode_chunk` is possible: exports of codecs that stream exactly have steps."""
        return "encoder_step" in self._checked.graphs

    @property
    def decodes_streams(self) -> bool:
        """Whether `decode_chunk` is possible: exports of codecs that stream exactly have steps."""
        return "decoder_step" in self._checked.graphs

    @property
    def _batches_exactly(self) -> bool:
        return self.precision == "float32"

    # ---- what the contract is made of ----------------------------------------------------------------------------

    def _encode_items(self, waveforms: Sequence[Samples], count: int, before: int, after: int) -> list[Ids]:
        waveform, lengths = padded(waveforms)
        context = np.array([before, after], np.int64)
        found = self._session("encoder").run({"waveform": waveform, "lengths": lengths, "context": context})
        return [codes[:count, :n] for codes, n in zip(found["codes"], found["num_frames"], strict=True)]

    def _decode_items(self, codes: Ids, lengths: NDArray[np.int64]) -> Samples:
        waveforms: Samples = self._session("decoder").run({"codes": codes, "lengths": lengths})["waveform"]
        return check_finite(waveforms)

    def _initial_encode_state(self) -> CodecState:
        buffer = {"samples": np.zeros((1, 0), np.float32), "num_samples": 0, "num_frames": 0, "started": False}
        return buffer | scope(self._session("encoder_step").initial_state(), "caches")

    def _encode_step(self, chunks: Samples, state: CodecState, last: bool, count: int) -> tuple[Ids, CodecState]:
        caches = scoped(state, "caches")
        buffer, ready = _push(self.config, state, chunks, last)
        codes = np.zeros((len(chunks), count, 0), np.int64)
        if ready is not None:
            num_mels = np.array(_num_mels(self.config, buffer["num_samples"]) if last else UNKNOWN)
            caches = self._session("encoder_step").run({"waveform": ready, "num_mels": num_mels, **caches})
            codes = caches.pop("codes")[:, :count]
        return codes, buffer | scope(caches, "caches")

    def _initial_decode_state(self) -> CodecState:
        return {"num_frames": 0, **scope(self._session("decoder_step").initial_state(), "caches")}

    def _decode_step(self, codes: Ids, state: CodecState, last: bool) -> tuple[Samples, CodecState]:
        caches = scoped(state, "caches")
        delay, size = self._checked.decode_delay, self.config.samples_per_frame
        done, num_valid = state["num_frames"], codes.shape[2]
        if num_valid == 0 and not (last and done):
            return np.zeros((len(codes), 0), np.float32), state
        if last:  # frames of padding bring out the last samples
            codes = np.pad(codes, ((0, 0), (0, 0), (0, ceil_div(delay, size))))
        caches = self._session("decoder_step").run({"codes": codes, "num_valid": np.array(num_valid), **caches})
        waveform, begin = check_finite(caches.pop("waveform")), done * size - delay  # number of the first sample
        waveform = waveform[:, max(-begin, 0) :]
        if last:
            waveform = waveform[:, : (done + num_valid) * size - max(begin, 0)]
        return waveform, {"num_frames": done + num_valid, **scope(caches, "caches")}

    def _state_value(self, number: int) -> int:
        return number

    def _is_state(self, state: CodecState, encodes: bool) -> bool:
        caches = scoped(state, "caches")
        if not self._session("encoder_step" if encodes else "decoder_step").is_state(caches):
            return False
        own = {name: value for name, value in state.items() if not name.startswith("caches.")}
        samples, started = own.pop("samples", None), own.pop("started", None)
        if encodes and not (
            isinstance(started, bool)
            and isinstance(samples, np.ndarray)
            and samples.ndim == 2
            and len(samples) == 1
            and samples.dtype == np.float32
        ):
            return False
        names = {"num_samples", "num_frames"} if encodes else {"num_frames"}
        is_whole = encodes or (samples is None and started is None)
        if not is_whole or own.keys() != names or any(as_count(value) is None for value in own.values()):
            return False
        return not encodes or samples.shape[1] == _num_buffered(self.config, started, **own)


def _num_mels(config: CodecConfig, num_samples: int) -> int:
    return 1 + num_samples // config.mel.hop_length


def _num_buffered(config: CodecConfig, started: bool, num_samples: int, num_frames: int) -> int:
    """Samples in the buffer of a stream that goes on: all at first, then those that the next frame reads."""
    hop = config.mel.hop_length
    before = config.mel.n_fft // 2 + MEL_CONTEXT * hop if started else 0
    return before + int(num_samples) - int(num_frames) * config.mels_per_frame * hop


def _push(
    config: CodecConfig, state: CodecState, chunks: Samples, last: bool
) -> tuple[CodecState, NDArray[np.float32] | None]:
    """The next samples [B, S] of streams -> their buffer, and what encoder_step.onnx reads for complete frames.

    The waveform is reflected at both ends. The buffer holds samples from `(s f - 2) hop - n_fft / 2` on, f the next
    frame and s mel frames a frame; before the start those from 0 on. No complete frames: None.
    """
    hop, pad = config.mel.hop_length, config.mel.n_fft // 2
    stride, pool, per_frame = config.encoder.stride, config.encoder.pool, config.mels_per_frame
    samples, started = np.concatenate((state["samples"], chunks), axis=1), state["started"]
    num_samples, num_frames = state["num_samples"] + chunks.shape[1], state["num_frames"]
    num_ready = 0
    if started or samples.shape[1] > pad or (last and samples.shape[1]):
        if not started:
            samples = _padded(samples, 0, max(pad + 1 - samples.shape[1], 0))  # too short to reflect: zeros follow
            samples = _padded(_padded(samples, pad, 0, mode="reflect"), MEL_CONTEXT * hop, 0)
            started = True
        if last:
            num_ready = code_frames(_num_mels(config, num_samples), stride, pool) - num_frames
        else:
            num_mels = 1 + (num_samples - pad) // hop  # that are complete
            num_ready = (num_mels - mel_look_ahead(stride)) // per_frame - num_frames
    ready = None
    if num_ready > 0:
        num_hops = MEL_CONTEXT + per_frame * num_ready + mel_look_ahead(stride) + ceil_div(config.mel.n_fft, hop) - 1
        ready = _padded(samples, 0, pad, mode="reflect") if last else samples
        ready = ready[:, : num_hops * hop]
        ready = _padded(ready, 0, num_hops * hop - ready.shape[1])
        samples, num_frames = samples[:, num_ready * per_frame * hop :], num_frames + num_ready
    buffer = {"samples": samples.copy(), "num_samples": num_samples, "num_frames": num_frames, "started": started}
    return buffer, ready


def _padded(samples: Samples, before: int, after: int, mode: Literal["constant", "reflect"] = "constant") -> Samples:
    """Samples [B, S] with so many more at the start and at the end of each row."""
    return np.pad(samples, ((0, 0), (before, after)), mode=mode)
