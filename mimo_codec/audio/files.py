"""Audio files <-> waveforms, at once or piece by piece.

Files are read and written by libsndfile: wav, flac, ogg (Vorbis), opus and mp3. Nothing here needs torch: what
returns tensors returns numpy arrays where torch cannot be imported.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mimo_codec.audio.resampling import StreamResampler
from mimo_codec.audio.waveform import as_channels, check_array, check_finite, check_sample_rate, mix_down
from mimo_codec.common.arrays import AnyArray, to_numpy, to_tensor
from mimo_codec.common.checks import check_number, require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

AnyPath = str | os.PathLike[str]

_LOAD_BLOCK = 2**18
_MIN_BLOCK_SECONDS, _MAX_BLOCK_SECONDS = 1e-6, 3600.0
_CLAIMED_EXTRA_BYTES = 2**40
_MAX_KNOWN_SAMPLES = 2**36  # a day at the highest sample rate


@dataclass(frozen=True)
class AudioInfo:
    """The facts in a file's header."""

    sample_rate: int
    """In Hz."""
    num_samples: int | None
    """Samples per channel; None if the header does not say: an MP3 without a Xing, Info or VBRI frame, a FLAC made as a
    stream. It is exact for intact wav, flac, ogg and opus files and for those of common MP3 encoders; a damaged file
    may hold less."""
    num_channels: int
    format: str
    """libsndfile's container and coding, such as "WAV/PCM_16" or "OGG/OPUS"."""


def audio_info(path: AnyPath) -> AudioInfo:
    """Read the header of an audio file; raise the errors of `load_audio`, but for those about samples."""
    with _open_audio(path) as file:
        num_samples = file.frames if file.frames <= _MAX_KNOWN_SAMPLES else None
        form = f"{file.format}/{file.subtype}"
        return AudioInfo(file.samplerate, num_samples, file.channels, form)


def load_audio(path: AnyPath, start: float = 0.0, end: float | None = None) -> tuple[Tensor, int]:
    """Read an audio file -> (waveform [S] float32, sample rate in Hz).

    Integer samples are scaled to [-1, 1), channels are averaged. `start` and `end`, in seconds, cut
    a piece out of the file; what comes before it is decoded only where the header does not tell the
    file's length. A piece that goes beyond the file's end is shorter.

    Raises MimoError, which starts with `path`, when there is no such file, it is a folder, empty,
    not audio, damaged, without samples, or has NaN or infinite samples.
    """
    with _open_audio(path) as file:
        return to_tensor(np.concatenate(list(_mono_blocks(file, path, _LOAD_BLOCK, start, end)))), file.samplerate


