"""Waveforms -> audio files, at once or piece by piece, whole or not at all.

Files are written by libsndfile: wav, flac, ogg (Vorbis), opus and mp3.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mimo_codec.audio.formats import WRITTEN_AS
from mimo_codec.audio.sources import AnyPath
from mimo_codec.audio.waveform import as_channels, check_finite, check_sample_rate
from mimo_codec.common.arrays import AnyArray, to_numpy
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.files import atomic_path
from mimo_codec.common.signals import interrupts_deferred

_WRITE_BLOCK = 2**16
_MAX_WAV_BYTES = 2**32 - 2**10
"""Bytes of samples that fit into a WAV file, whose header counts them in 32 bits."""


class _Sink(io.FileIO):
    """A file for libsndfile, which forgets that a write failed: keeps the error, and writes nothing more after it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data` -> its length, or 0 if that failed."""
        rest = memoryview(data)
        while len(rest) and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return len(data) if self.error is None else 0


def save_audio(path: AnyPath, waveform: AnyArray, sample_rate: int, overwrite: bool = True) -> None:
    """Write a waveform, [S] or [channels, S], float or PCM, to an audio file.

    The suffix chooses the format: .wav and .flac (16 bits), .ogg (Vorbis), .opus, .mp3. Samples
    beyond [-1, 1] are clipped. The file appears whole or not at all. A .wav above 4 GiB is RF64.

    Raises MimoError for an unknown suffix, a sample rate that the format does not have, what
    `check_waveform` refuses, and a path that cannot be written; or exists, without `overwrite`.
    """
    channels = as_channels(waveform, "waveform")
    num_channels, num_samples = channels.shape
    with AudioWriter(path, sample_rate, overwrite, num_channels, num_samples) as writer:
        writer.write(channels)


class AudioWriter:
    """Write an audio file piece by piece, with the formats and errors of `save_audio`.

        with AudioWriter("speech.wav", 24000) as writer:
            for waveform in waveforms:
                writer.write(waveform)

    The file appears when the block ends, and not at all when it raises or nothing was written.
    """

    def __init__(
        self,
        path: AnyPath,
        sample_rate: int,
        overwrite: bool = True,
        num_channels: int = 1,
        num_samples: int | None = None,
    ):
        """Prepare a writer; nothing is written yet, but an unknown suffix or sample rate raises MimoError.

        num_samples: samples per channel that will be written, where that is known: a .wav of more than 4 GiB has to
        begin as RF64, so that one whose length is not known ends with MimoError there.
        """
        self._path = Path(path)
        self._sample_rate = check_sample_rate(sample_rate)
        self._overwrite = overwrite
        self._num_channels = num_channels
        self._file: sf.SoundFile | None = None
        suffix = self._path.suffix.lower()
        known = ", ".join(WRITTEN_AS)
        require(suffix in WRITTEN_AS, f"{path}: cannot tell the format from {suffix!r}; known are {known}")
        self._format, self._subtype = WRITTEN_AS[suffix]
        if self._format == "WAV" and self._wav_bytes(num_samples or 0) > _MAX_WAV_BYTES:
            self._format = "RF64"

    def __enter__(self) -> AudioWriter:
        """Open the file under a temporary name."""
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path, self._overwrite))
            self._sink = stack.enter_context(_Sink(temporary, "w+"))
            self._num_samples = 0
            stack.callback(self._close)
            self._open()
            stack.push(self._refuse_empty)
            self._on_exit = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        """Put the file in its place, or remove it when the block raised."""
        self._on_exit.__exit__(*raised)

    def write(self, waveform: AnyArray) -> None:
        """Append samples, [S] or [num_channels, S]; none is fine."""
        if self._file is None:
            raise RuntimeError("AudioWriter.write works inside its `with` block only")
        channels = to_numpy(as_channels(waveform, "waveform"))
        expected = self._num_channels
        require(len(channels) == expected, f"waveform: has {len(channels)} channels; {expected} are written here")
        check_finite(channels, "waveform", offset=self._num_samples)
        fits = self._format != "WAV" or self._wav_bytes(self._num_samples + channels.shape[1]) <= _MAX_WAV_BYTES
        require(fits, f"{self._path}: WAV holds at most 4 GiB; write .flac, or RF64 by passing num_samples")
        for start in range(0, channels.shape[1], _WRITE_BLOCK):
            self._write_block(self._file, channels[:, start : start + _WRITE_BLOCK])
        self._num_samples += channels.shape[1]

    def _wav_bytes(self, num_samples: int) -> int:
        return 2 * self._num_channels * num_samples

    def _write_block(self, file: sf.SoundFile, block: NDArray[np.float32]) -> None:
        samples = block.T.clip(-1, 1)
        if self._subtype == "PCM_16":  # libsndfile's own scale is 32767: 16-bit files would change
            samples = np.rint(samples * 2**15).clip(max=2**15 - 1).astype(np.int16)
        with self._calls():
            file.write(np.ascontiguousarray(samples))

    def _open(self) -> None:
        with self._calls():
            self._file = sf.SoundFile(
                self._sink, "w", self._sample_rate, self._num_channels, format=self._format, subtype=self._subtype
            )

    def _refuse_empty(self, kind: object, error: object, traceback: object) -> None:
        require(error is not None or self._num_samples, f"{self._path}: there are no samples to write")

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with self._calls():
                file.close()

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Calls of libsndfile; when the disk failed, with its OSError, whatever libsndfile says."""
        what = f"{self._format}/{self._subtype} at {self._sample_rate} Hz"
        with interrupts_deferred():
            try:
                with wrap_errors(f"{self._path}: cannot be written as {what}", sf.SoundFileError, ValueError):
                    yield
            finally:
                if self._sink.error is not None:
                    raise self._sink.error
