"""CodecConfig: the released config.json and back, defaults, refusals, presets and derived lengths."""

import copy
import json
import re

import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_codec import CodecConfig, MimoError
from mimo_codec.codec.config import FLAT_KEYS, PRESETS

CODECS = ("codec_base", "codec_variant", "codec_hybrid")
DEFAULTS = dict(
    stride_size=2,
    avg_pooler=1,
    d_model=768,
    kernel_size=3,
    activation_function="gelu",
    encoder_layers=8,
    encoder_attention_heads=12,
    encoder_ffn_dim=3072,
    encoder_skip_layer_id=None,
    encoder_causal=False,
    encoder_attn_window_size=(-1, -1),
    hybrid_attention=False,
    decoder_layers=8,
    decoder_attention_heads=12,
    decoder_ffn_dim=3072,
    decoder_causal=True,
    decoder_attn_window_size=(-1, -1),
    decoder_kernel_size=3,
    decoder_stride_size=2,
    nfft=1024,
    window_size=1024,
    hop_length=240,
    n_mels=80,
    sampling_rate=24000,
    fmin=0,
    fmax=None,
    vocoder_dim=512,
    vocoder_intermediate_dim=4096,
    vocoder_num_layers=30,
    vocoder_attention_heads=4,
    vocoder_attn_window_size=(40, 10),
    vocoder_padding="same",
    num_quantizers=12,
    codebook_size=(1024,),
    threshold_ema_dead_code=10,
    position_embedding_type="rope",
    rope_type="default",
    rope_theta=10000,
    ln_type="LayerNorm",
)


def golden_json(name: str) -> dict:
    return json.loads((GOLDEN / name / "config.json").read_text())


def flat_values(config: CodecConfig) -> dict:
    """Every key that has a meaning, with its value in `config`."""
    sections = (config, config.mel, config.encoder, config.quantizer, config.decoder, config.vocoder)
    return {
        f.metadata["key"]: getattr(section, name)
        for section in sections
        for name, f in section.__dataclass_fields__.items()
        if "rule" in f.metadata
    }


@pytest.mark.parametrize("name", CODECS)
def test_released_file_round_trips(name):
    flat = golden_json(name)
    assert CodecConfig.from_dict(flat).to_dict() == flat
    assert CodecConfig.load(GOLDEN / name / "config.json").to_dict() == flat


def test_unknown_keys_are_kept():
    flat = golden_json("codec_hybrid") | {"torch_dtype": "bfloat16", "nested": {"a": [1, 2]}}
    config = CodecConfig.from_dict(flat)
    assert config.to_dict() == flat
    changed = config.replace(encoder_ffn_dim=64).to_dict()
    assert changed == flat | {"encoder_ffn_dim": 64}


def test_defaults_are_the_released_ones():
    values = flat_values(CodecConfig.from_dict({}))
    assert {key: values[key] for key in DEFAULTS} == DEFAULTS
    # beyond the released keys: nothing that would change a released model, and nothing to write
    rest = {key: value for key, value in values.items() if key not in DEFAULTS}
    assert rest == {"segment_seconds": 60, "decoder_conv_norm": "group", "swa_per_block": 1}
    config = CodecConfig.from_dict({})
    assert (config.quantizer_type, config.vocoder_type) == ("rvq", "transformer")
    assert config.to_dict(defaults=True).keys() == values.keys() | {"quantizer_type", "vocoder_type"}
    assert config.to_dict(defaults=True).keys() <= FLAT_KEYS.keys()
    assert config.to_dict() == {}


def test_to_dict_names_what_differs_from_the_defaults():
    config = CodecConfig.from_dict({}).replace(d_model=96, encoder_attn_window_size=[3, 0], codebook_size=[8, 4])
    assert config.to_dict() == {"d_model": 96, "encoder_attn_window_size": [3, 0], "codebook_size": [8, 4]}


def test_a_short_list_of_codebooks_repeats_and_a_long_one_is_cut():
    def sizes(num_quantizers: int, codebook_size: object) -> tuple[int, ...]:
        flat = {"num_quantizers": num_quantizers, "codebook_size": codebook_size}
        return CodecConfig.from_dict(flat).codebook_sizes

    assert sizes(4, [1024, 128]) == (1024, 128, 128, 128)
    assert sizes(2, [1024, 512, 128]) == (1024, 512)
    assert sizes(3, [1024, 512, 128]) == (1024, 512, 128)
    assert sizes(2, 256) == (256, 256)


