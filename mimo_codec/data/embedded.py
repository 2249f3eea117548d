"""Audio files inside shards: an utterance -> a path that the decoders can open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from mimo_codec.common.checks import require
from mimo_codec.common.files import open_regular
from mimo_codec.common.spooled import SpooledFile
from mimo_codec.data.arrow import row_bytes
from mimo_codec.data.utterance import Utterance


@contextmanager
def audio_file(utterance: Utterance) -> Iterator[os.PathLike[str]]:
    """Yield the path of an utterance's audio file; of one in a shard, that of a copy, which is removed afterwards.

    In errors the copy has the name of the utterance. Raises OSError when the shard cannot be read, and MimoError when
    the audio is not in it.
    """
    if utterance.offset is None and utterance.row is None:
        yield utterance.path
        return
    suffix = PurePosixPath(utterance.member or "").suffix
    yield SpooledFile(_bytes(utterance), utterance.name, suffix if suffix.isascii() and "\0" not in suffix else "")


def _bytes(utterance: Utterance) -> bytes:
    """The bytes of an audio file in a shard."""
    path = utterance.path
    if utterance.row is not None:
        assert utterance.column is not None
        stamp = os.stat(path).st_mtime_ns  # a file that has changed is read again
        return row_bytes(path, stamp, utterance.column, utterance.row)
    assert utterance.offset is not None and utterance.num_bytes is not None
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        is_inside = utterance.offset + utterance.num_bytes <= size
        require(is_inside, f"{utterance.name}: lies beyond the end of the shard, which has {size} bytes")
        file.seek(utterance.offset)
        return file.read(utterance.num_bytes)
