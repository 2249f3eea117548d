"""Training data that is attacked: manifests, shards of audio, and rows of the language model."""

from __future__ import annotations

import io
import json
import random
import tarfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from conftest import GOLDEN
from mutations import mutate_bytes, mutate_json_text
from target import RATE, SECONDS, Target, waveform

from mimo_codec import AudioCodes, MimoError
from mimo_codec.audio.writer import save_audio


def _make_manifest(folder: Path) -> str:
    save_audio(folder / "a.wav", waveform(), RATE)
    rows = [
        {"path": "a.wav", "seconds": SECONDS, "sample_rate": RATE, "text": "a", "speaker": "s", "language": "en"},
        {"path": "a.wav", "seconds": 0.1, "start": 0.1, "sample_rate": RATE},
    ]
    return "\n".join(map(json.dumps, rows))


def _spoil_manifest(folder: Path, good: str, rng: random.Random) -> Path:
    lines = [mutate_json_text(line, rng) if rng.random() < 0.7 else line.encode() for line in good.splitlines()]
    path = folder / "spoilt.jsonl"
    path.write_bytes(mutate_bytes(b"\n".join(lines), rng) if rng.random() < 0.2 else b"\n".join(lines))
    return path


def _use_manifest(folder: Path, path: Path) -> None:
    from mimo_codec.data.find import find_utterances

    find_utterances(path)


# ---- shards of audio -------------------------------------------------------------------------------------------------


def _make_shards_of_audio(folder: Path) -> list[tuple[str, bytes]]:
    """Suffix and content of a tar file, and of Arrow and Parquet files where the datasets extra is installed."""
    sounds = []
    for seconds in (SECONDS, 0.1):
        file = io.BytesIO()
        sf.write(file, waveform(seconds), RATE, format="FLAC")
        sounds.append(file.getvalue())
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as shard:
        for number, sound in enumerate(sounds):
            for suffix, data in ((".flac", sound), (".json", b'{"text": "a", "speaker_id": 7}')):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    made = [(".tar", tar.getvalue())]
    if find_spec("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"audio": [{"bytes": s, "path": "a.flac"} for s in sounds], "text": ["a", None]})
        arrow, parquet = io.BytesIO(), io.BytesIO()
        with pa.ipc.new_stream(arrow, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        pq.write_table(table, parquet, row_group_size=1)
        made += [(".arrow", arrow.getvalue()), (".parquet", parquet.getvalue())]
    return made


def _spoil_shard(folder: Path, good: list[tuple[str, bytes]], rng: random.Random) -> Path:
    suffix, data = rng.choice(good)
    path = folder / f"spoilt{suffix}"
    path.write_bytes(mutate_bytes(data, rng))
    return path


def _use_shard(folder: Path, path: Path) -> None:
    from mimo_codec.data.find import find_utterances
    from mimo_codec.data.scan import Limits, examine

    for utterance in find_utterances(path)[0]:
        examine(utterance, Limits())


# ---- rows of the language model --------------------------------------------------------------------------------------


def _make_rows(folder: Path) -> list[tuple[str, Any]]:
    """Suffix and content: conversations and tasks as JSON and as JSON lines, and a Parquet file of codes."""
    rng = np.random.default_rng(0)
    sizes = (1024,) * 2 + (128,) * 6
    codes = AudioCodes(rng.integers(0, 100, (8, 8)), 7680, 24000, 25.0, sizes, "tiny@0")
    codes.save(folder / "a.mimo", overwrite=True)
    path, listed = str(folder / "a.mimo"), codes.codes.tolist()
    turns = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, {"type": "audio", "audio": path}],
            "thinking": True,
        },
        {"role": "assistant", "content": "A voice.", "thinking": True, "Chain-of-thought": "So."},
    ]
    rows = [
        turns,
        {"messages": turns},
        {"task": "asr", "audio": listed, "text": "hello"},
        {"task": "tts", "text": "hello", "audio": path},
        {
            "task": "interleaved",
            "text": "hello you",
            "audio": listed,
            "words": [[0.0, 0.1, "hello"], [0.1, 0.2, "you"]],
        },
    ]
    made: list[tuple[str, Any]] = [(".json", json.dumps(rows)), *((".jsonl", json.dumps(row)) for row in rows)]
    if find_spec("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        parquet = io.BytesIO()
        pq.write_table(pa.table({"codes": [codes.to_bytes()] * 2, "text": ["a", "b"], "task": ["asr"] * 2}), parquet)
        made.append((".parquet", parquet.getvalue()))
    return made


def _spoil_rows(folder: Path, good: list[tuple[str, Any]], rng: random.Random) -> Path:
    suffix, data = rng.choice(good)
    path = folder / f"spoilt{suffix}"
    path.write_bytes(mutate_bytes(data, rng) if isinstance(data, bytes) else mutate_json_text(data, rng))
    return path


@cache
def _tools() -> tuple[Any, Any, Any]:
    from mimo_codec.lm.audio import AudioReader
    from mimo_codec.lm.config import LMConfig
    from mimo_codec.lm.layout import Layout
    from mimo_codec.lm.tokenizer import TextTokenizer

    folder = GOLDEN / "lm_prompts"
    config, tokenizer = LMConfig.load(folder / "config.json"), TextTokenizer.load(folder)
    layout = Layout(config.group_size, config.speech_zeroemb_idx, config.delay_pattern, tokenizer.special.empty)
    return AudioReader(config, layout, None, "codec=NAME"), tokenizer, layout


def _use_rows(folder: Path, path: Path) -> None:
    """Every row gives an item or one MimoError."""
    from mimo_codec.lm.instructions import INSTRUCTIONS
    from mimo_codec.train.lm.files import read_rows
    from mimo_codec.train.lm.item import make_item
    from mimo_codec.train.lm.rows import ignored_keys, row_parts

    reader, tokenizer, layout = _tools()
    for entry in read_rows(path):
        if entry.fault is None:
            ignored_keys(entry.row)
            try:
                make_item(row_parts(entry.row, reader, INSTRUCTIONS["en"]), tokenizer, layout, 1000)
            except MimoError as error:
                assert "\n" not in str(error), str(error)


DATA_TARGETS = {
    "manifest": Target(_make_manifest, _spoil_manifest, _use_manifest, 10),
    "shard": Target(_make_shards_of_audio, _spoil_shard, _use_shard, 5),
    "rows": Target(_make_rows, _spoil_rows, _use_rows, 5),
}
