"""Judges of answers, each by its name: recognizers of words, encoders of voices, and the opinion of listeners."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimo_codec.audio.files import load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.common.checks import check_choice, needs_extra, require, wrap_errors
from mimo_codec.evaluation.lm.items import Stamp, stamp_of
from mimo_codec.metrics import require_metric
from mimo_codec.metrics.opinion import predict_opinions
from mimo_codec.metrics.speaker import embed_speaker
from mimo_codec.metrics.words import RECOGNISERS, plain_words, transcribe, word_error_rate

RATE = 16000
"""At which judges listen, in Hz."""
ANY_WHISPER = "faster-whisper:"
"""Before the name or folder of any model of faster-whisper."""
PACKAGED = {"pocketsphinx": "wer", "moonshine": "wer_moonshine", "whisper": "wer_whisper"}
"""Recognizer whose weights come in a package -> the metric that needs the same packages."""
Embed = Callable[[NDArray[np.float32]], "NDArray[np.float32] | None"]
"""Returns an embedding of the voice in a waveform [S] at 16 kHz, a vector of any length, or None for silence."""
ENCODERS: dict[str, Embed] = {"resemblyzer": embed_speaker}
"""Encoders of voices by name; those of a user's own are named by the path of their function."""
Sound = Path | tuple[NDArray[np.float32], int]
"""A file, or a waveform [S] with its sample rate."""


@dataclass(frozen=True)
class Judges:
    """What answers are judged by. It holds names only, so that it can be sent to other processes.

    Args:
        recogniser: "whisper" (base), "moonshine" or "pocketsphinx", or "faster-whisper:" with the name or folder of a
            model.
        language: that is spoken, such as "en".
        encoder: of voices: a name in ENCODERS, or the path of a function, "package.module.function".
    """

    recogniser: str = "whisper"
    language: str = "en"
    encoder: str = "resemblyzer"

    def check(self, kinds: Sequence[str]) -> None:
        """Raise MimoError when one of these kinds of judge is not installed or not known."""
        if "recogniser" in kinds:
            self._check_recogniser()
        if "encoder" in kinds:
            if self.encoder == "resemblyzer":
                require_metric("speaker_similarity")
            find_encoder(self.encoder)
        if "opinion" in kinds:
            require_metric("dnsmos")
        if "words" in kinds:
            with needs_extra("jiwer", "eval"):
                import jiwer  # noqa: F401
        if "translation" in kinds:
            with needs_extra("sacrebleu", "eval"):
                import sacrebleu  # noqa: F401

    def _check_recogniser(self) -> None:
        if self.recogniser.startswith(ANY_WHISPER):
            with needs_extra("faster-whisper", "pip install faster-whisper"):
                import faster_whisper  # noqa: F401
            self.check(("words",))
            known = _whisper(self.recogniser.removeprefix(ANY_WHISPER)).supported_languages
            require(self.language in known, f"language {self.language!r} is not known to {self.recogniser}")
            return
        check_choice("recogniser", self.recogniser, (*RECOGNISERS, f"{ANY_WHISPER}NAME"))
        metric = PACKAGED.get(self.recogniser)
        if metric is not None:
            require_metric(metric)
        english = self.language == "en"
        require(english, f"recogniser: {self.recogniser} hears English alone; {ANY_WHISPER}NAME hears {self.language}")

    def transcribe(self, sound: Sound) -> str:
        """Return the words in a sound."""
        if isinstance(sound, Path):
            return _transcribe_file(sound, stamp_of(sound), self.recogniser, self.language)
        return _transcribe(as_array(sound), self.recogniser, self.language)

    def similarity(self, one: Sound, other: Sound) -> float:
        """Return the cosine of the voices of two sounds; nan for silence."""
        first, second = self._voice(one), self._voice(other)
        if first is None or second is None:
            return math.nan
        require(len(first) == len(second), f"encoder: {self.encoder} gave vectors of {len(first)} and {len(second)}")
        return float(first @ second)

    def _voice(self, sound: Sound) -> NDArray[np.float32] | None:
        if isinstance(sound, Path):
            return _voice_of_file(sound, stamp_of(sound), self.encoder)
        return _voice(as_array(sound), self.encoder)

    def opinion(self, sound: Sound) -> float:
        """Predict the mean opinion of listeners, DNSMOS P.808; nan for silence."""
        return predict_opinions(as_array(sound)).get("p808", math.nan)


def word_errors(text: str, heard: str) -> dict[str, float]:
    """Return the word error rate of what was heard, and the number of words, by which rates are weighted."""
    return {"wer": word_error_rate(text, heard), "words": float(len(plain_words(text)))}


def as_array(sound: Sound) -> NDArray[np.float32]:
    """Return a sound as a waveform [S] at 16 kHz."""
    if isinstance(sound, Path):
        waveform, rate = load_audio(sound)
    else:
        waveform, rate = torch.from_numpy(np.ascontiguousarray(sound[0], np.float32)), sound[1]
    samples: NDArray[np.float32] = resample(waveform, rate, RATE).numpy()
    return samples


def find_encoder(name: str) -> Embed:
    """Return an encoder of voices by its name or the path of its function; MimoError when there is none."""
    if name in ENCODERS:
        return ENCODERS[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        check_choice("encoder", name, ENCODERS)
    with wrap_errors(f"encoder: {name} cannot be imported", Exception):
        found: Any = getattr(importlib.import_module(module), attribute)
    require(callable(found), f"encoder: {name} is no function")
    encoder: Embed = found
    return encoder


@lru_cache(maxsize=4096)
def _transcribe_file(path: Path, stamp: Stamp, recogniser: str, language: str) -> str:
    return _transcribe(as_array(path), recogniser, language)


def _transcribe(samples: NDArray[np.float32], recogniser: str, language: str) -> str:
    if not recogniser.startswith(ANY_WHISPER):
        return transcribe(samples, recogniser)
    segments, _ = _whisper(recogniser.removeprefix(ANY_WHISPER)).transcribe(
        samples, language=language, beam_size=5, condition_on_previous_text=False
    )
    return " ".join(segment.text.strip() for segment in segments)


@lru_cache(maxsize=1)
def _whisper(name: str) -> Any:
    with needs_extra("faster-whisper", "pip install faster-whisper"):
        from faster_whisper import WhisperModel
    with wrap_errors(f"recogniser: {name} cannot be loaded", Exception):
        return WhisperModel(name)


@lru_cache(maxsize=4096)
def _voice_of_file(path: Path, stamp: Stamp, encoder: str) -> NDArray[np.float32] | None:
    return _voice(as_array(path), encoder)


def _voice(samples: NDArray[np.float32], encoder: str) -> NDArray[np.float32] | None:
    with wrap_errors(f"encoder: {encoder}", Exception):  # whatever a user's own function raises
        found = find_encoder(encoder)(samples)
        if found is None:
            return None
        vector = np.asarray(found, np.float32)
        length = float(np.linalg.norm(vector))
        valid = vector.ndim == 1 and math.isfinite(length) and length > 0
        require(valid, f"encoder: {encoder} gave no vector of numbers for a voice, but one of shape {vector.shape}")
        embedding: NDArray[np.float32] = vector / np.float32(length)
        return embedding
