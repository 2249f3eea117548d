"""The bytes of a .mimo file.

Version 1 (integers are little endian):

    offset   bytes  content
    0        4      magic, b"MIMO"
    4        1      version, 1
    5        2      H, length of the header
    7        H      header: JSON in UTF-8, an object with exactly these fields
                      "model"        "name@fingerprint" of the model, or null
                      "codebooks"    sizes of the Q codebooks as runs [size, count], first to last
                      "frames"       T
                      "samples"      length of the audio at "sample_rate"
                      "frame_rate"   code frames per second
                      "sample_rate"  samples per second
    7+H      N      the codes, see below
    7+H+N    4      CRC-32 (that of zlib) of everything before it

A code of a codebook with `size` entries takes (size - 1).bit_length() bits, none when the size is
1. The codes follow frame by frame, within a frame from the first codebook to the last, each with
its most significant bit first, without gaps; zero bits fill the last byte. A file holds at most
2**27 codes, and at most 2**20 of codebooks of size 1, which take no bits: the memory that a header
asks for is in proportion to the size of the file.
"""

from __future__ import annotations

import json
import reprlib
import struct
import zlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import check_integer, require, wrap_errors

MAGIC = b"MIMO"
VERSION = 1
MAX_CODEBOOKS = 256
MAX_CODEBOOK_SIZE = 1 << 16
MAX_CODES = 1 << 27
MAX_CODES_WITHOUT_BITS = 1 << 20

_PREFIX = struct.Struct("<4sBH")
_CHECKSUM = struct.Struct("<I")
MAX_BYTES = _PREFIX.size + 2**16 + MAX_CODES * 2 + _CHECKSUM.size
"""No file is larger: of a code of the largest codebook, 65536, 16 bits are kept."""
_FIELDS = {"model", "codebooks", "frames", "samples", "frame_rate", "sample_rate"}
_FRAMES_PER_BLOCK = 4096  # bounds the memory; a multiple of 8, so that blocks meet at whole bytes