def iter_audio(
    path: AnyPath,
    block_seconds: float = 10.0,
    sample_rate: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[Tensor]:
    """Read an audio file in blocks, [S_block] float32 of about `block_seconds` each.

    The blocks concatenated are what `load_audio` gives, resampled to `sample_rate` if that is not
    None, but only one block is in memory at a time. Raises what `load_audio` and `resample` do, as
    the iteration comes to it, and MimoError for `block_seconds` that are not in (0, 3600].
    """
    return map(to_tensor, iter_arrays(path, block_seconds, sample_rate, start, end))


def iter_arrays(
    path: AnyPath,
    block_seconds: float = 10.0,
    sample_rate: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[NDArray[np.float32]]:
    """`iter_audio` in numpy arrays, without importing torch; the samples are the same."""
    check_number("block_seconds", block_seconds, _MIN_BLOCK_SECONDS, _MAX_BLOCK_SECONDS)
    with _open_audio(path) as file:
        new_rate = file.samplerate if sample_rate is None else sample_rate
        blocks = _mono_blocks(file, path, max(1, round(block_seconds * file.samplerate)), start, end)
        yield from _resampled(blocks, file.samplerate, new_rate)


def audio_blocks(
    audio: AnyPath | AnyArray,
    sample_rate: int | None,
    new_rate: int,
    *,
    where: str = "audio",
    block_seconds: float = 20.0,
) -> Iterator[NDArray[np.float32]]:
    """Any audio -> blocks [S_block] float32 of about `block_seconds` each, mono at `new_rate`, as numpy arrays.

    audio: path of a file, or an array or tensor [S] or [channels, S] with its `sample_rate` in Hz. A file and an array
    of the same samples give the same blocks.

    Raises MimoError for what `load_audio` or `check_waveform` refuses, as the iteration comes to it; the message begins
    with the path, or with `where` for an array.
    """
    if isinstance(audio, (str, os.PathLike)):
        yield from iter_arrays(audio, block_seconds, new_rate)
        return
    waveform = check_array(audio, sample_rate, where)
    rate = check_sample_rate(sample_rate)  # type: ignore[arg-type]  # `check_array` refuses None
    size = max(1, round(block_seconds * rate))
    pieces = (waveform[start : start + size] for start in range(0, len(waveform), size))
    yield from _resampled(pieces, rate, new_rate)


def _resampled(blocks: Iterable[NDArray[np.float32]], rate: int, new_rate: int) -> Iterator[NDArray[np.float32]]:
    """Blocks of one waveform -> blocks of what `resample` makes of the whole."""
    resampler: StreamResampler[NDArray[Any]] = StreamResampler(rate, new_rate)
    for block in blocks:
        resampled = resampler.push(block)
        if len(resampled):
            yield resampled
    rest = resampler.finish()
    if len(rest):
        yield rest


def _mono_blocks(
    file: sf.SoundFile, path: AnyPath, block_size: int, start_seconds: float, end_seconds: float | None
) -> Iterator[NDArray[np.float32]]:
    start = round(start_seconds * file.samplerate)
    stop = math.inf if end_seconds is None else round(end_seconds * file.samplerate)
    position = _seek(file, path, start)
    while position < stop:
        block = _read(file, path, position, int(min(block_size, stop - position)))
        if not block.size:
            break
        mono = to_numpy(mix_down(block))
        check_finite(mono, os.fspath(path), offset=position)
        position += len(mono)
        yield mono
    require(position > start, f"{path}: holds no samples" + (f" from {start_seconds:g} s on" if start else ""))


def _seek(file: sf.SoundFile, path: AnyPath, start: int) -> int:
    """Go to sample `start`, or to the end if that comes first; returns the number of samples before the place."""
    if 0 < start < file.frames <= _MAX_KNOWN_SAMPLES:
        with wrap_errors(f"{path}: is damaged before sample {start}", sf.LibsndfileError):
            return int(file.seek(start))
    position = 0
    while position < start:
        skipped = _read(file, path, position, min(_LOAD_BLOCK, start - position)).shape[1]
        if not skipped:
            break
        position += skipped
    return position


def _read(file: sf.SoundFile, path: AnyPath, position: int, num_samples: int) -> NDArray[np.float32]:
    """The next samples [channels, S] of a file that stands at sample `position`."""
    with wrap_errors(f"{path}: is damaged near sample {position}", sf.LibsndfileError):
        return np.ascontiguousarray(file.read(num_samples, dtype="float32", always_2d=True).T)


@contextmanager
def _open_audio(path: AnyPath) -> Iterator[sf.SoundFile]:
    with wrap_errors(f"{path}: cannot be read", OSError):
        _check_readable(path)
        endless = _EndlessFile(path) if _is_mp3_of_unknown_length(path) else None
    with endless or nullcontext():
        try:
            # By its path where possible: libsndfile reads others through callbacks, and Ctrl-C is lost in those.
            file = _ForwardFile(path if endless is None else endless)
        except (sf.LibsndfileError, TypeError) as error:  # TypeError: raw samples without a header
            raise MimoError(f"{path}: is not audio in a known format; wav, flac, ogg, opus and mp3 are") from error
        with file:
            check_sample_rate(file.samplerate, os.fspath(path))
            yield file


def _check_readable(path: AnyPath) -> None:
    file = Path(path)
    require(not file.is_dir(), f"{path}: is a folder; an audio file is needed")
    require(file.exists(), f"{path}: there is no such file")
    require(file.is_file(), f"{path}: is not a regular file; an audio file is needed")
    require(file.stat().st_size, f"{path}: is empty")


class _ForwardFile(sf.SoundFile):
    """Reads on until the samples end.

    A SoundFile that can seek stops at the header's length, which need not be true, and fails where
    a FLAC's header gives none.
    """

    def seekable(self) -> bool:
        return False


class _EndlessFile(io.FileIO):
    """Looks far longer than it is to those who seek to its end.

    libsndfile guesses the length of an MP3 that does not tell it from the sizes of the file and of
    the first frame, and reads no further than that, so that most of a file with a large first
    frame could be lost. From an endless file it reads all that is there.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END and offset == 0:
            offset = _CLAIMED_EXTRA_BYTES
        return super().seek(offset, whence)


def _is_mp3_of_unknown_length(path: AnyPath) -> bool:
    """Whether the first MPEG audio frame, after an ID3v2 tag or not, announces no length."""
    with open(path, "rb") as file:
        head = file.read(10)
        if head.startswith(b"ID3"):  # its size has 7 bits in each of 4 bytes
            file.seek(10 + sum(byte << (21 - 7 * i) for i, byte in enumerate(head[6:])))
        else:
            file.seek(0)
        frame = file.read(192)
    is_mpeg = len(frame) > 1 and frame[0] == 0xFF and frame[1] >= 0xE0
    return is_mpeg and not any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


# Suffix -> libsndfile's container and coding.
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_WRITE_BLOCK = 2**16


def save_audio(path: AnyPath, waveform: AnyArray, sample_rate: int, overwrite: bool = True) -> None:
    """Write a waveform, [S] or [channels, S], float or PCM, to an audio file.

    The suffix chooses the format: .wav and .flac (16 bits), .ogg (Vorbis), .opus, .mp3. Samples
    beyond [-1, 1] are clipped. The file appears whole or not at all.

    Raises MimoError for an unknown suffix, a sample rate that the format does not have, what
    `check_waveform` refuses, and a path that cannot be written; or exists, without `overwrite`.
    """
    channels = as_channels(waveform, "waveform")
    with AudioWriter(path, sample_rate, overwrite, num_channels=len(channels)) as writer:
        writer.write(channels)


class AudioWriter:
    """Write an audio file piece by piece, with the formats and errors of `save_audio`.

        with AudioWriter("speech.wav", 24000) as writer:
            for waveform in waveforms:
                writer.write(waveform)

    The file appears when the block ends, and not at all when it raises or nothing was written.
    """

    def __init__(self, path: AnyPath, sample_rate: int, overwrite: bool = True, num_channels: int = 1):
        """Prepare a writer; nothing is written yet, but an unknown suffix or sample rate raises MimoError."""
        self._path = Path(path)
        self._sample_rate = check_sample_rate(sample_rate)
        self._overwrite = overwrite
        self._num_channels = num_channels
        self._file: sf.SoundFile | None = None
        suffix = self._path.suffix.lower()
        known = ", ".join(_FORMATS)
        require(suffix in _FORMATS, f"{path}: cannot tell the format from {suffix!r}; known are {known}")
        self._format, self._subtype = _FORMATS[suffix]

    def __enter__(self) -> AudioWriter:
        """Open the file under a temporary name."""
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path, self._overwrite))
            self._file = self._create(temporary)
            self._num_samples = 0
            stack.callback(self._close)
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
        for start in range(0, channels.shape[1], _WRITE_BLOCK):
            self._write_block(self._file, channels[:, start : start + _WRITE_BLOCK])
        self._num_samples += channels.shape[1]

    def _write_block(self, file: sf.SoundFile, block: NDArray[np.float32]) -> None:
        samples = block.T.clip(-1, 1)
        if self._subtype == "PCM_16":  # libsndfile's own scale is 32767: 16-bit files would change
            samples = np.rint(samples * 2**15).clip(max=2**15 - 1).astype(np.int16)
        with self._errors_named():
            file.write(np.ascontiguousarray(samples))

    def _create(self, temporary: Path) -> sf.SoundFile:
        with self._errors_named():
            return sf.SoundFile(
                temporary,
                "w",
                self._sample_rate,
                self._num_channels,
                format=self._format,
                subtype=self._subtype,
            )

    def _refuse_empty(self, kind: object, error: object, traceback: object) -> None:
        require(error is not None or self._num_samples, f"{self._path}: there are no samples to write")

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with self._errors_named():
                file.close()

    def _errors_named(self) -> AbstractContextManager[None]:
        what = f"{self._format}/{self._subtype} at {self._sample_rate} Hz"
        return wrap_errors(f"{self._path}: cannot be written as {what}", sf.SoundFileError, ValueError)
