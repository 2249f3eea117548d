"""Speaker similarity, by embeddings of Resemblyzer, whose weights come with its package."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mimo_codec.metrics.pair import Pair

if TYPE_CHECKING:
    from resemblyzer import VoiceEncoder


def speaker_similarity(pair: Pair) -> float:
    """Compute the cosine of the two speaker embeddings (Wan et al. 2018), 0..1, of a pair at 16 kHz; nan for silence.

    Two recordings of one speaker are mostly above 0.8, those of two speakers below 0.7. Silent parts are kept, unlike
    in Resemblyzer's preprocessing, so that both embeddings are averages over the same moments.
    """
    one, other = (embed_speaker(waveform, str(pair.decoded.device)) for waveform in pair.arrays())
    return float("nan") if one is None or other is None else float(one @ other)


def embed_speaker(waveform: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float32] | None:
    """Embed the voice in a waveform [S] at 16 kHz -> [256], of length 1; None for silence."""
    import resemblyzer

    if not waveform.any():
        return None
    loudness = resemblyzer.audio.audio_norm_target_dBFS
    louder = resemblyzer.normalize_volume(waveform, loudness, increase_only=True)
    embedding: NDArray[np.float32] = _encoder(device).embed_utterance(louder)
    return embedding


@functools.lru_cache(maxsize=1)
def _encoder(device: str) -> VoiceEncoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import resemblyzer

    return resemblyzer.VoiceEncoder(device, verbose=False)
