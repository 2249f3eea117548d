"""Named configurations of codecs, as the keys of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mimo_codec.codec.keys import MODEL_TYPE

_FRONT_END = dict(
    sampling_rate=24000,
    nfft=960,
    window_size=960,
    hop_length=240,
    n_mels=128,
    fmin=0,
    fmax=None,
    kernel_size=3,
    stride_size=2,
    avg_pooler=2,
    decoder_kernel_size=3,
    decoder_stride_size=2,
    model_type=MODEL_TYPE,
)
_CODEBOOKS = [1024, 1024] + [128] * 18
_STREAMING = dict(
    _FRONT_END,
    segment_seconds=None,
    decoder_conv_norm="frame",
    encoder_causal=True,
    decoder_causal=True,
    rope_theta=10000,
)


def _streaming(
    dim: int, layers: tuple[int, int, int], heads: int, num_quantizers: int, windows: tuple[int, int, int]
) -> dict[str, Any]:
    """A streaming codec of one width: `layers` of encoder, decoder and vocoder.

    windows: frames that a layer sees before each in encoder and decoder (50 Hz) and in the vocoder (100 Hz), and after
    each in the vocoder.
    """
    return dict(
        _STREAMING,
        d_model=dim,
        vocoder_dim=dim,
        num_quantizers=num_quantizers,
        codebook_size=_CODEBOOKS[:num_quantizers],
        threshold_ema_dead_code=0.05,
        encoder_layers=layers[0],
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * dim,
        encoder_skip_layer_id=None,
        encoder_attn_window_size=[windows[0], 0],
        decoder_layers=layers[1],
        decoder_attention_heads=heads,
        decoder_ffn_dim=4 * dim,
        decoder_attn_window_size=[windows[0], 0],
        vocoder_num_layers=layers[2],
        vocoder_attention_heads=heads,
        vocoder_intermediate_dim=4 * dim,
        vocoder_attn_window_size=list(windows[1:]),
    )


def _nano(sampling_rate: int, hop_length: int, window: int, pool: int = 2, n_mels: int = 128) -> dict[str, Any]:
    """`nano` at another sample rate, with 25 code frames per second too: hop_length and window in samples.

    pool: Transformer frames per code frame; attention sees as much time as it does in `nano`, where it is 2.
    """
    windows = (24 * pool // 2, 16 * pool // 2, 6 * pool // 2)
    return _streaming(384, (2, 2, 2), 6, 8, windows) | dict(
        sampling_rate=sampling_rate,
        hop_length=hop_length,
        nfft=window,
        window_size=window,
        avg_pooler=pool,
        n_mels=n_mels,
    )


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mimo": dict(
            _FRONT_END,
            d_model=1280,
            encoder_layers=32,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            encoder_skip_layer_id=3,
            encoder_causal=False,
            encoder_attn_window_size=[-1, -1],
            num_quantizers=20,
            codebook_size=_CODEBOOKS,
            threshold_ema_dead_code=2,
            decoder_layers=32,
            decoder_attention_heads=20,
            decoder_ffn_dim=5120,
            decoder_causal=True,
            decoder_attn_window_size=[-1, -1],
            vocoder_dim=256,
            vocoder_num_layers=16,
            vocoder_attention_heads=16,
            vocoder_intermediate_dim=1024,
            vocoder_attn_window_size=[40, 10],
            vocoder_padding="same",
            activation_function="gelu",
            ln_type="LayerNorm",
            rope_theta=10000,
            rope_type="default",
            position_embedding_type="rope",
            scale_embedding=False,
            max_audio_seconds=1800,
        ),
        "small": _streaming(512, (8, 8, 8), 8, 20, (64, 40, 1)),
        "nano": _streaming(384, (2, 2, 2), 6, 8, (24, 16, 6)),
        "tiny": _streaming(64, (2, 2, 2), 2, 8, (64, 40, 2)),
        "nano_16k": _nano(16000, 160, 640, n_mels=100),
        "nano_44k": _nano(44100, 294, 1764, pool=3),  # 150 mel frames per second: 44100 / 100 is odd
        "nano_48k": _nano(48000, 480, 1920),
    }
)
"""Named configurations: `mimo` is the released 1.28 B model; the others stream exactly."""
