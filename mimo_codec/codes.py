"""AudioCodes: the codes of one piece of audio, [Q, T], with their rates; saved as a .mimo file.

Building, slicing, saving and loading need only numpy; torch is used when it is there. The bytes
of a .mimo file are described in `bitstream.py`.
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mimo_codec import bitstream
from mimo_codec.bitstream import MAGIC, MAX_CODEBOOK_SIZE, MAX_CODEBOOKS, code_widths
from mimo_codec.common.arrays import concatenate, dtype_name, has_values, is_array, is_tensor, to_numpy, to_tensor
from mimo_codec.common.checks import check_integer, check_number, error_prefix, require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path, open_regular
from mimo_codec.common.rounding import ceil_div
from mimo_codec.common.spooled import as_path

if TYPE_CHECKING:
    import torch

MIN_FRAME_RATE = 1e-3
MAX_SAMPLE_RATE = 1_000_000
MAX_MODEL_LENGTH = 64

_INTEGER_DTYPES = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_FRAME_TOLERANCE = 1e-6  # in frames: k / frame_rate seconds is frame k in spite of rounding


@dataclass(frozen=True, eq=False)
class AudioCodes:
    """The codes of one piece of audio and what is needed to decode them.

    Every field is validated; MimoError names the one that is wrong. The array is not copied.
    """

    codes: torch.Tensor | NDArray[np.integer[Any]]
    """int64 [Q, T], 0 <= code < size of its codebook; a tensor (on any device) stays a tensor, a
    numpy array stays a numpy array; other integer types are converted."""
    num_samples: int
    """Length of the audio at `sample_rate`, at least 1 and at most that of T frames."""
    sample_rate: int
    """Samples per second, a whole multiple of `frame_rate`."""
    frame_rate: float
    """Code frames per second."""
    codebook_sizes: tuple[int, ...]
    """Entries of each of the Q codebooks, 1 to 65536."""
    model: str | None = None
    """The model that made the codes, "name@fingerprint"; None when unknown."""

    def __post_init__(self) -> None:
        """Check every field and store it in its own type."""
        sizes = _check_sizes(self.codebook_sizes)
        codes = _check_codes(self.codes, sizes)
        sample_rate = check_integer("sample_rate", self.sample_rate, 1, MAX_SAMPLE_RATE)
        frame_rate = _check_frame_rate(self.frame_rate, sample_rate)
        max_samples = codes.shape[1] * round(sample_rate / frame_rate)
        num_samples = check_integer("num_samples", self.num_samples, 1, max_samples)
        model = _check_model(self.model)
        checked = (codes, num_samples, sample_rate, frame_rate, sizes, model)
        for field, value in zip(fields(self), checked, strict=True):
            object.__setattr__(self, field.name, value)
        _allow_in_torch()

    @property
    def num_quantizers(self) -> int:
        """Q, the number of codebooks."""
        return len(self.codebook_sizes)

    @property
    def num_frames(self) -> int:
        """T, the number of code frames."""
        return int(self.codes.shape[1])

    @property
    def samples_per_frame(self) -> int:
        """Samples that one code frame stands for."""
        return round(self.sample_rate / self.frame_rate)

    @property
    def duration(self) -> float:
        """Length of the audio in seconds."""
        return self.num_samples / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the packed codes, header not counted."""
        return sum(code_widths(self.codebook_sizes)) * self.frame_rate

    def __len__(self) -> int:
        """Return T, the number of code frames."""
        return self.num_frames

    def __eq__(self, other: object) -> bool:
        """Compare all fields; the codes by value, whether they are a tensor or a numpy array."""
        if not isinstance(other, AudioCodes):
            return NotImplemented
        names = [field.name for field in fields(self) if field.name != "codes"]
        return all(getattr(self, name) == getattr(other, name) for name in names) and (
            np.array_equal(to_numpy(self.codes), to_numpy(other.codes))
        )

    def __repr__(self) -> str:
        """Describe the size of the codes, not their values."""
        return (
            f"AudioCodes({self.num_quantizers} codebooks x {self.num_frames} frames, "
            f"{self.duration:.3f} s at {self.sample_rate} Hz, {self.bitrate / 1000:.2f} kbit/s, "
            f"model={self.model!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """All fields; codes that are an array as bytes, which `torch.load(weights_only=True)` reads too."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return state | ({} if is_tensor(self.codes) else {"codes": to_numpy(self.codes).astype("<i8").tobytes()})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check every field, as when it is made: a pickle may come from anywhere."""
        codes = state.get("codes")
        if isinstance(codes, bytes):
            count = len(_check_sizes(state.get("codebook_sizes")))
            require(len(codes) % (8 * count) == 0, "codes: a pickle that is cut short")
            codes = np.frombuffer(codes, "<i8").astype(np.int64).reshape(count, -1)
        values = state | {"codes": codes}
        require(values.keys() == {field.name for field in fields(self)}, "AudioCodes: a pickle with other fields")
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __iter__(self) -> Iterator[torch.Tensor | NDArray[np.integer[Any]]]:
        """Iterate over the frames, each [Q, 1], as `decode_chunk` takes them."""
        return (self.codes[:, frame : frame + 1] for frame in range(self.num_frames))

    def __add__(self, other: AudioCodes) -> AudioCodes:
        """Join two pieces in time; `codes[:1] + codes[1:]` is `codes`.

        Frames after the last sample of the first piece are left out. If it ends inside a frame, the rest of that frame
        is heard before the second piece. Raises MimoError for codes of different models, rates or codebooks.
        """
        if not isinstance(other, AudioCodes):
            return NotImplemented
        for name in ("sample_rate", "frame_rate", "codebook_sizes", "model"):
            ours, theirs = getattr(self, name), getattr(other, name)
            require(ours == theirs, f"AudioCodes cannot be joined: {name} is {ours} in one and {theirs} in the other")
        num_frames = ceil_div(self.num_samples, self.samples_per_frame)
        first, second = self.codes[:, :num_frames], other.codes
        if is_tensor(first):
            joined: Any = concatenate([first, to_tensor(second).to(first.device)])
        else:
            joined = concatenate([to_numpy(first), to_numpy(second)])
        return replace(self, codes=joined, num_samples=num_frames * self.samples_per_frame + other.num_samples)

    def to(self, device: str | torch.device) -> AudioCodes:
        """Return the same codes as a tensor on a device."""
        return replace(self, codes=to_tensor(self.codes).to(device))

    @staticmethod
    def collate(items: Sequence[AudioCodes]) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a batch for a model: codes [B, Q, T] int64, shorter items padded with zeros, and frames of each [B].

        It can be given to a `torch.utils.data.DataLoader` as `collate_fn`. Raises MimoError for an empty list, and for
        items with different codebooks.
        """
        import torch

        require(items, "AudioCodes.collate: at least one item is needed")
        sizes = {item.codebook_sizes for item in items}
        require(len(sizes) == 1, f"AudioCodes.collate: the items have different codebooks: {reprlib.repr(sizes)}")
        rows = [to_tensor(item.codes).T for item in items]
        batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2).contiguous()
        return batch, torch.tensor([item.num_frames for item in items])

    def __getitem__(self, seconds: slice) -> AudioCodes:
        """Cut out the frames that cover an interval in seconds, e.g. `codes[0.5:2.0]` or `codes[-1:]`.

        The start is rounded down to a frame, the stop up; negative times count from the end, and
        times outside the audio are clamped to it. `num_samples` is what these frames cover: cuts
        at frame boundaries split the audio without gap or overlap, and a slice that reaches the
        last sample keeps all frames to the end. Raises MimoError when nothing is left.
        """
        if not isinstance(seconds, slice) or seconds.step is not None:
            raise MimoError("AudioCodes are cut by seconds, without a step: codes[0.5:2.0]")
        start = 0.0 if seconds.start is None else self._position(seconds.start)
        stop = self.duration if seconds.stop is None else self._position(seconds.stop)
        start_frame = math.floor(start * self.frame_rate + _FRAME_TOLERANCE)
        stop_frame = math.ceil(stop * self.frame_rate - _FRAME_TOLERANCE)
        stop_sample = min(stop_frame * self.samples_per_frame, self.num_samples)
        num_samples = stop_sample - start_frame * self.samples_per_frame
        interval = f"from {seconds.start} to {seconds.stop} s"
        is_empty = start >= stop or num_samples < 1
        require(not is_empty, f"no codes {interval}: the audio is {self.duration:.3f} s long")
        if stop_sample == self.num_samples:
            stop_frame = self.num_frames
        return replace(self, codes=self.codes[:, start_frame:stop_frame], num_samples=num_samples)

    def _position(self, seconds: object) -> float:
        """Seconds from the start, clamped to the audio."""
        time = check_number("a time in seconds", seconds, -math.inf, math.inf)
        return min(max(time + self.duration if time < 0 else time, 0.0), self.duration)

    def first(self, num_quantizers: int) -> AudioCodes:
        """Return the same audio with the first `num_quantizers` codebooks only."""
        count = check_integer("num_quantizers", num_quantizers, 1, MAX_CODEBOOKS)
        present = self.num_quantizers
        require(count <= present, f"AudioCodes has {present} codebooks, {count} were asked for")
        return replace(self, codes=self.codes[:count], codebook_sizes=self.codebook_sizes[:count])

    def to_numpy(self) -> NDArray[np.int64]:
        """Return a copy of the codes, int64 [Q, T]."""
        return np.array(to_numpy(self.codes), dtype=np.int64)

    def to_bytes(self) -> bytes:
        """Return the content of a .mimo file; raise MimoError above 2**27 codes."""
        return bitstream.encode(
            codes=to_numpy(self.codes),
            num_samples=self.num_samples,
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
            codebook_sizes=self.codebook_sizes,
            model=self.model,
        )

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "data") -> AudioCodes:
        """Read the content of a .mimo file; `codes` is a CPU tensor where torch can be imported, else a numpy array.

        Raises MimoError, which names `source`, for anything but an undamaged .mimo file.
        """
        with error_prefix(source):
            content = bitstream.decode(data)
            return cls(**content | {"codes": to_tensor(content["codes"])})

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write a .mimo file, whole or not at all; raise MimoError when it cannot be written."""
        data = self.to_bytes()
        with atomic_path(path, overwrite) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | bytes | BinaryIO) -> AudioCodes:
        """Read a .mimo file; `codes` is a CPU tensor where torch can be imported, else numpy.

        path: of the file, or its content in bytes, or a binary file object, which is read to its end.
        Raises MimoError, naming the path, when there is no such file, and when it is not a .mimo
        file, of a newer version, cut short or damaged.
        """
        path = as_path(path, "codes")
        # ValueError: a null character in the name
        with wrap_errors(f"{path}: cannot be read", OSError, ValueError), open_regular(path) as file:
            data = file.read(len(MAGIC))
            if data == MAGIC:  # any other file may be huge, and is refused by its first bytes
                size = os.fstat(file.fileno()).st_size
                require(size <= bitstream.MAX_BYTES, f"{path}: has {size} bytes, more than any .mimo file")
                data += file.read()
        return cls.from_bytes(data, source=str(path))


