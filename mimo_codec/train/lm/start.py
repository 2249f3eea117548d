"""What training of a language model starts from: random weights, a checkpoint, or a text model of the Qwen2 family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mimo_codec.common.checks import error_prefix, needs_extra, require
from mimo_codec.common.files import read_json
from mimo_codec.common.rounding import ceil_div
from mimo_codec.hub import CONFIG, weight_files
from mimo_codec.lm.checkpoint import find_config, find_language_model, load_language_model
from mimo_codec.lm.config import PRESETS, LMConfig
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.lm.tokenizer import TextTokenizer

RELEASED_TOKENS = (
    "<|sosp|>",
    "<|eosp|>",
    "<|empty|>",
    "<|Human|>",
    "<|SpeechLM|>",
    "<|sostm|>",
    "<|eostm|>",
    "<|eot|>",
)
"""The special tokens that the released model adds to those of its text model, in its order."""
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
INITIAL_STD = 0.02
BYTES = "bytes"


def start_language_model(
    model: str, tokenizer: str | None = None, config: Mapping[str, Any] | None = None
) -> tuple[SpeechLanguageModel, TextTokenizer]:
    """Make the networks that training starts with, in float32 on the CPU, and their tokenizer.

    Args:
        model: name of a preset, for random weights; folder or hub id of a language model; or folder of a text model of
            the Qwen2 family, whose weights become the backbone.
        tokenizer: of a preset: a folder with tokenizer.json, to which missing special tokens are added, or "bytes".
        config: changes to the configuration of a preset or a text model.

    Raises:
        MimoError: for what cannot be found or used, and for arguments that the start has no use for.
    """
    config = dict(config or {})
    _check_known(config)
    if model in PRESETS:
        return _from_preset(model, tokenizer or BYTES, config)
    require(tokenizer is None, f"tokenizer: {model} has one of its own")
    if _is_text_model(Path(model)):
        return _from_text_model(Path(model), config)
    require(not config, f"config: {model} is trained as it is; only presets and text models can be changed")
    return load_language_model(find_language_model(model), torch.device("cpu"), torch.float32)


def is_language_model(model: str) -> bool:
    """Whether this names a language model, rather than a preset or a text model."""
    return model not in PRESETS and not _is_text_model(Path(model))


def planned_shape(model: str, tokenizer: str | None = None, config: Mapping[str, Any] | None = None) -> LMConfig:
    """Return the configuration that `start_language_model` would give its model, without the weights."""
    changes = dict(config or {})
    _check_known(changes)
    if model in PRESETS:
        return _preset_shape(model, _preset_tokenizer(tokenizer or BYTES), changes)
    if _is_text_model(Path(model)):
        with error_prefix(Path(model) / CONFIG):
            return _text_shape(read_json(Path(model) / CONFIG), with_released_tokens(Path(model))[0], changes)
    return find_config(model)


def _from_preset(name: str, tokenizer: str, changes: dict[str, Any]) -> tuple[SpeechLanguageModel, TextTokenizer]:
    text = _preset_tokenizer(tokenizer)
    return random_model(_preset_shape(name, text, changes), text), text


def _preset_tokenizer(name: str) -> TextTokenizer:
    return byte_tokenizer() if name == BYTES else with_released_tokens(Path(name))[0]


def _preset_shape(name: str, text: TextTokenizer, changes: dict[str, Any]) -> LMConfig:
    size = {"vocab_size": _rounded(len(text))} if "vocab_size" not in changes else {}
    shape = _changed(LMConfig.preset(name), {**size, **changes})
    require(len(text) <= shape.vocab_size, f"tokenizer: has {len(text)} tokens, the model {shape.vocab_size}")
    return shape


def _check_known(changes: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(LMConfig) if field.name != "extra"]
    unknown = [str(key) for key in changes if key not in known]
    require(not unknown, f"config: {', '.join(unknown)} is not known; there is {', '.join(known)}")


def _changed(shape: LMConfig, changes: dict[str, Any]) -> LMConfig:
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()}
    return replace(shape, **values)


def random_model(config: LMConfig, tokenizer: TextTokenizer) -> SpeechLanguageModel:
    """Make a model with random weights: normal with a deviation of 0.02, norms 1, biases 0."""
    model = SpeechLanguageModel(config, tokenizer.special.empty)
    for name, parameter in model.named_parameters():
        _initialize(name, parameter)
    return model


@torch.no_grad()
def _initialize(name: str, parameter: Tensor) -> None:
    if parameter.ndim > 1:
        parameter.normal_(0.0, INITIAL_STD)
    else:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def byte_tokenizer() -> TextTokenizer:
    """Make a tokenizer of bytes, for any language and without training, and the special tokens."""
    with needs_extra("tokenizers", "lm"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([*CHAT_TOKENS, *RELEASED_TOKENS])
    return TextTokenizer(plain, BYTES)


def with_released_tokens(folder: Path) -> tuple[TextTokenizer, int]:
    """Read a tokenizer and append the special tokens that it lacks, in the released order; also how many it had."""
    path = folder / "tokenizer.json" if folder.is_dir() else folder
    require(path.is_file(), f"tokenizer: there is no {path}")
    with needs_extra("tokenizers", "lm"):
        from tokenizers import Tokenizer
    with error_prefix(path):
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    count = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    tokenizer.add_special_tokens(
        [name for name in (*CHAT_TOKENS, *RELEASED_TOKENS) if tokenizer.token_to_id(name) is None]
    )
    return TextTokenizer(tokenizer, path.parent), count


def _rounded(count: int, multiple: int = 16) -> int:
    """Return a size of the vocabulary that holds `count` tokens."""
    return ceil_div(count, multiple) * multiple


# ---- text models -----------------------------------------------------------------------------------------------------


def _is_text_model(folder: Path) -> bool:
    """Whether a folder holds a model of the Qwen2 family that knows no audio."""
    if not (folder / CONFIG).is_file():
        return False
    found = read_json(folder / CONFIG)
    return isinstance(found, dict) and found.get("model_type") == "qwen2" and "audio_channels" not in found


def _from_text_model(folder: Path, changes: dict[str, Any]) -> tuple[SpeechLanguageModel, TextTokenizer]:
    """Make a model with the weights of a text model; what it has no weights for is random.

    Rows of the embeddings and of the head for tokens that are new begin as the mean of the others.
    """
    tokenizer, count = with_released_tokens(folder)
    with error_prefix(folder / CONFIG):
        shape = _text_shape(read_json(folder / CONFIG), tokenizer, changes)
    model = random_model(shape, tokenizer)
    own = model.state_dict()
    found: set[str] = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                require(name in own, f"{path}: {name} is not a weight of the Qwen2 family")
                _copy(name, file.get_tensor(name), own[name], count, path)
                found.add(name)
    wanted = {name for name in own if name.startswith("model.")} | ({"lm_head.weight"} - _tied(shape))
    missing = sorted(wanted - found)
    require(not missing, f"{folder}: {len(missing)} weights are missing, {missing[:1]} the first")
    return model, tokenizer


def _tied(shape: LMConfig) -> set[str]:
    return {"lm_head.weight"} if shape.tie_word_embeddings else set()


def _text_shape(found: dict[str, Any], tokenizer: TextTokenizer, changes: dict[str, Any]) -> LMConfig:
    """Read the configuration of a text model; the parts for audio are those of the preset "0.5b", or as changed."""
    own = {field.name for field in fields(LMConfig)} - {"extra"}
    audio = {name: getattr(PRESETS["0.5b"], name) for name in own if name not in found}
    flat = {**audio, **found, **changes}
    flat["vocab_size"] = max(found.get("vocab_size", 0), _rounded(len(tokenizer)))
    if "head_dim" not in found and "head_dim" not in changes:
        flat["head_dim"] = flat["hidden_size"] // flat["num_attention_heads"]
    for name in ("speech_vocab_size", "speech_zeroemb_idx", "delay_pattern"):
        if not isinstance(flat[name], str):
            flat[name] = "-".join(str(value) for value in flat[name])
    return LMConfig.from_dict({k: v for k, v in flat.items() if k not in ("architectures", "torch_dtype", "dtype")})


@torch.no_grad()
def _copy(name: str, value: Tensor, into: Tensor, count: int, path: Path) -> None:
    """Copy a weight; the rows of tokens from `count` on, which are new, begin as the mean of those before them."""
    has_rows = name in ("model.embed_tokens.weight", "lm_head.weight")
    fits = value.shape == into.shape or (has_rows and value.shape[1:] == into.shape[1:] and len(value) >= count)
    require(fits, f"{path}: {name} is {list(value.shape)}, the model has {list(into.shape)}")
    if not has_rows:
        into.copy_(value)
        return
    into[:count] = value[:count].to(into.dtype)
    into[count:] = value[:count].float().mean(0).to(into.dtype)
