"""Changes that a damaged disk, a broken writer or an attacker may make to bytes and to JSON."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x00", "\x1b[31m", "\ud800", "a" * 100_000, "/etc/passwd", "../..", [], {}, [[]]),
    *(0, 1, -1, 2, 3, 5, 7, 1.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), 10**400, -(10**18)),
    *(2**20, 2**31, 2**63, 65536, 10**9, [1] * 1000, [-1], ["x"], {"a": 1}, [None], [1e300], [10**400]),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Between one and eight changes: bits, bytes, integers, pieces cut out, repeated, moved or filled with zeros."""
    changed = bytearray(data)
    near_start = rng.random() < 0.5  # where headers are
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(changed)
        if not size:
            break
        at = rng.randrange(min(size, 128) if near_start else size)
        rng.choice(_BYTE_CHANGES)(changed, at, rng)
    return bytes(changed)


def _flip(data: bytearray, at: int, rng: random.Random) -> None:
    data[at] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, at: int, rng: random.Random) -> None:
    data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _integer(data: bytearray, at: int, rng: random.Random) -> None:
    width, code = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    value = rng.choice(NUMBERS) % 2 ** (8 * width)
    data[at : at + width] = struct.pack(rng.choice("<>") + code, value)


def _cut(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + _length(rng)]


def _truncate(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at:]


def _repeat(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = data[at : at + _length(rng)] * rng.choice((1, 1, 2, 50))


def _insert(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = rng.randbytes(_length(rng))


def _zero(data: bytearray, at: int, rng: random.Random) -> None:
    length = min(_length(rng), len(data) - at)
    data[at : at + length] = bytes(length)


def _move(data: bytearray, at: int, rng: random.Random) -> None:
    piece = data[at : at + _length(rng)]
    del data[at : at + len(piece)]
    place = rng.randrange(len(data) + 1)
    data[place:place] = piece


def _length(rng: random.Random) -> int:
    return rng.choice((1, 2, 4, 8, 16, 100, 1000))


_BYTE_CHANGES = (_flip, _flip, _replace, _integer, _integer, _cut, _truncate, _repeat, _insert, _zero, _move)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """One to three changes at random places: odd values, keys that are missing, new or renamed, numbers nearby."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return rng.choice(ODD_VALUES)
        container, key = rng.choice(places)
        kind = rng.randrange(8)
        old = container[key]
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(("", "x", f"{key}_", "__class__", "\x1b[2J"))] = container.pop(key)
        elif kind == 2 and isinstance(old, (int, float)) and not isinstance(old, bool):
            container[key] = rng.choice(
                (-old, old + 1, old - 1, old * 2, old * 1000, old // 2, str(old)[:99], [old], 0.5)
            )
        elif kind == 3 and isinstance(old, list) and old:
            container[key] = rng.choice((old * 2, old[:-1], old[::-1], [old], old * 300))
        elif kind == 4 and isinstance(old, str):
            container[key] = rng.choice((old + "x", old[:-1], old.upper(), old * 1000, f" {old}", f"{old}\n", 1))
        else:
            container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return rng.choice(ODD_VALUES) if rng.random() < 0.01 else changed


def _places(value: Any) -> Any:
    """Every (container, key or index) below `value`, from the outside in."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def mutate_json_text(text: str, rng: random.Random) -> bytes:
    """JSON whose values are changed, or whose bytes are."""
    if rng.random() < 0.15:
        return mutate_bytes(text.encode(), rng)
    return json.dumps(mutate_json(json.loads(text), rng)).encode("utf-8", "surrogatepass")


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A file whose header says other names, types, shapes or places, or whose bytes are changed."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(mutate_json(json.loads(data[8 : 8 + size]), rng)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def odd_weights(data: bytes, rng: random.Random) -> bytes:
    """Numbers that no training makes among the weights: NaN, infinite, huge."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 100))):
        at = start + 4 * rng.randrange((len(data) - start) // 4)
        changed[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e30)))
    return bytes(changed)
