"""Does it still sound like the same person? Embeddings of Resemblyzer, whose weights come with its package."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from mimo_codec.metrics.pair import Pair


def speaker_similarity(pair: Pair) -> float:
    """Cosine of the two speaker embeddings (Wan et al. 2018), 0..1, of a pair at 16 kHz; nan for silence.

    Recordings of one speaker are mostly above 0.8, of two below 0.7. Silences are kept, unlike in Resemblyzer's own
    preprocessing, so that both embeddings are averages over the same moments.
    """
    import resemblyzer

    encoder = _encoder(str(pair.decoded.device))
    loudness = resemblyzer.audio.audio_norm_target_dBFS
    embeddings = []
    for waveform in pair.arrays():
        if not waveform.any():
            return float("nan")
        embeddings.append(encoder.embed_utterance(resemblyzer.normalize_volume(waveform, loudness, increase_only=True)))
    return float(embeddings[0] @ embeddings[1])


@functools.lru_cache(maxsize=1)
def _encoder(device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import resemblyzer

    return resemblyzer.VoiceEncoder(device, verbose=False)
