"""Codes of audio files, computed once: kept by the audio's hash and the codec's fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from mimo_codec.audio.files import audio_info
from mimo_codec.audio.formats import AUDIO, AV_SUFFIXES
from mimo_codec.codes import AudioCodes, begins_as_codes
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError, MimoWarning
from mimo_codec.common.files import cache_folder, make_folder, open_regular, write_json
from mimo_codec.lm.audio import Audio, AudioReader

AHEAD_SECONDS = 30.0
"""Longest file that is encoded together with others."""
SETTLED_SECONDS = 2.0
"""Age from which the time of a file tells whether it has changed."""
MAX_NAME = 4096
"""Longest text that may be the name of a file."""


class CachedReader(AudioReader):
    """Reads audio as codes like its parent, and keeps the codes of files in a folder.

    Paths count from `base`, the folder of the file that names them.
    """

    def __init__(self, *arguments: Any, cache: Path | None = None):
        """Take the arguments of AudioReader; cache: folder of the codes, by default one for this user."""
        super().__init__(*arguments)
        self.base = Path()
        self.cache = cache_folder() / "codes" if cache is None else cache
        self.is_kept = True

    def encode(self, audio: Audio, where: str = "audio") -> AudioCodes | NDArray[Any]:
        """Return codes; those of a file come from the cache where they are in it."""
        if isinstance(audio, Mapping) and audio.get("bytes") is None and audio.get("array") is None:
            audio = cast("Audio", audio.get("path"))
        if not isinstance(audio, (str, os.PathLike)):
            return super().encode(audio, where)
        path = self._locate(audio)
        require(os.path.exists(path), f"{where}: there is no file {path}")
        require(not os.path.isdir(path), f"{where}: {path} is a folder; the name of a file is needed")
        if self.codec is None or begins_as_codes(path):
            return super().encode(path, where)
        kept = self._place(path)
        with suppress(MimoError):  # none yet, or damaged
            return AudioCodes.load(kept)
        info = audio_info(path)
        self._check_seconds((info.num_samples or 0,), info.sample_rate, where)
        codes = self.codec.encode(path, num_quantizers=self.config.audio_channels)
        self._keep(codes, kept)
        return codes

    def encode_ahead(self, rows: Iterable[object]) -> None:
        """Encode the short files that rows name and whose codes are not kept yet, in batches.

        What cannot be read is left to `encode`, which says why. Nothing is done where codes cannot be kept.
        """
        if self.codec is None or not self.is_kept:
            return
        found: dict[Path, Path] = {}
        for name in (name for row in rows for name in _names_of_audio(row)):
            with suppress(MimoError, OSError, ValueError):
                path = self._locate(name)
                if path.is_file() and (kept := self._place(path)) not in found and not kept.is_file():
                    info = audio_info(path)
                    if info.num_samples and info.num_samples <= AHEAD_SECONDS * info.sample_rate:
                        found[kept] = path
        if not found:
            return
        with suppress(MimoError):
            coded = self.codec.encode_batch(list(found.values()), num_quantizers=self.config.audio_channels)
            for kept, codes in zip(found, coded, strict=True):
                self._keep(codes, kept)

    def _locate(self, name: str | os.PathLike[str]) -> Path:
        return self.base / os.path.expanduser(name)

    def _place(self, path: Path) -> Path:
        """Where the codes of a file are kept."""
        assert self.codec is not None
        fingerprint = self.codec.model_id.rpartition("@")[2]
        name = f"{self._hash(path)}-{self.config.audio_channels}"
        return self.cache / fingerprint / name[:2] / f"{name}.mimo"

    def _hash(self, path: Path) -> str:
        """Hash of a file, read again only when its size or times have changed.

        The second time is that of its entry: archives and copies give files the times of others.
        """
        with wrap_errors(f"{path}: cannot be read", OSError):
            about = os.stat(path)
        mark = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
        place = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
        noted = self.cache / "hashes" / place[:2] / f"{place}.json"
        with suppress(OSError, ValueError, TypeError):
            *before, found = json.loads(noted.read_bytes())
            if before == mark:
                return str(found)
        made = _read_hash(path)
        if time.time() - about.st_mtime > SETTLED_SECONDS:
            with self._writing():
                make_folder(noted.parent)
                write_json(noted, [*mark, made])
        return made

    def _keep(self, codes: AudioCodes, path: Path) -> None:
        with self._writing():
            make_folder(path.parent)
            codes.save(path, overwrite=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Warn, once, when the cache cannot be written: it saves time, and no row depends on it."""
        try:
            yield
        except MimoError as error:
            if self.is_kept:
                self.is_kept = False
                rank_zero_warn(f"codes of audio are not kept for later runs: {error}", category=MimoWarning)


def _names_of_audio(value: object) -> Iterator[str]:
    """Yield the texts in a row, however deep, that end like files of sound."""
    if isinstance(value, str):
        if len(value) <= MAX_NAME and value.lower().endswith((*AUDIO, *AV_SUFFIXES)):
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _names_of_audio(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _names_of_audio(inner)


def _read_hash(path: Path) -> str:
    with wrap_errors(f"{path}: cannot be read", OSError), open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
