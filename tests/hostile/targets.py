"""What is attacked: how to make a sound file, how to spoil it, and what then has to succeed or raise MimoError."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from data_targets import DATA_TARGETS
from mutations import (
    ODD_VALUES,
    mutate_bytes,
    mutate_json,
    mutate_json_text,
    mutate_safetensors,
    odd_weights,
)
from target import RATE, Target, make_codec, waveform

from mimo_codec import AudioCodes, MimoCodec, load_audio
from mimo_codec.audio.files import audio_info, iter_audio
from mimo_codec.audio.writer import save_audio
from mimo_codec.cli.main import main

GOLDEN = Path(__file__).parent.parent / "golden"
EXPORTED = "EXPORTED_CODEC"
"""Variable that names the folder of an exported codec to attack; without it one is exported, which takes a minute."""


# ---- codes and sound -------------------------------------------------------------------------------------------------


def _make_codes(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    sizes = [(1024,) * 2 + (128,) * 6, (64, 32), (1,), (65536, 3)]
    return [
        AudioCodes(rng.integers(0, np.array(s)[:, None], (len(s), 20)), 19000, 24000, 25.0, s, "tiny@0").to_bytes()
        for s in sizes
    ]


def _spoil_one(suffix: str) -> Callable[[Path, list[bytes], random.Random], Path]:
    def spoil(folder: Path, good: list[bytes], rng: random.Random) -> Path:
        path = folder / f"spoilt{suffix}"
        path.write_bytes(mutate_bytes(rng.choice(good), rng))
        return path

    return spoil


def _load_codes(folder: Path, path: Path) -> None:
    codes = AudioCodes.load(path)
    assert AudioCodes.from_bytes(codes.to_bytes()) == codes and repr(codes)


SOUNDS = {
    "wav": ("WAV", ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "PCM_U8", "ULAW", "IMA_ADPCM", "GSM610")),
    "flac": ("FLAC", ("PCM_16", "PCM_24")),
    "ogg": ("OGG", ("VORBIS",)),
    "opus": ("OGG", ("OPUS",)),
    "mp3": ("MP3", ("MPEG_LAYER_III",)),
}


def _make_sounds(folder: Path) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for suffix, (container, subtypes) in SOUNDS.items():
        for subtype in subtypes:
            for channels in (1, 2):
                if subtype == "GSM610" and channels == 2:
                    continue
                buffer = io.BytesIO()
                samples = np.stack([waveform()] * channels, axis=1)
                sf.write(buffer, samples, RATE, format=container, subtype=subtype)
                found.setdefault(suffix, []).append(buffer.getvalue())
    return found


def _spoil_sound(folder: Path, good: dict[str, list[bytes]], rng: random.Random) -> Path:
    suffix = rng.choice(sorted(good))
    path = folder / f"spoilt.{suffix}"
    path.write_bytes(mutate_bytes(rng.choice(good[suffix]), rng))
    return path


def _load_sound(folder: Path, path: Path) -> None:
    audio_info(path)
    samples, rate = load_audio(path)
    assert torch.isfinite(samples).all() and rate > 0
    load_audio(path, start=0.05, end=0.15)
    for _ in iter_audio(path, 0.05, 24000):
        pass


# ---- models ----------------------------------------------------------------------------------------------------------


def _make_model(folder: Path) -> Path:
    good = folder / "good"
    make_codec().save_pretrained(good)
    return good


def _copy_model(folder: Path, good: Path) -> Path:
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(good, model)
    return model


def _spoil_config(folder: Path, good: Path, rng: random.Random) -> Path:
    model = _copy_model(folder, good)
    (model / "config.json").write_bytes(mutate_json_text((good / "config.json").read_text(), rng))
    return model


def _spoil_weights(folder: Path, good: Path, rng: random.Random) -> Path:
    model = _copy_model(folder, good)
    change = odd_weights if rng.random() < 0.2 else mutate_safetensors
    (model / "model.safetensors").write_bytes(change((good / "model.safetensors").read_bytes(), rng))
    return model


def _use_model(folder: Path, model: Path) -> None:
    """Whatever loads has to work, with a finite waveform, and be described by `info`."""
    codec = MimoCodec.from_pretrained(model)
    codes = codec.encode(torch.from_numpy(waveform()), RATE, num_quantizers=len(codec.codebook_sizes))
    assert torch.isfinite(codec.decode(codes)).all()
    run_command(["info", str(model)])


def _make_shards(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    good = _make_model(folder)
    tensors = load_file(good / "model.safetensors")
    names = sorted(tensors)
    (good / "model.safetensors").unlink()
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for name, members in halves.items():
        save_file({member: tensors[member] for member in members}, good / name)
    weight_map = {member: name for name, members in halves.items() for member in members}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (good / "model.safetensors.index.json").write_text(json.dumps(index))
    return good


def _spoil_index(folder: Path, good: Path, rng: random.Random) -> Path:
    model = _copy_model(folder, good)
    name = "model.safetensors.index.json"
    (model / name).write_bytes(mutate_json_text((good / name).read_text(), rng))
    return model


def _make_graphs(folder: Path) -> Path:
    if prepared := os.environ.get(EXPORTED):
        return Path(prepared)
    from mimo_codec.onnx.codec.export import export_codec

    good = folder / "good"
    export_codec(make_codec(), good, num_quantizers=2)
    return good


def _spoil_metadata(folder: Path, good: Path, rng: random.Random) -> Path:
    import onnx

    model = _copy_model(folder, good)
    path = rng.choice(sorted(model.glob("*.onnx")))
    if rng.random() < 0.1:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
        return model
    graph = onnx.load(path)
    entry = rng.choice(graph.metadata_props)
    try:
        value = json.dumps(mutate_json({"value": json.loads(entry.value)}, rng).get("value", ""))
    except (ValueError, AttributeError):
        value = str(rng.choice(ODD_VALUES))
    entry.value = value.encode("utf-8", "replace").decode()
    if rng.random() < 0.1:
        del graph.metadata_props[rng.randrange(len(graph.metadata_props))]
    onnx.save(graph, path)
    return model


def _use_graphs(folder: Path, model: Path) -> None:
    from mimo_codec.onnx import OnnxCodec

    codec = OnnxCodec(model)
    assert np.isfinite(codec.decode(codec.encode(waveform(), RATE, 2))).all()
    run_command(["info", str(model)])


def _make_language_model(folder: Path) -> Path:
    good = folder / "good"
    shutil.copytree(GOLDEN / "lm_base", good, ignore=shutil.ignore_patterns("expected*", "meta.json"))
    return good


def _spoil_language_model(folder: Path, good: Path, rng: random.Random) -> Path:
    model = _copy_model(folder, good)
    name = rng.choice(
        ("config.json", "config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
    )
    (model / name).write_bytes(mutate_json_text((good / name).read_text(), rng))
    return model


def _use_language_model(folder: Path, model: Path) -> None:
    from mimo_codec.lm import MimoAudioLM

    MimoAudioLM.from_pretrained(model, codec=make_codec())


# ---- commands --------------------------------------------------------------------------------------------------------


COMMANDS = {
    "encode": (
        "-o",
        "--output",
        "-m",
        "--model",
        "--num-quantizers",
        "--device",
        "--dtype",
        "--overwrite",
        "--batch-size",
    ),
    "decode": ("-o", "--output", "-m", "--model", "--num-quantizers", "--format", "--overwrite", "--dtype"),
    "reconstruct": ("-o", "--output", "-m", "--model", "--num-quantizers", "--device", "--overwrite"),
    "info": ("--json",),
    "models": (),
    "data scan": ("-o", "--workers", "--min-seconds", "--overwrite", "--split"),
    "evaluate": ("-m", "--metrics", "--baselines", "-o", "--codebooks", "--num-quantizers", "--workers"),
    "generate transcribe": ("-m", "--model", "--codec", "--seed", "--max-tokens", "-o"),
    "generate speak": ("-m", "--model", "--codec", "--seed", "--max-seconds", "-o", "--voice"),
    "export codec": ("-o", "--dtype", "--opset", "--num-quantizers"),
}
WORDS = (
    *(
        "nano",
        "tiny",
        "a.wav",
        "a.mimo",
        "missing",
        "folder",
        "out.wav",
        "out.mimo",
        "out",
        "",
        " ",
        ".",
        "/",
        "-",
        "--",
    ),
    *(
        "0",
        "1",
        "-1",
        "8",
        "9",
        "1e9",
        "nan",
        "inf",
        "2.5",
        "1" * 400,
        "x" * 300,
        "x" * 5000,
        "a\x00b",
        "\x1b[31m",
        "\udcff",
    ),
    *(
        "é",
        "日本",
        "a.txt",
        "a/b/c",
        "cpu",
        "cuda",
        "meta",
        "float16",
        "int8",
        "bfloat16",
        "pesq",
        "opus",
        "all",
        "a.wav/x",
    ),
)


def _make_files(folder: Path) -> None:
    make_codec().save_pretrained(folder / "tiny")
    save_audio(folder / "a.wav", waveform(), RATE)
    make_codec().encode(folder / "a.wav", num_quantizers=2).save(folder / "a.mimo")
    (folder / "a.txt").write_text("not audio")
    (folder / "folder").mkdir()


def _make_command(folder: Path, good: None, rng: random.Random) -> list[str]:
    command = rng.choice(sorted(COMMANDS))
    words = command.split()
    options = (*COMMANDS[command], "--help", "--unknown", "-h", "--version")
    # an export of nano is nothing bad, but takes longer than an input may
    known = [word for word in WORDS if (command, word) != ("export codec", "nano")]
    for _ in range(rng.randrange(6)):
        words.append(rng.choice(options) if rng.random() < 0.5 else rng.choice(known))
    if command.split()[0] in ("encode", "decode", "reconstruct", "evaluate", "export"):
        words += ["-m", "tiny"] if command != "export codec" else []
    return words


def _use_command(folder: Path, words: list[str]) -> None:
    with _chdir(folder):
        run_command(words)
        left = [path for path in folder.rglob(".mimo-codec-*")]
        assert not left, f"left behind: {left}"
        for path in folder.iterdir():
            if path.name not in ("tiny", "a.wav", "a.mimo", "a.txt", "folder"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert (folder / "a.wav").exists() and (folder / "a.txt").read_text() == "not audio"


@contextlib.contextmanager
def _chdir(folder: Path) -> Any:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_command(words: list[str]) -> None:
    """The command in this process: it ends with a code of its own, and with one line on stderr where that is not 0."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as exited:
            assert exited.code in (0, 1, 2), f"exit code {exited.code!r}: {err.getvalue()[-500:]}"
            assert "Traceback" not in err.getvalue() + out.getvalue(), err.getvalue()[-1000:]


TARGETS = {
    "codes": Target(_make_codes, _spoil_one(".mimo"), _load_codes, 30),
    "sound": Target(_make_sounds, _spoil_sound, _load_sound, 30),
    "config": Target(_make_model, _spoil_config, _use_model, 10),
    "weights": Target(_make_model, _spoil_weights, _use_model, 10),
    "index": Target(_make_shards, _spoil_index, _use_model, 5),
    "metadata": Target(_make_graphs, _spoil_metadata, _use_graphs, 2),
    "language_model": Target(_make_language_model, _spoil_language_model, _use_language_model, 2),
    **DATA_TARGETS,
    "command": Target(_make_files, _make_command, _use_command, 3),
}