def begins_as_codes(path: str | os.PathLike[str]) -> bool:
    """Whether this is a file that begins as a .mimo file does; False where no file can be read."""
    if not os.path.isfile(path):  # a pipe might never say
        return False
    with suppress(OSError), open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
    return False


def _check_sizes(sizes: object) -> tuple[int, ...]:
    if not isinstance(sizes, (tuple, list)) or not 1 <= len(sizes) <= MAX_CODEBOOKS:
        raise MimoError(f"codebook_sizes must be 1 to {MAX_CODEBOOKS} integers, not {reprlib.repr(sizes)}")
    return tuple(check_integer("a codebook size", s, 1, MAX_CODEBOOK_SIZE) for s in sizes)


def _check_frame_rate(value: object, sample_rate: int) -> float:
    frame_rate = check_number("frame_rate", value, MIN_FRAME_RATE, sample_rate)
    samples_per_frame = sample_rate / frame_rate
    divides = math.isclose(samples_per_frame, round(samples_per_frame))
    require(divides, f"frame_rate {frame_rate} does not divide sample_rate {sample_rate}")
    return frame_rate


def _check_model(model: Any) -> str | None:
    if model is None:
        return None
    is_name = isinstance(model, str) and 1 <= len(model) <= MAX_MODEL_LENGTH and model.isprintable()
    require(is_name, f"model must be 1 to {MAX_MODEL_LENGTH} printable characters, not {reprlib.repr(model)}")
    return str(model)


