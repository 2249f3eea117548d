"""Codec: speech <-> codes, at once, in batches and as streams, whatever computes the networks. Needs no torch.

Whatever comes in is turned into numpy arrays and checked here, once; resampling, blocks and padding are the same for
all backends, so that all of them hear the same samples. What comes out are the arrays of the backend.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mimo_codec.audio.files import audio_blocks
from mimo_codec.audio.sources import AnyAudio
from mimo_codec.audio.waveform import check_array
from mimo_codec.codec.facts import CodecFacts
from mimo_codec.codec.incoming import CodesLike, CodesSource, chunk_of_codes, read_codes
from mimo_codec.codec.pieces import as_batch, check_level, each_rate, groups, padded, pieces, segments, with_last
from mimo_codec.codec.streaming import ENDED, MODEL, as_flag, foreign_state, model_number, open_state
from mimo_codec.codec.together import Stream, check_streams, step_together
from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import ArrayT, concatenate, is_array, to_cpu
from mimo_codec.common.checks import error_prefix
from mimo_codec.common.errors import MimoError

if TYPE_CHECKING:
    import torch

Samples: TypeAlias = "NDArray[np.float32]"
Ids: TypeAlias = "NDArray[np.int64]"
CodecState: TypeAlias = "dict[str, Any]"
"""State of a stream: named values, passed in and returned."""

BLOCK_SECONDS = 20.0
"""Audio worked on at a time by models that stream, and read from files by all."""
BATCHED_SECONDS = 60.0
"""Longer items of a batch go alone, where the model has no segments."""


class Codec(CodecFacts, Generic[ArrayT]):
    """A neural speech codec: what `MimoCodec` (PyTorch tensors) and `OnnxCodec` (numpy arrays) have in common.

    Waveforms and codes may be numpy arrays or torch tensors, on any device, whatever the backend; those that are
    returned are of the backend's kind.
    """

    # ---- what a backend does -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _batches_exactly(self) -> bool:
        """Whether an item of a batch gives exactly what it gives alone."""

    @abstractmethod
    def _encode_items(self, waveforms: Sequence[Samples], count: int, before: int, after: int) -> list[ArrayT]:
        """Waveforms [S], all at once -> codes [count, T] of each.

        before, after: how many samples at the start and at the end of each are not of the item but surround it;
        before: 0, or more than half a window of the front end, which reflects the waveform where it ends.
        """

    @abstractmethod
    def _decode_items(self, codes: Ids, lengths: NDArray[np.int64]) -> ArrayT:
        """Codes [B, Q, T], padded at their ends, and frames of each [B] -> waveforms [B, S]."""

    @abstractmethod
    def _initial_encode_state(self) -> CodecState: ...

    @abstractmethod
    def _encode_step(self, chunks: Samples, state: CodecState, last: bool, count: int) -> tuple[ArrayT, CodecState]:
        """The next samples [B, S] of streams -> codes [B, count, n] of the frames that are complete, and the new state.

        The streams have the same state but for the values of its arrays, whose rows they are.
        """

    @abstractmethod
    def _initial_decode_state(self) -> CodecState: ...

    @abstractmethod
    def _decode_step(self, codes: Ids, state: CodecState, last: bool) -> tuple[ArrayT, CodecState]:
        """The next codes [B, Q, n] of streams -> the samples [B, S] that are complete, and the new state."""

    @abstractmethod
    def _is_state(self, state: CodecState, encodes: bool) -> bool:
        """Whether these are values as a step of encoding (or decoding) returns them: names, types and shapes."""

    @abstractmethod
    def _state_value(self, number: int) -> Any:
        """A number as the states of this backend hold it."""

    # ---- encode --------------------------------------------------------------------------------------------------

    def encode(
        self, audio: AnyAudio, sample_rate: float | None = None, num_quantizers: int | None = None
    ) -> AudioCodes:
        """Speech -> AudioCodes with the first `num_quantizers` codebooks (None: 8, or all there are if fewer).

        audio: a file (its path, its bytes or a binary file object, a pipe for example), or an array or tensor [S] or
        [channels, S] with its `sample_rate` (Hz), or as (array, rate); or a dictionary that a data set of Hugging Face
        has in its place. Channels are averaged, other rates resampled. Files are read in blocks, so memory does not
        grow with their length.
        Models with `segment_seconds` code longer audio in independent segments (released models: 60 s).
        Raises MimoError for unreadable files, bad arrays, and more codebooks than the model has.
        """
        count = self.check_num_quantizers(num_quantizers)
        num_samples = 0

        def counted() -> Iterator[Samples]:
            nonlocal num_samples
            for block in self._blocks(audio, sample_rate, "audio"):
                num_samples += len(block)
                yield block

        codes = [to_cpu(piece) for piece in self._encode_blocks(counted(), count)]
        return self._wrap(concatenate(codes), num_samples)

    def _blocks(self, audio: AnyAudio, sample_rate: float | None, where: str) -> Iterator[Samples]:
        """Blocks [S] float32 at the codec's rate."""
        where = str(audio) if isinstance(audio, (str, os.PathLike)) else where
        for block in audio_blocks(audio, sample_rate, self.sample_rate, where=where, block_seconds=BLOCK_SECONDS):
            yield check_level(block, where)

    def _encode_blocks(self, blocks: Iterable[Samples], count: int) -> Iterator[ArrayT]:
        """Blocks of one waveform -> codes [count, n], in as many pieces as bounded memory needs."""
        if self.config.segment_frames is not None:
            for samples, before, after in segments(blocks, self.config):
                yield self._encode_items([samples], count, before, after)[0]
            return
        if not self.encodes_streams:  # exported without steps: at once, whatever memory that takes
            blocks = [np.concatenate(list(blocks))]
        state: CodecState | None = None
        for block, last in with_last(blocks):
            if last and state is None:
                yield self._encode_items([block], count, 0, 0)[0]
            else:
                codes, state = self._encode_step(block[None], state or self._initial_encode_state(), last, count)
                yield codes[0]

    def encode_batch(
        self,
        audio: Iterable[AnyAudio],
        sample_rate: float | Iterable[float] | None = None,
        num_quantizers: int | None = None,
        *,
        batch_seconds: float = 120.0,
    ) -> list[AudioCodes]:
        """`encode` of several items at once; each gives what it gives alone.

        Models that are not in float32 round differently in a batch, so there the items go one by one.
        audio: a list or any other iterable. sample_rate: one for all arrays, or one per item. batch_seconds: most
        audio, padding included, that goes through the model at a time; items longer than a segment (or a minute) go
        alone.
        """
        count = self.check_num_quantizers(num_quantizers)
        items = as_batch("audio", audio, batch_seconds)
        rates = each_rate(sample_rate, len(items))
        results: dict[int, AudioCodes] = {}
        short: dict[int, Samples] = {}
        longest = (self.config.segment_seconds or BATCHED_SECONDS) * self.sample_rate if self._batches_exactly else 0
        for i, (item, rate) in enumerate(zip(items, rates, strict=True)):
            waveform = np.concatenate(list(self._blocks(item, rate, f"audio[{i}]")))
            if len(waveform) < longest:
                short[i] = waveform
            else:
                results[i] = self.encode(waveform, self.sample_rate, count)
        for indices in groups({i: len(w) for i, w in short.items()}, batch_seconds * self.sample_rate):
            found = self._encode_items([short[i] for i in indices], count, 0, 0)
            for i, codes in zip(indices, found, strict=True):
                results[i] = self._wrap(to_cpu(codes), len(short[i]))
        return [results[i] for i in range(len(items))]

    def _wrap(self, codes: ArrayT, num_samples: int) -> AudioCodes:
        sizes = self.codebook_sizes[: codes.shape[0]]
        return AudioCodes(codes, num_samples, self.sample_rate, self.frame_rate, sizes, self.model_id)

    def encode_chunk(
        self,
        waveform: np.ndarray | torch.Tensor,
        state: Mapping[str, Any] | None = None,
        last: bool = False,
        *,
        num_quantizers: int | None = None,
    ) -> tuple[ArrayT, CodecState]:
        """Streaming encode, for models with a causal encoder: (codes [Q, n], state).

        waveform: the next samples [S] at `sample_rate`, any number of them, none included.
        state: what the previous call returned, None at the start. last: the stream ends with this chunk; the next
        stream starts with None. All codes together are those of `encode` (none of a stream without samples); each
        comes at most `encode_latency` seconds after its first sample.
        Raises MimoError when the encoder cannot do so (see `encodes_streams`).
        """
        count = self._check_encodes_streams(num_quantizers)
        opened, marks = self._open_state(state, last, encodes=True)
        codes, new_state = self._encode_step(self._chunk_of_samples(waveform)[None], opened, last, count)
        return codes[0], new_state | marks

    def encode_chunks(
        self,
        waveforms: Sequence[np.ndarray | torch.Tensor],
        states: Sequence[Mapping[str, Any] | None] | None = None,
        last: bool | Sequence[bool] = False,
        *,
        num_quantizers: int | None = None,
    ) -> tuple[list[ArrayT], list[CodecState]]:
        """`encode_chunk` for many independent streams at once: (codes of each, states of each).

        waveforms, states: one of each for every stream; states None where all begin. last: for all streams, or one for
        each. Every stream gives what it gives alone. Those with chunks of the same length, whatever their ages, are
        computed as one batch, so that a server can take all that arrived in the same 80 ms.
        Raises what `encode_chunk` does, with the number of the stream, before anything is computed.
        """
        count = self._check_encodes_streams(num_quantizers)
        streams = self._open_streams("waveforms", waveforms, states, last, encodes=True)

        def step(chunks: Samples, state: CodecState, last: bool) -> tuple[ArrayT, CodecState]:
            return self._encode_step(chunks, state, last, count)

        return step_together(streams, step, self.config, self._batches_exactly)

    def _check_encodes_streams(self, num_quantizers: int | None) -> int:
        if not self.encodes_streams:
            raise MimoError(
                f"{self.name}: its encoder is not causal, or was exported without steps, so it cannot encode a stream;"
                " use encode()"
            )
        return self.check_num_quantizers(num_quantizers)

    def _chunk_of_samples(self, waveform: Any) -> Samples:
        """Checked samples [S]; unlike a waveform, a chunk of a stream may be empty."""
        if is_array(waveform) and tuple(waveform.shape) == (0,):
            return np.zeros(0, np.float32)
        return check_level(check_array(waveform, self.sample_rate, "audio"), "audio")

    def _open_streams(self, name: str, chunks: Any, states: Any, last: Any, encodes: bool) -> list[Stream]:
        """The next chunks of several streams, checked."""
        streams = []
        for i, (chunk, state, ends) in enumerate(zip(*check_streams(name, chunks, states, last), strict=True)):
            with error_prefix(f"stream {i}"):
                checked = self._chunk_of_samples(chunk) if encodes else chunk_of_codes(self, chunk)
                streams.append(Stream(checked, *self._open_state(state, ends, encodes), ends))
        return streams

    # ---- decode --------------------------------------------------------------------------------------------------

    def decode(self, codes: CodesSource) -> ArrayT:
        """AudioCodes -> waveform [S] float32 on the CPU, of the original length; any prefix of the codebooks.

        codes: AudioCodes, or a .mimo file: its path, its bytes or a file object. A bare tensor or array [Q, T] decodes
        to all samples of its T frames. Long codes are decoded in chunks: with
        models that stream exactly the result is that of decoding at once, the others decode independent segments.
        Raises MimoError for codes of another model, out of range or of a wrong shape, and without a decoder.
        """
        return concatenate([to_cpu(piece) for piece in self.decode_pieces(codes)])

    def decode_pieces(self, codes: CodesSource) -> Iterator[ArrayT]:
        """What `decode` gives, piece by piece as it is asked for, so that memory does not grow with the length.

        Yields waveforms [S] float32 on this model's device; raises what `decode` does.
        """
        self.check_decodes()
        checked = read_codes(self, codes)
        remaining = checked.num_samples
        for piece in self._whole_frames(checked.to_numpy()):
            yield piece[:remaining]
            remaining -= min(len(piece), remaining)

    def _whole_frames(self, codes: Ids) -> Iterator[ArrayT]:
        """Codes [Q, T] -> waveforms [S] of all their frames."""
        size = self.config.segment_frames or round(BLOCK_SECONDS * self.frame_rate)
        alone = self.config.segment_frames is not None
        if not alone and (not self.decodes_streams or codes.shape[1] <= size):
            size, alone = codes.shape[1], True  # exported without steps: at once, whatever memory that takes
        state: CodecState | None = None
        for piece, last in with_last(pieces(codes, size)):
            if alone:
                yield self._decode_items(piece[None], np.array([piece.shape[1]]))[0]
            else:
                waveform, state = self._decode_step(piece[None], state or self._initial_decode_state(), last)
                yield waveform[0]

    def decode_batch(self, codes: Iterable[CodesSource], *, batch_seconds: float = 120.0) -> list[ArrayT]:
        """`decode` of several items at once; each gives what it gives alone, however many codebooks it has.

        Models that are not in float32 round differently in a batch, so there the items go one by one.
        """
        self.check_decodes()
        checked = [read_codes(self, item) for item in as_batch("codes", codes, batch_seconds)]
        longest = self.config.segment_frames or round(BATCHED_SECONDS * self.frame_rate)
        is_short = [self._batches_exactly and item.num_frames <= longest for item in checked]
        results = {i: self.decode(item) for i, item in enumerate(checked) if not is_short[i]}
        for count in {item.num_quantizers for item in checked}:
            alike = {i for i, item in enumerate(checked) if is_short[i] and item.num_quantizers == count}
            for indices in groups({i: checked[i].num_frames for i in alike}, batch_seconds * self.frame_rate):
                waveforms = to_cpu(self._decode_items(*padded([checked[i].to_numpy() for i in indices])))
                results |= {i: waveforms[row, : checked[i].num_samples] for row, i in enumerate(indices)}
        return [results[i] for i in range(len(checked))]

    def decode_chunk(
        self, codes: CodesLike, state: Mapping[str, Any] | None = None, last: bool = False
    ) -> tuple[ArrayT, CodecState]:
        """Streaming decode: the next codes [Q, n] -> (waveform [S] float32, state), a dictionary of named values.

        state: what the previous call returned, None at the start. last: the stream ends with this chunk, which may be
        empty ([Q, 0]); the next stream starts with None. Every call returns the samples that are complete; all
        together are those of `decode`.

        Models with per-frame norms and windowed attention (nano) stream exactly. The released models normalise over
        whole sequences: here their norms use the statistics of the stream so far, and segments of `segment_seconds`
        are independent as in `decode`. On the two golden checkpoints (rms 0.06, chunks of 0.2 s) the result differs
        from `decode` by at most 0.021 in the first second, 0.005 in the second, 0.002 up to the fourth and less than
        0.001 after the eighth.
        Raises MimoError when the decoder cannot do so (see `decodes_streams`).
        """
        self._check_decodes_streams()
        opened, marks = self._open_state(state, last, encodes=False)
        waveform, new_state = self._decode_step(chunk_of_codes(self, codes)[None], opened, last)
        return waveform[0], new_state | marks

    def decode_chunks(
        self,
        codes: Sequence[CodesLike],
        states: Sequence[Mapping[str, Any] | None] | None = None,
        last: bool | Sequence[bool] = False,
    ) -> tuple[list[ArrayT], list[CodecState]]:
        """`decode_chunk` for many independent streams at once: (waveform of each, states of each).

        codes, states: one of each for every stream; states None where all begin. last: for all streams, or one for
        each. Every stream gives what it gives alone. Those with as many new frames and codebooks, whatever their ages,
        are computed as one batch.
        Raises what `decode_chunk` does, with the number of the stream, before anything is computed.
        """
        self._check_decodes_streams()
        streams = self._open_streams("codes", codes, states, last, encodes=False)
        return step_together(streams, self._decode_step, self.config, self._batches_exactly)

    def decode_stream(self, codes: Iterable[CodesLike]) -> Iterator[ArrayT]:
        """Chunks of codes [Q, n] (or AudioCodes) as they come -> waveforms [S] as soon as they are complete.

        The original length is known only of AudioCodes: one that ends inside a frame ends the stream there. MimoError
        for a chunk after that one.
        """
        self._check_decodes_streams()
        state, chunk = self._initial_decode_state(), None
        num_samples, emitted, ended = 0, 0, False
        for item in codes:
            if ended:
                raise MimoError("codes: a chunk that ends before its last frame does must be the last of its stream")
            chunk = chunk_of_codes(self, item)
            whole = chunk.shape[1] * self.config.samples_per_frame
            length = item.num_samples if isinstance(item, AudioCodes) else whole
            num_samples, ended = num_samples + length, length < whole
            waveforms, state = self._decode_step(chunk[None], state, ended)
            waveform = waveforms[0, : num_samples - emitted]
            emitted += len(waveform)
            yield waveform
        if chunk is not None and emitted < num_samples:
            yield self._decode_step(chunk[None, :, :0], state, True)[0][0, : num_samples - emitted]

    def _open_state(
        self, state: Mapping[str, Any] | None, last: bool, encodes: bool
    ) -> tuple[CodecState, dict[str, Any]]:
        """What a step reads, and what is added to the state that it returns.

        MimoError for what no step of this model returned, and for a stream that has ended.
        """
        model, last = model_number(self.model_id), as_flag("last", last)
        marks = {MODEL: self._state_value(model), ENDED: self._state_value(int(last))}
        if state is None:
            return self._initial_encode_state() if encodes else self._initial_decode_state(), marks
        method = "encode_chunk" if encodes else "decode_chunk"
        opened = open_state(state, model, method)
        if not self._is_state(opened, encodes):
            raise foreign_state(method)
        return opened, marks

    def _check_decodes_streams(self) -> None:
        self.check_decodes()
        if not self.decodes_streams:
            raise MimoError(
                f"{self.name}: its decoder needs the whole future, or was exported without steps, so it cannot decode a"
                " stream; use decode()"
            )
