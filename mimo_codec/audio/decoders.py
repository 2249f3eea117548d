"""Files of sound, opened for reading from the first sample to the last: libsndfile, or PyAV for what that cannot read.

A decoder says what the header promises and gives the samples in order. It raises `Damage` where they cannot be decoded.
"""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mimo_codec.audio.formats import AV_SUFFIXES
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.signals import interrupts_deferred

MAX_KNOWN_SAMPLES = 2**36
"""Headers that promise more, a day at the highest sample rate, do not know the length."""

_CONTAINERS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "MPEG", "AIFF", "CAF", "AU", "NIST", "VOC")
_SEEKABLE = re.compile(r"(PCM_|FLOAT|DOUBLE|ULAW|ALAW|VORBIS)")
"""Codings of which libsndfile finds a sample exactly. Others are decoded from their start."""
_PROMISE = re.compile(
    r"^\s*(?:RIFF|riff|Riff size|FORM|data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_UNKNOWN_SIZE = 0x7FFF_0000
"""Sizes in 32 bits from here on are what programs write that do not know the size, as into a pipe."""
_CLAIMED_EXTRA_BYTES = 2**40
_AV_OPTIONS = {  # no play lists, which name other files and addresses
    "protocol_whitelist": "file",
    "format_whitelist": "aac,mov,mp4,m4a,3gp,matroska,webm,asf,amr,ac3,eac3",
}


class Damage(Exception):
    """The samples from here on cannot be decoded; the message is the decoder's reason. `samples`: those before it."""

    def __init__(self, reason: str, samples: NDArray[np.float32]):
        """samples: [channels, S], decoded before the damage in the same call."""
        super().__init__(reason)
        self.samples = samples


class Decoder(ABC):
    """An open file of sound, to be used in a `with` block."""

    sample_rate: int
    num_channels: int
    num_samples: int | None
    """Samples per channel that the header promises; None where it does not say."""
    format: str
    """Container and coding."""

    @abstractmethod
    def read(self, num_samples: int) -> NDArray[np.float32]:
        """The next samples [channels, S], S <= num_samples, and 0 at the end. Raises Damage."""

    @abstractmethod
    def seek(self, sample: int) -> bool:
        """Go to a sample from the start -> True; False where that is not exact, which leaves the file as it is."""

    @abstractmethod
    def missing(self) -> str | None:
        """What the header promises and the file lacks, asked for after the last sample; None for a whole file."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Decoder:
        """Return the decoder."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def open_decoder(path: str | os.PathLike[str]) -> Decoder:
    """Open a file of sound by what it holds, whatever its name.

    Raises MimoError, which starts with `path`, when there is no such file, it is a folder, a device or a pipe, empty or
    not sound in a known format.
    """
    with wrap_errors(f"{path}: cannot be read", OSError):
        _check_readable(path)
    try:
        return _SndfileDecoder(path)
    except (sf.LibsndfileError, TypeError) as error:  # TypeError: raw samples without a header
        reason = getattr(error, "error_string", "")
    if find_spec("av") is not None:
        return _AvDecoder(path)
    known = "wav, flac, ogg, opus, mp3, aiff, caf, w64, au and rf64 are"
    if Path(str(path)).suffix.lower() in AV_SUFFIXES:
        raise MimoError(f"{path}: this format needs PyAV: pip install 'mimo-codec[formats]'")
    if "malformed" in reason:
        raise MimoError(f"{path}: is damaged: its header cannot be read")
    raise MimoError(f"{path}: is not audio in a known format; {known}")


def _check_readable(path: str | os.PathLike[str]) -> None:
    place = Path(path)
    require(not place.is_dir(), f"{path}: is a folder; an audio file is needed")
    require(place.exists(), f"{path}: there is no such file")
    advice = "an audio file is needed, or - and a pipe; in Python, an open file"
    require(place.is_file(), f"{path}: is not a regular file; {advice}")
    require(place.stat().st_size, f"{path}: is empty")


# ---- libsndfile ------------------------------------------------------------------------------------------------------


class _ForwardFile(sf.SoundFile):
    """Reads on until the samples end.

    A SoundFile that can seek stops at the header's length, which need not be true, and fails where
    a FLAC's header gives none.
    """

    def seekable(self) -> bool:
        return False


class _SndfileDecoder(Decoder):
    def __init__(self, path: str | os.PathLike[str]):
        with ExitStack() as stack:
            # By its path where possible: calls back into Python are slower.
            self._source = _virtual_file(path)
            if self._source is not None:
                stack.enter_context(self._source)
            file = stack.enter_context(_ForwardFile(_native(path) if self._source is None else self._source))
            require(
                file.format in _CONTAINERS,
                f"{path}: is not audio in a known format; {file.format} is not read",
            )
            self._on_close = stack.pop_all()
        self._path, self._file = path, file
        self.sample_rate, self.num_channels = file.samplerate, file.channels
        self.format = f"{file.format}/{file.subtype}"
        self.num_samples = file.frames if file.frames <= MAX_KNOWN_SAMPLES and self._source is None else None
        self._position = 0
        self._missing_bytes = _missing_bytes(file.extra_info) if self._source is None else 0

    def read(self, num_samples: int) -> NDArray[np.float32]:
        samples = np.full((num_samples, self.num_channels), np.nan, np.float32)
        try:
            with interrupts_deferred() if self._source is not None else nullcontext():
                found = self._file.read(out=samples)
        except sf.LibsndfileError as error:  # how many samples came before it is not said: those that were replaced
            whole = ~np.isnan(samples).any(axis=1)
            count = len(samples) if whole.all() else int(whole.argmin())
            raise Damage(_reason(error), samples[:count].T.copy()) from error
        self._position += len(found)
        return np.ascontiguousarray(found.T)

    def seek(self, sample: int) -> bool:
        if self.num_samples is None or not _SEEKABLE.match(self._file.subtype) or sample >= self.num_samples:
            return False
        try:
            self._position = int(self._file.seek(sample))
        except sf.LibsndfileError as error:
            raise Damage(_reason(error), np.zeros((self.num_channels, 0), np.float32)) from error
        return True

    def missing(self) -> str | None:
        if self._missing_bytes > 0:
            return f"{self._missing_bytes} bytes that its header promises are missing"
        if self.num_samples is not None and self._position < self.num_samples:
            return f"its header promises {self.num_samples} samples"
        if self._file.format == "OGG" and not _ends_as_ogg(self._path):
            return "the mark of its end is missing"
        return None

    def close(self) -> None:
        self._on_close.close()


def _native(path: str | os.PathLike[str]) -> str | bytes:
    """A name as the system knows it: on POSIX bytes, which need not be text in any encoding.

    Whole, because the libraries take some names for something else: "-" for standard input.
    """
    whole = os.path.abspath(path)
    return os.fsencode(whole) if os.name == "posix" else whole


def _missing_bytes(log: str) -> int:
    """Bytes that a header promises and the file lacks, by libsndfile's log of reading the header."""
    pairs = [(int(promised), int(found)) for promised, found in _PROMISE.findall(log)]
    if any(promised >= _UNKNOWN_SIZE for promised, _ in pairs if promised < 2**32):
        return 0
    return max((promised - found for promised, found in pairs), default=0)


def _reason(error: sf.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")


def _virtual_file(path: str | os.PathLike[str]) -> io.FileIO | None:
    """A view of a file whose header does not say how long it is, so that libsndfile reads on to its end; else None."""
    with open(path, "rb") as file:
        head = file.read(2**16)
        if head.startswith(b"ID3"):  # its size has 7 bits in each of 4 bytes
            file.seek(10 + sum(byte << (21 - 7 * i) for i, byte in enumerate(head[6:10])))
            frame = file.read(192)
        else:
            frame = head[:192]
    if _is_mp3_of_unknown_length(frame):
        return _EndlessFile(path)
    place = _empty_data_chunk(head)
    if place is not None and os.path.getsize(path) > place + 8:
        return _PatchedFile(path, place)
    return None


def _is_mp3_of_unknown_length(frame: bytes) -> bool:
    """Whether this first MPEG audio frame announces no length, or the length 0."""
    if not (len(frame) > 1 and frame[0] == 0xFF and frame[1] >= 0xE0):
        return False
    for tag in (b"Xing", b"Info"):
        place = frame.find(tag)
        if place >= 0:
            has_count = frame[place + 7] & 1 if len(frame) > place + 7 else 0
            return not has_count or frame[place + 8 : place + 12] == bytes(4)
    return b"VBRI" not in frame


def _empty_data_chunk(head: bytes) -> int | None:
    """Where the size of a WAV's samples stands, if it is 0 as in a stream that could not go back; else None."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    place = 12
    while place + 8 <= len(head):
        size = int.from_bytes(head[place + 4 : place + 8], "little")
        if head[place : place + 4] == b"data":
            return place + 4 if size == 0 else None
        place += 8 + size + size % 2
    return None


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


class _PatchedFile(io.FileIO):
    """A WAV whose samples are said to take 0 bytes, as if it said that they reach to the end of the file."""

    def __init__(self, path: str | os.PathLike[str], place: int):
        super().__init__(path)
        size = os.path.getsize(path)
        self._patches = {place: min(size - place - 4, 2**32 - 1), 4: min(size - 8, 2**32 - 1)}

    def readinto(self, buffer: Any, /) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for place, value in self._patches.items():
            for i, byte in enumerate(value.to_bytes(4, "little")):
                if start <= place + i < start + count:
                    view[place + i - start] = byte
        return count


def _ends_as_ogg(path: str | os.PathLike[str]) -> bool:
    """Whether the last page of an Ogg file is marked as the last of its stream."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 2**17))  # a page has less than 64 KiB
        tail = file.read()
    place = tail.rfind(b"OggS\x00")
    return place >= 0 and len(tail) > place + 5 and bool(tail[place + 5] & 4)


# ---- PyAV ------------------------------------------------------------------------------------------------------------


class _AvDecoder(Decoder):
    def __init__(self, path: str | os.PathLike[str]):
        import av

        av.logging.set_level(None)
        with ExitStack() as stack:
            unknown = f"{path}: is not audio in a known format"
            with wrap_errors(unknown, av.error.FFmpegError, ValueError):
                container = stack.enter_context(av.open(os.path.abspath(path), options=_AV_OPTIONS))
            require(container.streams.audio, f"{path}: holds no audio")
            stream = container.streams.audio[0]
            require(stream.rate and stream.channels, f"{path}: is damaged: its header cannot be read")
            self._on_close = stack.pop_all()
        self.sample_rate, self.num_channels, self.num_samples = stream.rate, stream.channels, None
        self.format = f"{container.format.name.split(',')[0]}/{stream.codec_context.name}"
        self._damage = av.error.FFmpegError
        self._frames = self._decode(container, stream, av.AudioResampler("fltp", stream.layout, stream.rate))
        self._rest = np.zeros((self.num_channels, 0), np.float32)

    def _decode(self, container: Any, stream: Any, resampler: Any) -> Iterator[NDArray[np.float32]]:
        for frame in container.decode(stream):
            for converted in resampler.resample(frame):
                yield converted.to_ndarray()
        for converted in resampler.resample(None):
            yield converted.to_ndarray()

    def read(self, num_samples: int) -> NDArray[np.float32]:
        parts, count = [self._rest], self._rest.shape[1]
        try:
            while count < num_samples and (frame := next(self._frames, None)) is not None:
                parts.append(frame)
                count += frame.shape[1]
        except self._damage as error:
            self._rest = self._rest[:, :0]
            raise Damage(str(error), np.concatenate(parts, axis=1)) from error
        samples = np.concatenate(parts, axis=1)
        self._rest = samples[:, num_samples:]
        return samples[:, :num_samples]

    def seek(self, sample: int) -> bool:
        return False

    def missing(self) -> str | None:
        return None

    def close(self) -> None:
        self._on_close.close()
