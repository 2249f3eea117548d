"""Is what was said still understood? Word error rates of a recogniser that runs here (pocketsphinx, US English)."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics.pair import Pair

RECOGNISER_RATE = 16000


def wer(pair: Pair) -> float:
    """Word errors in the transcript of the decoded speech per word of the text, or, where the text is not known, of
    the transcript of the original. Of a pair at 16 kHz; nan where there are no words."""
    reference, decoded = pair.arrays()
    return word_error_rate(pair.text or transcribe(reference), transcribe(decoded))


def wer_original(pair: Pair) -> float:
    """Word errors in the transcript of the original, per word of the text: the recogniser's own; nan without text."""
    return word_error_rate(pair.text or "", transcribe(pair.arrays()[0])) if pair.text else float("nan")


def word_error_rate(text: str, transcript: str) -> float:
    """Substitutions, deletions and insertions per word of `text`, case and punctuation apart; nan without words."""
    import jiwer

    words, heard = _plain(text), _plain(transcript)
    return float(jiwer.wer(words, heard)) if words else float("nan")


def transcribe(waveform: NDArray[np.float32]) -> str:
    """[S] at 16 kHz -> lower-case words."""
    return _transcribe((waveform.clip(-1, 1) * 32767).astype(np.int16).tobytes())


@functools.lru_cache(maxsize=4)  # an original is asked for again with everything decoded from it
def _transcribe(pcm: bytes) -> str:
    decoder = _decoder()
    decoder.reinit_feat()  # forget the levels of what was heard before: a transcript depends on its own sound alone
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


@functools.cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(samprate=RECOGNISER_RATE, loglevel="FATAL")


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+(?:'\w+)*", text.lower()))