def _check_codes(codes: object, sizes: tuple[int, ...]) -> torch.Tensor | NDArray[np.int64]:
    """int64 [Q, T] of the same kind, every value inside its codebook."""
    if not is_array(codes):
        raise MimoError(f"codes must be a torch tensor or a numpy array, not {type(codes).__name__}")
    require(has_values(codes), "codes: is a sparse, nested or meta tensor; a plain one is needed")
    require(dtype_name(codes) in _INTEGER_DTYPES, f"codes must be integers, not {codes.dtype}")
    shape = tuple(codes.shape)
    is_filled = len(shape) == 2 and 0 not in shape
    require(is_filled, f"codes must be [Q, T], at least one codebook and frame, not {shape}")
    require(shape[0] == len(sizes), f"codes has {shape[0]} codebooks, codebook_sizes has {len(sizes)}")
    values = to_numpy(codes)
    bad = (values < 0) | (values >= np.array(sizes)[:, None])
    if bad.any():
        codebook, frame = np.unravel_index(bad.argmax(), shape)
        where = f"codebook {codebook}, frame {frame}: {values[codebook, frame]}"
        raise MimoError(f"code out of range at {where} is not in 0..{sizes[codebook] - 1}")
    return codes.long() if is_tensor(codes) else values.astype(np.int64, copy=False)


def _allow_in_torch() -> None:
    """Let `torch.load(weights_only=True)`, which reads no other classes, read AudioCodes, where torch is imported."""
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "serialization") and AudioCodes not in torch.serialization.get_safe_globals():
        torch.serialization.add_safe_globals([AudioCodes])


_allow_in_torch()
