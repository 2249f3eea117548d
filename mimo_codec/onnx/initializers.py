"""The weights inside an ONNX file, read without the package onnx, to find damaged ones.

A file is a message of Protocol Buffers: fields, each a number with a value. Those that lead to the weights are
ModelProto.graph = 7, GraphProto.initializer = 5 and the fields of TensorProto below.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import require, wrap_errors

_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL = 2, 4, 8, 9, 10, 13
_FLOAT, _HALF, _DOUBLE = 1, 10, 11
_DTYPES = {_FLOAT: "<f4", _HALF: "<f2", _DOUBLE: "<f8"}
_BLOCK = 2**22


def check_weights(path: Path) -> None:
    """MimoError, which names the tensor, when a weight in an ONNX file that ONNX Runtime takes is NaN or infinite."""
    with wrap_errors(f"{path}: its weights cannot be read", LookupError, ValueError, OSError):
        for name, values in _floats(np.memmap(path, np.uint8, "r").data, path.parent):
            for start in range(0, len(values), _BLOCK):
                is_finite = bool(np.isfinite(values[start : start + _BLOCK]).all())
                require(is_finite, f"{path}: damaged: {name} has NaN or infinite values")


def _floats(model: memoryview, folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and values of every floating-point initializer."""
    for number, graph in _fields(model):
        if number != _GRAPH or not isinstance(graph, memoryview):
            continue
        for kind, tensor in _fields(graph):
            if kind == _INITIALIZER and isinstance(tensor, memoryview):
                yield from _values(tensor, folder)


def _values(tensor: memoryview, folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    found = list(_fields(tensor))
    by_number: dict[int, Any] = dict(found)
    dtype = _DTYPES.get(int(by_number.get(_DATA_TYPE, 0)))
    if dtype is None:
        return
    name = bytes(by_number.get(_NAME, b"")).decode(errors="replace")
    for number, kind in ((_RAW, dtype), (_FLOATS, "<f4"), (_DOUBLES, "<f8")):
        if isinstance(data := by_number.get(number), memoryview):
            yield name, np.frombuffer(data, kind)
    entries = dict(_entry(value) for number, value in found if number == _EXTERNAL and isinstance(value, memoryview))
    if "location" in entries:
        offset, size = int(entries.get("offset", 0)), int(entries.get("length", 0))
        count = size // np.dtype(dtype).itemsize
        if count:
            yield name, np.memmap(folder / entries["location"], dtype, "r", offset, count)


def _entry(pair: memoryview) -> tuple[str, str]:
    texts = {number: bytes(value).decode() for number, value in _fields(pair) if isinstance(value, memoryview)}
    return texts.get(1, ""), texts.get(2, "")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field: an integer, or the bytes of what has a length."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}[kind]
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read an integer, seven bits a byte -> the integer and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
