"""Transcripts beside audio: a.txt for a.wav, and the lists of LibriSpeech (*.trans.txt) and LJSpeech (metadata.csv)."""

from __future__ import annotations

import codecs
from pathlib import Path

from mimo_codec.audio.formats import AUDIO
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import open_regular
from mimo_codec.data.utterance import Fault

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
METADATA, SEPARATOR, WAVS = "metadata.csv", "|", "wavs"


def decode_text(data: bytes) -> str:
    """Decode a text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; UnicodeDecodeError for others.

    UTF-16 without a mark is told by the zero bytes of its spaces and Latin letters.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding)
    zeros = [data[first::2].count(0) for first in (0, 1)]  # of the high bytes, if it is big-endian or little-endian
    if max(zeros) > min(zeros) and len(data) % 2 == 0:
        return data.decode("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le")
    return data.decode("utf-8")


def as_utf8(data: bytes) -> bytes:
    """Change a text with a byte order mark to UTF-8 without one; other bytes stay as they are."""
    return decode_text(data).encode() if data.startswith(tuple(mark for mark, _ in _MARKS)) else data


class Transcripts:
    """The texts of audio files in folders, and the faults of texts that cannot be read.

    A file of its own (a.txt for a.wav) counts more than a list.
    """

    def __init__(self, root: Path) -> None:
        """root: folder tree with all audio files; lists are read in it, and in the folder above one called wavs."""
        self.root = root.parent if root.name == WAVS else root
        self.faults: list[Fault] = []
        self._listed: dict[Path, dict[str, str]] = {}

    def of(self, audio: Path) -> str | None:
        """Return the text of an audio file on one line; None if it has none."""
        text = self._read(audio.with_suffix(".txt"))
        if text is None:
            name = audio.stem
            folders = (audio.parent, audio.parent.parent)  # LJSpeech's audio is in a folder of its own
            for folder in folders if audio.parent != self.root else folders[:1]:
                text = text or self._list(folder).get(name)
        return " ".join((text or "").split()) or None

    def _list(self, folder: Path) -> dict[str, str]:
        """Read the lists in a folder: name of the audio file without suffix -> text."""
        if folder not in self._listed:
            found: dict[str, str] = {}
            for path in sorted(folder.glob("*.trans.txt")):
                found |= dict(self._librispeech(path))
            found |= dict(self._ljspeech(folder / METADATA))
            self._listed[folder] = found
        return self._listed[folder]

    def _librispeech(self, path: Path) -> list[tuple[str, str]]:
        """Lines of a name, a space and a text."""
        lines = (self._read(path) or "").splitlines()
        pairs = (line.strip().partition(" ") for line in lines)
        return [(name, text) for name, _, text in pairs if text]

    def _ljspeech(self, path: Path) -> list[tuple[str, str]]:
        """Lines of a name, a text and perhaps the text with numbers and abbreviations as words, which is taken."""
        lines = [line for line in (self._read(path) or "").splitlines() if line.strip()]
        if any(SEPARATOR not in line for line in lines):
            reason = "is not in the layout of LJSpeech, name|text|text in words: its texts are not used"
            self.faults.append(Fault(path, "bad text", reason))
            return []
        rows = [line.split(SEPARATOR) for line in lines]
        return [(_stem(row[0].strip()), next((text for text in row[2:0:-1] if text.strip()), "")) for row in rows]

    def _read(self, path: Path) -> str | None:
        """Return the text of a file; None if there is none, or it cannot be read, which is a fault."""
        try:
            with open_regular(path) as file:
                return decode_text(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, MimoError, UnicodeDecodeError) as error:
            self.faults.append(Fault(path, "bad text", f"cannot be read as UTF-8 or UTF-16 ({error})"))
            return None


def _stem(name: str) -> str:
    """The last part of a path, without the suffix of an audio file; names may have dots of their own."""
    path = Path(name)
    return path.stem if path.suffix.lower() in AUDIO else path.name