REFUSED = [
    ("rope_type", "yarn"),
    ("position_embedding_type", "sinusoidal"),
    ("rope_theta", 0),
    ("ln_type", "BatchNorm"),
    ("activation_function", "swiglu"),
    ("vocoder_padding", "center"),
    ("decoder_conv_norm", "batch"),
    ("kernel_size", 5),
    ("stride_size", 3),
    ("decoder_stride_size", 3),
    ("decoder_kernel_size", 5),
    ("decoder_kernel_size", 1),
    ("avg_pooler", 0),
    ("model_type", "whisper"),
    ("model_type", None),
    ("architectures", ["MiMoForCausalLM"]),
    ("architectures", "MiMoAudioTokenizer2"),
    ("encoder_attn_window_size", [16]),
    ("encoder_attn_window_size", [16, 4, 0]),
    ("encoder_attn_window_size", [-2, 0]),
    ("encoder_attn_window_size", [1.5, 0]),
    ("encoder_attn_window_size", 16),
    ("decoder_attn_window_size", ["16", 0]),
    ("vocoder_attn_window_size", None),
    ("encoder_attention_heads", 5),
    ("decoder_attention_heads", 0),
    ("vocoder_attention_heads", 512),
    ("encoder_skip_layer_id", 9),
    ("encoder_skip_layer_id", 0),
    ("encoder_layers", 2.0),
    ("encoder_layers", True),
    ("encoder_causal", "yes"),
    ("hybrid_attention", 1),
    ("swa_per_block", 0),
    ("quantizer_type", "vq"),
    ("quantizer_type", ["rvq"]),
    ("vocoder_type", None),
    ("num_quantizers", 0),
    ("codebook_size", []),
    ("codebook_size", [1024, 0]),
    ("codebook_size", [65537]),
    ("threshold_ema_dead_code", -1),
    ("threshold_ema_dead_code", float("inf")),
    ("d_model", "768"),
    ("sampling_rate", 0),
    ("nfft", 1023),
    ("window_size", 2048),
    ("hop_length", 512),
    ("hop_length", 241),
    ("fmax", 12001),
    ("fmin", 12000),
    ("segment_seconds", 0),
    ("segment_seconds", 0.03),
    ("segment_seconds", "60"),
    ("segment_seconds", None),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_refused_values_are_named(key, value):
    with pytest.raises(MimoError) as caught:
        CodecConfig.from_dict({key: value})
    message = str(caught.value)
    assert f"{key} = {value!r}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fsq_levels", []),
        ("fsq_levels", [8, 1]),
        ("fsq_levels", [8.0]),
        ("fsq_levels", 8),
        ("fsq_levels", [256, 257]),
        ("num_quantizers", 5),
    ],
)
def test_refused_levels_are_named(key, value):
    flat = {"quantizer_type": "rfsq", "fsq_levels": [8, 5], "num_quantizers": 4}
    assert CodecConfig.from_dict(flat).codebook_sizes == (40,) * 4
    with pytest.raises(MimoError, match=re.escape(f"{key} = {value!r}")):
        CodecConfig.from_dict(flat | {key: value})


def test_options_of_another_quantizer_are_dropped_and_not_taken():
    """What a preset says of its codebooks means nothing to fixed ones, and nobody may think that it does."""
    fsq = CodecConfig.preset("tiny").replace(quantizer_type="rfsq", num_quantizers=2)
    assert not {"codebook_size", "threshold_ema_dead_code"} & fsq.to_dict(defaults=True).keys()
    assert fsq.to_dict(defaults=True)["fsq_levels"] == [4, 4, 4, 4, 4] and fsq.quantizer_type == "rfsq"
    assert CodecConfig.from_dict(fsq.to_dict()) == fsq
    with pytest.raises(MimoError, match="'codebook_size' is no option of quantizer_type 'rfsq'"):
        fsq.replace(codebook_size=[1024])
    with pytest.raises(MimoError, match="'fsq_levels' is no option of quantizer_type 'rvq'"):
        CodecConfig.preset("tiny").replace(fsq_levels=[8])


def test_a_refusal_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"rope_type": "yarn"}')
    with pytest.raises(MimoError, match=r"config\.json.*rope_type = 'yarn'"):
        CodecConfig.load(path)
    path.write_text("{")
    with pytest.raises(MimoError, match=r"config\.json: not valid JSON"):
        CodecConfig.load(path)
    path.write_text("[1]")
    with pytest.raises(MimoError, match=r"config\.json.*dictionary"):
        CodecConfig.load(path)
    with pytest.raises(MimoError, match=r"none\.json"):
        CodecConfig.load(tmp_path / "none.json")


