"""Word error rates, by speech recognizers of English that run offline.

Pocketsphinx is the smallest; Moonshine's smallest model and Whisper base make far fewer errors of their own.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics import whisper
from mimo_codec.metrics.pair import Pair

if TYPE_CHECKING:
    from moonshine_voice import Transcriber
    from pocketsphinx import Decoder

RECOGNISER_RATE = 16000


def wer(pair: Pair, recogniser: str = "pocketsphinx") -> float:
    """Count the word errors in the transcript of the decoded speech, per word of the text.

    Where the text is not known, the transcript of the original takes its place. The pair must be at 16 kHz; the rate is
    nan where there are no words.
    """
    reference, decoded = pair.arrays()
    return word_error_rate(pair.text or transcribe(reference, recogniser), transcribe(decoded, recogniser))


def wer_original(pair: Pair, recogniser: str = "pocketsphinx") -> float:
    """Count the word errors in the transcript of the original, which are the recognizer's own; nan without text."""
    return word_error_rate(pair.text, transcribe(pair.arrays()[0], recogniser)) if pair.text else float("nan")


def word_error_rate(text: str, transcript: str) -> float:
    """Count substitutions, deletions and insertions per word of `text`; nan for no words.

    Case and punctuation do not count. Each character of Chinese counts as a word.
    """
    import jiwer

    words, heard = plain_words(text), plain_words(transcript)
    return float(jiwer.wer(" ".join(words), " ".join(heard))) if words else float("nan")


def transcribe(waveform: NDArray[np.float32], recogniser: str = "pocketsphinx") -> str:
    """Transcribe a waveform [S] at 16 kHz -> words; recogniser: one of `RECOGNISERS`."""
    return _transcribe((waveform.clip(-1, 1) * 32767).astype(np.int16).tobytes(), recogniser)


@functools.lru_cache(maxsize=8)  # an original is asked for again with everything decoded from it
def _transcribe(pcm: bytes, recogniser: str) -> str:
    return RECOGNISERS[recogniser](pcm)


def _pocketsphinx(pcm: bytes) -> str:
    decoder = _decoder()
    decoder.reinit_feat()  # reset the levels of earlier sounds: a transcript depends on its own sound alone
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


@functools.cache
def _decoder() -> Decoder:
    from pocketsphinx import Decoder

    return Decoder(samprate=RECOGNISER_RATE, loglevel="FATAL")


def _moonshine(pcm: bytes) -> str:
    return " ".join(line.text for line in _transcriber().transcribe_without_streaming(_samples(pcm).tolist()).lines)


@functools.cache
def _transcriber() -> Transcriber:
    from moonshine_voice import ModelArch, Transcriber, get_model_path

    # Without its voice detection, which keeps state between calls and invents words at the edges that it finds.
    options = {"vad_threshold": 0.0, "vad_max_segment_duration": 30.0}
    return Transcriber(get_model_path("tiny-en"), ModelArch.TINY, options=options)


def _whisper(pcm: bytes) -> str:
    return whisper.transcribe(_samples(pcm))


def _samples(pcm: bytes) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = np.frombuffer(pcm, np.int16).astype(np.float32) / np.float32(32768)
    return samples


RECOGNISERS = {"pocketsphinx": _pocketsphinx, "moonshine": _moonshine, "whisper": _whisper}
"""Name -> function from PCM of 16 bits at 16 kHz to words."""


_WORDS = re.compile("[\u4e00-\u9fff]|[^\\W\u4e00-\u9fff]+(?:'[^\\W\u4e00-\u9fff]+)*")


def plain_words(text: str) -> list[str]:
    """Return the words of a text in lower case without punctuation; each character of Chinese is one."""
    return _WORDS.findall(text.lower())
