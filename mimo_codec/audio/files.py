"""Audio files and arrays <-> waveforms: load, check, save; files also piece by piece.

Files are read and written by libsndfile: wav, flac, ogg (Vorbis), opus and mp3. Nothing here needs torch: what
returns tensors returns numpy arrays where torch cannot be imported.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mimo_codec.audio.resampling import StreamResampler, check_finite, check_sample_rate
from mimo_codec.common.arrays import FLOAT_DTYPES, dtype_name, is_array, is_tensor, to_numpy, to_tensor
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

AnyPath = str | os.PathLike[str]

_LOAD_BLOCK = 2**18
_MAX_BLOCK_SECONDS = 3600.0
_CLAIMED_EXTRA_BYTES = 2**40
_MAX_KNOWN_SAMPLES = 2**36  # a day at the highest sample rate


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    `num_samples` is per channel, and None where the header does not say: an MP3 without a Xing,
    Info or VBRI frame, a FLAC made as a stream. It is exact for a sound wav, flac, ogg or opus
    file and for what common MP3 encoders write; a damaged file may hold less.
    `format` is libsndfile's container and coding, such as "WAV/PCM_16" or "OGG/OPUS".
    """

    sample_rate: int
    num_samples: int | None
    num_channels: int
    format: str


def audio_info(path: AnyPath) -> AudioInfo:
    """Read the header of an audio file. Raises MimoError as `load_audio` does, samples apart."""
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
    return _resampled_blocks(path, block_seconds, sample_rate, start, end, convert=to_tensor)


def iter_arrays(
    path: AnyPath,
    block_seconds: float = 10.0,
    sample_rate: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[NDArray[np.float32]]:
    """`iter_audio` in numpy arrays, without importing torch."""
    return _resampled_blocks(path, block_seconds, sample_rate, start, end, convert=np.asarray)


def _resampled_blocks(
    path: AnyPath,
    block_seconds: float,
    sample_rate: int | None,
    start: float,
    end: float | None,
    convert: Callable[[NDArray[np.float32]], Any],
) -> Iterator[Any]:
    """What `convert` makes of the file's blocks, resampled in that form, as `resample` would resample the whole."""
    if not 0 < block_seconds <= _MAX_BLOCK_SECONDS:
        raise MimoError(f"block_seconds: {block_seconds!r} is not in (0, {_MAX_BLOCK_SECONDS:g}]")
    with _open_audio(path) as file:
        new_rate = file.samplerate if sample_rate is None else sample_rate
        resampler = StreamResampler(file.samplerate, new_rate)
        for block in _mono_blocks(file, path, max(1, round(block_seconds * file.samplerate)), start, end):
            resampled = resampler.push(convert(block))
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
        mono = block.mean(axis=0)
        check_finite(mono, os.fspath(path), offset=position)
        position += len(mono)
        yield mono
    if position <= start:
        where = f" from {start_seconds:g} s on" if start else ""
        raise MimoError(f"{path}: holds no samples{where}")


def _seek(file: sf.SoundFile, path: AnyPath, start: int) -> int:
    """Go to sample `start`, or to the end if that comes first; returns the number of samples before the place."""
    if 0 < start < file.frames <= _MAX_KNOWN_SAMPLES:
        try:
            return int(file.seek(start))
        except sf.LibsndfileError as error:
            raise MimoError(f"{path}: is damaged before sample {start} ({_reason(error)})") from error
    position = 0
    while position < start:
        skipped = _read(file, path, position, min(_LOAD_BLOCK, start - position)).shape[1]
        if not skipped:
            break
        position += skipped
    return position


def _read(file: sf.SoundFile, path: AnyPath, position: int, num_samples: int) -> NDArray[np.float32]:
    """The next samples [channels, S] of a file that stands at sample `position`."""
    try:
        return np.ascontiguousarray(file.read(num_samples, dtype="float32", always_2d=True).T)
    except sf.LibsndfileError as error:
        raise MimoError(f"{path}: is damaged near sample {position} ({_reason(error)})") from error


@contextmanager
def _open_audio(path: AnyPath) -> Iterator[sf.SoundFile]:
    try:
        _check_readable(path)
        endless = _EndlessFile(path) if _is_mp3_of_unknown_length(path) else None
    except OSError as error:
        raise MimoError(f"{path}: cannot be read: {error.strerror}") from error
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
    if file.is_dir():
        raise MimoError(f"{path}: is a folder; an audio file is needed")
    if not file.exists():
        raise MimoError(f"{path}: there is no such file")
    if not file.is_file():
        raise MimoError(f"{path}: is not a regular file; an audio file is needed")
    if not file.stat().st_size:
        raise MimoError(f"{path}: is empty")


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


def _reason(error: Exception) -> str:
    """libsndfile's message without the prefixes that it and soundfile put before it."""
    text = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
    return text.removeprefix("Error : ").rstrip(".")


# Suffix -> libsndfile's container and coding.
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_WRITE_BLOCK = 2**16


def save_audio(path: AnyPath, waveform: np.ndarray | Tensor, sample_rate: int, overwrite: bool = True) -> None:
    """Write a waveform, [S] or [channels, S], float or PCM, to an audio file.

    The suffix chooses the format: .wav and .flac (16 bits), .ogg (Vorbis), .opus, .mp3. Samples
    beyond [-1, 1] are clipped. The file appears whole or not at all.

    Raises MimoError for an unknown suffix, a sample rate that the format does not have, what
    `check_waveform` refuses, and a path that cannot be written; or exists, without `overwrite`.
    """
    channels = _as_channels(waveform, "waveform")
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
        self._path = Path(path)
        self._sample_rate = check_sample_rate(sample_rate)
        self._overwrite = overwrite
        self._num_channels = num_channels
        self._file: sf.SoundFile | None = None
        suffix = self._path.suffix.lower()
        if suffix not in _FORMATS:
            known = ", ".join(_FORMATS)
            raise MimoError(f"{path}: cannot tell the format from {suffix!r}; known are {known}")
        self._format, self._subtype = _FORMATS[suffix]

    def __enter__(self) -> AudioWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path, self._overwrite))
            self._file = self._create(temporary)
            self._num_samples = 0
            stack.callback(self._close)
            stack.push(self._refuse_empty)
            self._on_exit = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._on_exit.__exit__(*raised)

    def write(self, waveform: np.ndarray | Tensor) -> None:
        """Append samples, [S] or [num_channels, S]; none is fine."""
        if self._file is None:
            raise RuntimeError("AudioWriter.write works inside its `with` block only")
        channels = to_numpy(_as_channels(waveform, "waveform"))
        if len(channels) != self._num_channels:
            raise MimoError(f"waveform: has {len(channels)} channels; {self._num_channels} are written here")
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
        if error is None and not self._num_samples:
            raise MimoError(f"{self._path}: there are no samples to write")

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with self._errors_named():
                file.close()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (sf.SoundFileError, ValueError) as error:
            what = f"{self._format}/{self._subtype} at {self._sample_rate} Hz"
            raise MimoError(f"{self._path}: cannot be written as {what} ({_reason(error)})") from error


