"""WebDataset shards: uncompressed tar files whose members belong together by their names up to the first dot."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mimo_codec.audio.formats import AUDIO
from mimo_codec.common.checks import wrap_errors
from mimo_codec.data.transcripts import decode_text
from mimo_codec.data.utterance import Fault, Utterance

TEXT_KEYS = ("text", "sentence", "transcription", "transcript", "normalized_text", "text_normalized", "raw_text")
SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")
"""What texts and speakers are called in the JSON of shards and in the columns of data sets; the first there is counts.
"""
MAX_ABOUT_BYTES = 2**20
"""The largest .txt or .json beside an audio file that is read."""


def shard_utterances(path: Path) -> tuple[list[Utterance], list[Fault]]:
    """List the audio files of a tar file, without extracting any; a.txt, or "text" in a.json, is the text of a.flac.

    A shard that ends too early gives what is whole, and a fault. Raises MimoError for what is not an uncompressed tar.
    """
    faults: list[Fault] = []
    audio: list[tuple[str, tarfile.TarInfo]] = []
    about: dict[str, dict[str, Any]] = {}
    size = os.path.getsize(path)
    problem = f"{path}: not an uncompressed tar file, whose members can be read at any place"
    with wrap_errors(problem, tarfile.TarError, OSError), tarfile.open(path, "r:") as shard:
        try:
            for member in shard:
                key, suffix = _key(member.name)
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                if suffix in AUDIO and member.size:
                    audio.append((key, member))
                elif suffix in (".txt", ".json") and member.size <= MAX_ABOUT_BYTES:
                    try:
                        found = _about(shard.extractfile(member).read(), suffix)  # type: ignore[union-attr]
                        about[key] = about.get(key, {}) | found
                    except (ValueError, RecursionError) as error:
                        faults.append(Fault(path, "bad text", f"cannot be read ({error})", member=member.name))
            with open(path, "rb") as file:  # tarfile says nothing of a shard that ends inside a header
                file.seek(shard.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("the mark of its end is missing")
        except (tarfile.TarError, EOFError) as error:
            faults.append(Fault(path, "damaged", f"the shard ends too early: {error}"))
    utterances = [
        Utterance(path, member=m.name, offset=m.offset_data, num_bytes=m.size, **about.get(key, {})) for key, m in audio
    ]
    return utterances, faults


def text_and_speaker(row: Mapping[str, Any]) -> dict[str, str]:
    """Find text and speaker among the values of a row, as arguments of an `Utterance`."""
    found: dict[str, str] = {}
    for name, keys in (("text", TEXT_KEYS), ("speaker", SPEAKER_KEYS)):
        values = (row.get(key) for key in keys)
        value = next((value for value in values if isinstance(value, (str, int)) and value != ""), None)
        if value is not None and not isinstance(value, bool):
            words = " ".join(str(value).split())
            found |= {name: words} if words else {}
    return found


def _key(name: str) -> tuple[str, str]:
    """What members of one sample share, and the last suffix in lower case."""
    path = PurePosixPath(name)
    return str(path.parent / (path.name.partition(".")[0] or path.name)), path.suffix.lower()


def _about(data: bytes, suffix: str) -> dict[str, str]:
    """What a .txt or .json says of the audio file beside it."""
    text = decode_text(data)
    if suffix == ".txt":
        return {"text": " ".join(text.split())} if text.strip() else {}
    row = json.loads(text)
    return text_and_speaker(row) if isinstance(row, Mapping) else {}