def encode(
    *,
    codes: NDArray[np.integer[Any]],
    num_samples: int,
    sample_rate: int,
    frame_rate: float,
    codebook_sizes: Sequence[int],
    model: str | None,
) -> bytes:
    """Turn the fields of an AudioCodes, `codes` [Q, T], into a .mimo file.

    Raises MimoError above 2**27 codes; all other values are trusted, as AudioCodes has checked them.
    """
    num_frames = codes.shape[1]
    _check_code_count(codebook_sizes, num_frames)
    header = {
        "model": model,
        "codebooks": [[size, len(list(run))] for size, run in groupby(codebook_sizes)],
        "frames": num_frames,
        "samples": num_samples,
        "frame_rate": frame_rate,
        "sample_rate": sample_rate,
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    payload = _pack(codes, code_widths(codebook_sizes))
    data = _PREFIX.pack(MAGIC, VERSION, len(text)) + text + payload
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode(data: bytes) -> dict[str, Any]:
    """Read a .mimo file -> the fields of an AudioCodes, `codes` int64 [Q, T].

    Magic, version, checksum, header, codes: each is looked at only when those before it hold, and
    memory is asked for only when the header describes exactly the bytes that are there. Raises
    MimoError for anything else. Values that do not matter here are left to AudioCodes.
    """
    require(data, "empty; a .mimo file is expected")
    require(data[: len(MAGIC)] == MAGIC, "not a .mimo file (it does not begin with MIMO)")
    require(len(data) >= _PREFIX.size + _CHECKSUM.size, "cut short")
    _, version, header_size = _PREFIX.unpack_from(data)
    require(version <= VERSION, f"version {version}; this release reads up to {VERSION}: upgrade mimo-codec")
    require(version >= 1, f"damaged: there is no version {version}")
    body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    matches = _CHECKSUM.pack(zlib.crc32(body)) == checksum
    require(matches, "damaged, cut short or has bytes added: the checksum does not match")
    payload_start = _PREFIX.size + header_size
    require(payload_start <= len(body), f"malformed: it cannot hold a header of {header_size} bytes")
    header = _parse_header(body[_PREFIX.size : payload_start])
    sizes = _expand_runs(header["codebooks"])
    return {
        "codes": _read_codes(body[payload_start:], sizes, header["frames"]),
        "num_samples": header["samples"],
        "sample_rate": header["sample_rate"],
        "frame_rate": header["frame_rate"],
        "codebook_sizes": sizes,
        "model": header["model"],
    }


def code_widths(codebook_sizes: Sequence[int]) -> list[int]:
    """Return how many bits one code of each codebook takes."""
    return [(size - 1).bit_length() for size in codebook_sizes]


def _check_code_count(sizes: Sequence[int], num_frames: int) -> None:
    asked = f"{len(sizes)} codebooks x {num_frames} frames"
    message = f"{asked} are too many for one file, which holds {MAX_CODES} codes"
    require(len(sizes) * num_frames <= MAX_CODES, message)
    fits = sum(size == 1 for size in sizes) * num_frames <= MAX_CODES_WITHOUT_BITS
    require(fits, f"{message}, {MAX_CODES_WITHOUT_BITS} of codebooks with one entry")


def _parse_header(text: bytes) -> dict[str, Any]:
    with wrap_errors("malformed: the header is not JSON", ValueError, RecursionError):
        header: dict[str, Any] = json.loads(text.decode())
    require(isinstance(header, dict), "malformed: the header is not a JSON object")
    missing, unknown = _FIELDS - header.keys(), header.keys() - _FIELDS
    difference = f"missing {sorted(missing)}, unknown {reprlib.repr(sorted(unknown))}"
    require(not missing and not unknown, f"malformed: the header has other fields: {difference}")
    return header


def _expand_runs(runs: Any) -> list[int]:
    """[[1024, 2], [128, 3]] -> [1024, 1024, 128, 128, 128]."""
    are_runs = isinstance(runs, list) and all(isinstance(run, list) and len(run) == 2 for run in runs)
    require(are_runs, "malformed: codebooks must be a list of [size, count]")
    sizes: list[int] = []
    for size, count in runs:
        checked_size = check_integer("a codebook size", size, 1, MAX_CODEBOOK_SIZE)
        left = MAX_CODEBOOKS - len(sizes)
        sizes += [checked_size] * check_integer("a count of codebooks", count, 1, left)
    return sizes


def _read_codes(payload: bytes, sizes: Sequence[int], frames: object) -> NDArray[np.int64]:
    num_frames = check_integer("frames", frames, 1, MAX_CODES)
    _check_code_count(sizes, num_frames)
    widths = code_widths(sizes)
    num_bits = num_frames * sum(widths)
    num_bytes = (num_bits + 7) // 8
    expected = f"{num_frames} frames take {num_bytes} bytes"
    require(len(payload) == num_bytes, f"malformed: {expected}, there are {len(payload)}")
    padding = payload[-1] & ((1 << 8 * num_bytes - num_bits) - 1) if payload else 0
    require(not padding, "malformed: the bits after the last code are not zero")
    return _unpack(payload, widths, num_frames)


def _pack(codes: NDArray[np.integer[Any]], widths: Sequence[int]) -> bytes:
    """[Q, T] -> T x sum(widths) bits, filled up to a byte."""
    packed = []
    for start in range(0, codes.shape[1], _FRAMES_PER_BLOCK):
        block = codes[:, start : start + _FRAMES_PER_BLOCK]
        bits = np.empty((block.shape[1], sum(widths)), dtype=np.uint8)
        offset = 0
        for values, width in zip(block, widths, strict=True):
            shifts = np.arange(width)[::-1]
            bits[:, offset : offset + width] = (values[:, None] >> shifts) & 1
            offset += width
        packed.append(np.packbits(bits).tobytes())
    return b"".join(packed)


def _unpack(payload: bytes, widths: Sequence[int], num_frames: int) -> NDArray[np.int64]:
    """Inverse of `_pack`."""
    codes = np.zeros((len(widths), num_frames), dtype=np.int64)
    packed = np.frombuffer(payload, dtype=np.uint8)
    frame_bits = sum(widths)
    for start in range(0, num_frames if frame_bits else 0, _FRAMES_PER_BLOCK):
        stop = min(start + _FRAMES_PER_BLOCK, num_frames)
        block = packed[start * frame_bits // 8 : -(-stop * frame_bits // 8)]
        bits = np.unpackbits(block, count=(stop - start) * frame_bits).reshape(-1, frame_bits)
        offset = 0
        for values, width in zip(codes, widths, strict=True):
            weights = 1 << np.arange(width)[::-1]
            values[start:stop] = bits[:, offset : offset + width] @ weights
            offset += width
    return codes