def check_waveform(waveform: np.ndarray | Tensor, sample_rate: int | None, where: str = "waveform") -> Tensor:
    """Any waveform in memory -> mono [S] float32 on its device.

    `waveform` is a numpy array or a torch tensor, [S] or [channels, S]; channels are averaged.
    int8, uint8, int16 and int32 are PCM and scaled to [-1, 1]; floats keep their scale.

    Raises MimoError, which starts with `where`, for a missing or absurd `sample_rate`, other types
    and shapes, an array that looks like [S, channels], no samples, and NaN or infinite samples.
    """
    return to_tensor(_mono(waveform, sample_rate, where))


def check_array(waveform: np.ndarray | Tensor, sample_rate: int | None, where: str = "waveform") -> NDArray[np.float32]:
    """`check_waveform` -> mono [S] float32 as a numpy array, computed by numpy whatever it is."""
    array: NDArray[np.float32] = _mono(to_numpy(waveform) if is_tensor(waveform) else waveform, sample_rate, where)
    return array


def _mono(waveform: object, sample_rate: int | None, where: str) -> Any:
    """[S] float32, a tensor or an array as `waveform` is."""
    if sample_rate is None:
        raise MimoError(f"{where}: its sample rate is not known; pass sample_rate=... in Hz")
    check_sample_rate(sample_rate, f"{where}: sample_rate")
    channels = _as_channels(waveform, where)
    if 0 in channels.shape:
        raise MimoError(f"{where}: holds no samples")
    mono = channels.mean(axis=0)
    check_finite(mono, where)
    return mono


# Level of silence and distance from it to full scale.
_PCM = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}


def _as_channels(waveform: object, where: str) -> Any:
    """[S] or [channels, S], tensor or array, float or PCM -> [channels, S] float32 of the same kind."""
    if not is_array(waveform):
        kind = type(waveform).__name__
        raise MimoError(f"{where}: is a {kind}; a numpy array or a torch tensor is needed")
    shape, dtype = list(waveform.shape), dtype_name(waveform)
    if len(shape) not in (1, 2):
        raise MimoError(f"{where}: has shape {shape}; [S] or [channels, S] is needed")
    if len(shape) == 2 and shape[0] > 64 and 0 < shape[1] <= 8:
        raise MimoError(f"{where}: shape {shape} looks like [S, channels]; [channels, S] is needed: transpose it")
    if dtype not in (*_PCM, *FLOAT_DTYPES):
        raise MimoError(f"{where}: has dtype {dtype}; float samples or int8, uint8, int16 or int32 PCM is needed")
    x = _as_float32(waveform)
    if dtype in _PCM:
        silence, full_scale = _PCM[dtype]
        x = (x - silence) / full_scale
    return x if len(shape) == 2 else x[None]


def _as_float32(x: Any) -> Any:
    if is_tensor(x):
        return x.float()
    with np.errstate(over="ignore"):  # infinity is named where samples are checked
        return np.asarray(x, np.float32)
