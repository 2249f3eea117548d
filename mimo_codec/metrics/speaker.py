"""Speaker similarity, by embeddings of Resemblyzer, whose weights come with its package."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

from mimo_codec.metrics.pair import Pair

if TYPE_CHECKING:
    from resemblyzer import VoiceEncoder


def speaker_similarity(pair: Pair) -> float:
    """Compute the cosine of the two speaker embeddings (Wan et al. 2018), 0..1, of a pair at 16 kHz; nan for silence.

    Two recordings of one speaker are mostly above 0.8, those of two speakers below 0.7. Silent parts are kept, unlike
    in Resemblyzer's preprocessing, so that both embeddings are averages over the same moments.
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
def _encoder(device: str) -> VoiceEncoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import resemblyzer

    return resemblyzer.VoiceEncoder(device, verbose=False)
