"""Codes of audio files, computed once: kept by the audio's hash and the codec's fingerprint."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mimo_codec.audio.files import audio_info
from mimo_codec.audio.sources import AnyPath
from mimo_codec.codes import AudioCodes, begins_as_codes
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import cache_folder, make_folder, open_regular
from mimo_codec.lm.audio import Audio, AudioReader


class CachedReader(AudioReader):
    """Reads audio as codes like its parent, and keeps the codes of files in a folder.

    Paths count from `base`, the folder of the file that names them.
    """

    def __init__(self, *arguments: Any, cache: Path | None = None):
        """Take the arguments of AudioReader; cache: folder of the codes, by default one for this user."""
        super().__init__(*arguments)
        self.base = Path()
        self.cache = cache_folder() / "codes" if cache is None else cache

    def encode(self, audio: Audio, where: str = "audio") -> AudioCodes | NDArray[Any]:
        """Return codes; those of a file come from the cache where they are in it."""
        if not isinstance(audio, (str, os.PathLike)):
            return super().encode(audio, where)
        path = self.base / os.path.expanduser(audio)
        require(os.path.exists(path), f"{where}: there is no file {path}")
        if self.codec is None or begins_as_codes(path):
            return super().encode(path, where)
        kept = self._place(path)
        with suppress(MimoError):  # none yet, or damaged
            return AudioCodes.load(kept)
        info = audio_info(path)
        self._check_seconds((info.num_samples or 0,), info.sample_rate, where)
        codes = self.codec.encode(path, num_quantizers=self.config.audio_channels)
        make_folder(kept.parent)
        codes.save(kept)
        return codes

    def _place(self, path: AnyPath) -> Path:
        """Where the codes of a file are kept."""
        assert self.codec is not None
        fingerprint = self.codec.model_id.rpartition("@")[2]
        name = f"{_hash(path)}-{self.config.audio_channels}"
        return self.cache / fingerprint / name[:2] / f"{name}.mimo"


def _hash(path: AnyPath) -> str:
    with wrap_errors(f"{path}: cannot be read", OSError), open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