def test_replace_refuses_unknown_keys():
    config = CodecConfig.preset("tiny")
    assert config.replace(encoder_layers=6).encoder.num_layers == 6
    assert config.encoder.num_layers == 2
    with pytest.raises(MimoError, match="encoder_layer'"):
        config.replace(encoder_layer=6)


def test_hybrid_layers_alternate():
    flat = {"encoder_layers": 7, "hybrid_attention": True, "encoder_causal": True, "encoder_attn_window_size": [9, 3]}

    def windows(**changes) -> tuple:
        return CodecConfig.from_dict(flat | changes).encoder.layer_windows()

    full, windowed = (-1, 0), (9, 0)
    for period in (1, 2, 3, 8):
        assert windows(swa_per_block=period) == tuple(windowed if i % period < period - 1 else full for i in range(7))
    assert windows(hybrid_attention=False, swa_per_block=2) == (windowed,) * 7
    assert windows(hybrid_attention=False, encoder_causal=False) == ((9, 3),) * 7
    assert windows(hybrid_attention=False, encoder_attn_window_size=[-1, -1]) == (full,) * 7


def test_a_causal_decoder_sees_no_future():
    flat = {"decoder_attn_window_size": [24, -1]}
    assert CodecConfig.from_dict(flat).decoder.layer_windows() == ((24, 0),) * 8
    assert CodecConfig.from_dict(flat | {"decoder_causal": False}).decoder.layer_windows() == ((24, -1),) * 8


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    config = CodecConfig.preset(name)
    assert config.frame_rate == 25
    assert config.to_dict() == {key: value for key, value in PRESETS[name].items() if key in config.to_dict()}
    assert CodecConfig.from_dict(config.to_dict()) == config
    assert (config.streams_encode and config.streams_decode) == (name != "mimo")


def test_the_mimo_preset_is_the_released_configuration():
    config = CodecConfig.preset("mimo")
    assert (config.d_model, config.encoder.num_layers, config.decoder.num_layers) == (1280, 32, 32)
    assert config.codebook_sizes == (1024, 1024) + (128,) * 18
    assert (config.encoder.skip_layer, config.segment_frames) == (3, 1500)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(MimoError, match="mimo, small, nano, tiny"):
        CodecConfig.preset("huge")


def test_streams_only_what_is_causal_windowed_and_normalised_per_frame():
    tiny = CodecConfig.preset("tiny")
    assert tiny.segment_seconds is None
    for change in (
        {"encoder_causal": False, "encoder_attn_window_size": [64, 1]},
        {"encoder_attn_window_size": [-1, 0]},
        {"decoder_causal": False, "decoder_attn_window_size": [64, 1]},
        {"decoder_attn_window_size": [-1, 0]},
        {"decoder_conv_norm": "group"},
        {"vocoder_attn_window_size": [-1, 2]},
        {"vocoder_attn_window_size": [40, -1]},
    ):
        with pytest.raises(MimoError, match="segment_seconds"):
            tiny.replace(**change)
        tiny.replace(segment_seconds=60, **change)


@settings(deadline=None)
@given(
    num_samples=st.integers(1, 10**7),
    hop=st.sampled_from([120, 240, 300]),
    stride=st.sampled_from([1, 2]),
    pool=st.sampled_from([1, 2, 4]),
)
def test_num_frames_counts_what_the_convolutions_give(num_samples, hop, stride, pool):
    config = CodecConfig.from_dict(
        {"hop_length": hop, "stride_size": stride, "decoder_stride_size": stride, "decoder_kernel_size": 2}
        | {"avg_pooler": pool}
    )
    num_mels = 1 + num_samples // hop
    strided = (num_mels + 2 - 3) // stride + 1  # kernel 3, one zero on either side
    assert config.num_frames(num_samples) == (strided + pool - 1) // pool
    assert config.num_frames(num_samples) * config.samples_per_frame >= num_samples


def test_is_a_value():
    config = CodecConfig.preset("tiny")
    assert copy.deepcopy(config) == config
    assert len({config, CodecConfig.preset("tiny"), CodecConfig.preset("nano")}) == 2
    assert config != config.replace(fmin=20)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", 10**9),
        ("num_quantizers", 10**9),
        ("encoder_layers", 10**6),
        ("rope_theta", float("inf")),
        ("rope_theta", True),
    ],
)
def test_absurd_numbers_are_refused_at_once(key, value):
    with pytest.raises(MimoError, match=key):
        CodecConfig.preset("tiny").replace(**{key: value})


def test_a_deeply_nested_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"a":' * 5000 + "1" + "}" * 5000)
    with pytest.raises(MimoError, match="config.json"):
        CodecConfig.load(tmp_path / "config.json")
