"""Rows of tasks: their prompt is that of generation, what is trained is the answer, and files of rows are read."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, make_speech

pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("tokenizers", reason="needs the lm extra")

import soundfile as sf

from mimo_codec import AudioCodes, MimoError
from mimo_codec.audio.files import audio_info
from mimo_codec.common.errors import MimoWarning
from mimo_codec.lm.audio import AudioReader
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.instructions import INSTRUCTIONS
from mimo_codec.lm.layout import Layout, Text
from mimo_codec.lm.prompts import render
from mimo_codec.lm.tasks import TASKS
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.train.lm import codes_cache
from mimo_codec.train.lm.codes_cache import CachedReader
from mimo_codec.train.lm.files import find_row_files, read_rows
from mimo_codec.train.lm.interleaved import split_words
from mimo_codec.train.lm.item import Item, make_item
from mimo_codec.train.lm.rows import ignored_keys, names_its_use, row_parts
from mimo_codec.train.lm.store import ItemStore, write_items

FOLDER = GOLDEN / "lm_prompts"
CODES = np.arange(8 * 8).reshape(8, 8) % 100


@cache
def tools() -> tuple[AudioReader, TextTokenizer, Layout]:
    config, tokenizer = LMConfig.load(FOLDER / "config.json"), TextTokenizer.load(FOLDER)
    layout = Layout(config.group_size, config.speech_zeroemb_idx, config.delay_pattern, tokenizer.special.empty)
    return AudioReader(config, layout, None, "codec=NAME"), tokenizer, layout


def make(row: Any, task: str | None = None) -> Item:
    reader, tokenizer, layout = tools()
    return make_item(row_parts(row, reader, INSTRUCTIONS["en"], task), tokenizer, layout, 1000)


def text_of(item: Item, trained: bool) -> str:
    """The text that is trained, or that is not, special tokens shown."""
    _, tokenizer, layout = tools()
    ids = layout.token_ids(item.grid)[item.trained == trained]
    return tokenizer.tokenizer.decode(ids.tolist(), skip_special_tokens=False).replace("<|empty|>", "")


AUDIO = CODES.tolist()
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "asr": ({"audio": AUDIO, "text": "So it is."}, {"audio": CODES}, "So it is.<|im_end|>\n"),
    "tts": (
        {"audio": AUDIO, "text": "So it is."},
        {"text": "So it is."},
        "<|sostm|>So it is.<|eot|><|eostm|><|im_end|>\n",
    ),
    "tts_instruct": (
        {"audio": AUDIO, "text": "Go!", "style": "angry", "Chain-of-thought": "Loud."},
        {"text": "Go!", "style": "angry"},
        "Loud.\n</think>\n<|sostm|>Go!<|eot|><|eostm|><|im_end|>\n",
    ),
    "tts_natural": (
        {"text": "Say no, please.", "answer": "No.", "answer_audio": AUDIO},
        {"text": "Say no, please."},
        "\n</think>\n<|sostm|>No.<|eot|><|eostm|><|im_end|>\n",
    ),
    "understanding": (
        {"audio": AUDIO, "text": "Who speaks?", "answer": "A man."},
        {"audio": CODES, "text": "Who speaks?"},
        "A man.<|im_end|>\n",
    ),
    "dialogue_speech": (
        {"turns": [{"role": "user", "audio": AUDIO}], "answer": "Yes.", "answer_audio": AUDIO},
        {"turns": [{"role": "user", "audio": CODES}]},
        "<|sostm|>Yes.<|eot|><|eostm|><|im_end|>\n",
    ),
    "dialogue_text": (
        {"turns": [{"role": "user", "text": "Hm?"}], "answer": "Yes."},
        {"turns": [{"role": "user", "text": "Hm?"}]},
        "Yes.<|im_end|>\n",
    ),
}


@pytest.mark.parametrize("task", ROWS)
def test_a_row_is_the_prompt_of_generation_and_the_answer(task: str) -> None:
    row, arguments, answer = ROWS[task]
    reader, tokenizer, layout = tools()
    item = make({"task": task, **row})
    prompt = layout.build(render(TASKS[task].prompt(INSTRUCTIONS["en"], reader, arguments), tokenizer, layout))
    np.testing.assert_array_equal(item.grid[:, : prompt.shape[1]], prompt)
    assert text_of(item, trained=True) == answer
    if task in ("asr", "tts"):  # a row that names no task
        np.testing.assert_array_equal(make(row, task).grid, item.grid)


def test_examples_end_as_in_their_format() -> None:
    shown = {"input_audio": CODES.tolist(), "output_audio": CODES.tolist(), "output_text": "One."}
    row = {"examples": [shown], "audio": AUDIO, "answer": "Two.", "answer_audio": AUDIO}
    assert text_of(make({"task": "few_shot", **row}), trained=True) == "<|sostm|>Two.<|eot|><|eostm|> \n\n"


def test_speech_and_text_in_turn_say_everything_once() -> None:
    words = " ".join(f"word{i}" for i in range(60))
    codes = (np.arange(8 * 300).reshape(8, 300) % 100).tolist()
    item = make({"task": "interleaved", "audio": codes, "text": words})
    spoken = text_of(item, trained=True).replace("<|endoftext|>", "")
    spans = [span for span in spoken.replace("<|eosp|>", "<|sosp|>").split("<|sosp|>") if span]
    assert item.trained.all() and len(spans) >= 2
    assert set(" ".join(spans).split()) < set(words.split())  # the others are spoken
    times = [[i * 0.2, i * 0.2 + 0.1, f"word{i}"] for i in range(60)]
    timed = make({"task": "interleaved", "audio": codes, "text": words, "words": times})
    heard = int((tools()[2].token_ids(timed.grid) == tools()[1].special.empty).sum())
    said = len(set(words.split()) - set(text_of(timed, True).replace("<|sosp|>", " ").replace("<|eosp|>", " ").split()))
    assert heard * 0.16 == pytest.approx(said * 0.2, abs=0.2 + 0.16 * len(spans))


def test_characters_between_which_no_spaces_stand_are_words_of_spans() -> None:
    assert split_words("So it is,  and\nso.") == ["So", "it", "is,", "and", "so."]
    assert split_words("你好，吗？OK かな") == ["你", "好，", "吗？", "OK", "か", "な"]
    text = "".join(chr(0x4E00 + i) for i in range(60))
    codes = (np.arange(8 * 300).reshape(8, 300) % 100).tolist()
    row = {"task": "interleaved", "audio": codes, "text": text}
    times = [[i * 0.2, i * 0.2 + 0.1, character] for i, character in enumerate(text)]
    for more in ({}, {"words": times}):
        item = make({**row, **more})
        written = text_of(item, trained=True).replace("<|endoftext|>", "")
        spans = [span for span in written.replace("<|eosp|>", "<|sosp|>").split("<|sosp|>") if span]
        assert len(spans) >= 2 and all(span in text for span in spans)
        num_patches = int((tools()[2].token_ids(item.grid) == tools()[1].special.empty).sum())
        assert num_patches * 0.16 == pytest.approx((60 - sum(map(len, spans))) * 0.2, abs=1)


@pytest.mark.parametrize(
    "row",
    [
        7,
        "text",
        {},
        {"task": 3},
        {"task": "asr", "audio": AUDIO},
        {"task": "asr", "audio": AUDIO, "text": " "},
        {"task": "tts", "text": "a"},
        {"task": "text"},
        {"task": "speech"},
        {"task": "speech", "audio": "nowhere.wav"},
        {"task": "interleaved", "audio": AUDIO, "text": "a b", "words": [[0, 1, "a"], [0.5, 0.2, "b"]]},
        {"task": "interleaved", "audio": AUDIO, "text": "a b", "words": [[9, 9, "a"]]},
        {"task": "understanding", "audio": AUDIO, "text": "Who?"},
        {"turns": "a"},
        {"task": "interleaved", "audio": AUDIO, "text": "a b", "words": [[0, 0, "a"], [1e308, 1e308, "b"]]},
        {"task": "interleaved", "audio": AUDIO, "text": "a b", "words": [[0, 10**400, "a"]]},
        {"task": "interleaved", "audio": AUDIO, "text": "a b", "words": [[0, float("inf"), "a"]]},
        {"task": "understanding", "audio": AUDIO, "text": "Who?", "answer": "I.", "thinking": "false"},
        {"task": "text", "text": "a" * 10**6},
        {"task": "asr", "audio": [[1, 2], [3]], "text": "a"},
    ],
)
def test_rows_of_no_use_are_refused_in_a_sentence(row: Any) -> None:
    with pytest.raises(MimoError) as caught:
        make(row)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_files_of_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "one.json").write_text(json.dumps(turns))
    (tmp_path / "several.json").write_text(json.dumps([turns, turns]))
    (tmp_path / "lines.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(turns).encode() + b"\n\n[1\n\xff\n")
    (tmp_path / "other.txt").write_text("not read")
    entries = {path.name: list(read_rows(path)) for path in find_row_files(tmp_path)}
    assert [entry.row for entry in entries["one.json"]] == [turns]
    assert [entry.row for entry in entries["several.json"]] == [turns, turns]
    assert [(e.line, e.fault is None) for e in entries["lines.jsonl"]] == [(1, True), (3, False), (4, False)]
    for root in ("nowhere", "other.txt"):
        with pytest.raises(MimoError):
            find_row_files(tmp_path / root)


class CountingCodec:
    """Stands for a codec, and counts the files that it encodes."""

    sample_rate, frame_rate, codebook_sizes, model_id = 24000, 25.0, (1024, 1024, *[128] * 6), "counting@12345678"
    count = batches = 0

    def encode(self, audio: Any, sample_rate: int | None = None, num_quantizers: int = 8) -> AudioCodes:
        self.count += 1
        if audio is not None:
            audio_info(audio)  # refuses what is no sound
        num_samples = CODES.shape[1] * 960
        return AudioCodes(CODES, num_samples, self.sample_rate, self.frame_rate, self.codebook_sizes, self.model_id)

    def encode_batch(self, audio: list[Any], num_quantizers: int = 8) -> list[AudioCodes]:
        self.batches += 1
        return [self.encode(path, None, num_quantizers) for path in audio]


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for name, seed in (("a.wav", 0), ("copy.wav", 0), ("b.wav", 1)):
        sf.write(tmp_path / name, make_speech(0.5, seed=seed).numpy(), 24000)
    return tmp_path


def cached_reader(folder: Path, codec: CountingCodec) -> CachedReader:
    reader = tools()[0]
    cached = CachedReader(reader.config, reader.layout, codec, "", cache=folder / "cache")
    cached.base = folder
    return cached


def test_audio_is_encoded_once(sounds: Path) -> None:
    codec = CountingCodec()
    for _ in range(2):
        cached = cached_reader(sounds, codec)
        for audio in ("a.wav", "copy.wav", "b.wav", {"path": "a.wav"}):
            np.testing.assert_array_equal(cached.codes(audio), CODES)
    assert codec.count == 2
    for kept in (sounds / "cache").rglob("*.mimo"):
        kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(cached.codes("a.wav"), CODES)
    assert codec.count == 3


def test_files_are_hashed_again_only_when_they_have_changed(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    hashed = codes_cache._read_hash
    monkeypatch.setattr(codes_cache, "_read_hash", lambda path: (read.append(path.name), hashed(path))[1])
    path, codec = sounds / "a.wav", CountingCodec()
    old = path.stat().st_mtime - 100
    os.utime(path, (old, old))
    for _ in range(2):
        cached_reader(sounds, codec).codes("a.wav")
    assert read == ["a.wav"]
    noted = next((sounds / "cache" / "hashes").rglob("*.json"))
    for damage in (b"", b"[1]", b"{}", b"\xff"):
        noted.write_bytes(damage)
        cached_reader(sounds, codec).codes("a.wav")
    assert len(read) == 5 and codec.count == 1
    path.write_bytes((sounds / "b.wav").read_bytes())  # as long as before, and just written
    for _ in range(2):
        cached_reader(sounds, codec).codes("a.wav")
    assert len(read) == 7 and codec.count == 2


def test_other_content_of_the_same_size_and_time_is_noticed(sounds: Path) -> None:
    """Archives give the files of all their versions one time."""
    path, codec = sounds / "a.wav", CountingCodec()
    for count, other in enumerate(("b.wav", "copy.wav"), 1):
        path.write_bytes((sounds / other).read_bytes())
        os.utime(path, (10**9, 10**9))
        cached_reader(sounds, codec).codes("a.wav")
        assert codec.count == count
        time.sleep(0.05)


def test_a_cache_that_cannot_be_written_costs_no_row(sounds: Path) -> None:
    (sounds / "cache").write_bytes(b"a file where the folder should be")
    old = (sounds / "a.wav").stat().st_mtime - 100
    os.utime(sounds / "a.wav", (old, old))
    codec = CountingCodec()
    cached = cached_reader(sounds, codec)
    with pytest.warns(MimoWarning, match="not kept for later runs: .*cache") as caught:
        for _ in range(2):
            np.testing.assert_array_equal(cached.codes("a.wav"), CODES)
    assert len(caught) == 1
    cached.encode_ahead([{"audio": "b.wav"}])
    assert codec.batches == 0, "they would be encoded again"


def test_files_that_rows_name_are_encoded_together(sounds: Path) -> None:
    codec = CountingCodec()
    cached = cached_reader(sounds, codec)
    rows = [
        {"task": "tts", "text": "a.wav is a name", "audio": "a.wav", "codes": [[1, 2]]},
        [{"role": "user", "content": [{"type": "audio", "audio": {"path": "b.wav"}}]}],
        {"audio": "missing.wav", "text": None, "number": 3},
        "copy.wav",
    ]
    cached.encode_ahead(rows)
    assert codec.batches == 1 and codec.count == 2
    cached.encode_ahead(rows)
    np.testing.assert_array_equal(cached.codes("b.wav"), CODES)
    assert codec.batches == 1 and codec.count == 2
    with pytest.raises(MimoError, match="audio: .* is a folder"):
        cached.codes("")
    (sounds / "bad.wav").write_bytes(b"RIFF and nothing")
    cached.encode_ahead([{"audio": "bad.wav"}])
    with pytest.raises(MimoError, match="bad.wav"):
        cached.codes("bad.wav")


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    items = [make({"task": task, **ROWS[task][0]})._replace(name=task) for task in ROWS]
    layout = tools()[2]
    write_items(tmp_path, enumerate(items), layout)
    store = ItemStore(tmp_path, layout)
    assert len(store) == len(items)
    for number, item in enumerate(items):
        np.testing.assert_array_equal(store[number].grid, item.grid)
        np.testing.assert_array_equal(store[number].trained, item.trained)
        assert store[number].name == item.name and store.sources[number] == number
    for name in ("codes", "lengths"):
        whole = (tmp_path / f"{name}.bin").read_bytes()
        (tmp_path / f"{name}.bin").write_bytes(b"cut short")
        with pytest.raises(MimoError, match=f"{name}.bin"):
            ItemStore(tmp_path, layout)
        (tmp_path / f"{name}.bin").write_bytes(whole)
    (tmp_path / "lengths.bin").write_bytes(np.array([-1, store.lengths.sum() + 1, *[0] * (len(items) - 2)]).tobytes())
    with pytest.raises(MimoError, match="do not belong together"):
        ItemStore(tmp_path, layout)
    for count in ("[]", "{}", '{"items": null}', '{"items": 1e300}', '{"items": "9"}', '{"items": -1}'):
        (tmp_path / "count.json").write_text(count)
        with pytest.raises(MimoError, match=r"count\.json: damaged"):
            ItemStore(tmp_path, layout)


def test_text_runs_are_not_joined_across_parts() -> None:
    """As prompts are rendered: a full stop and the line break of the next segment stay two tokens."""
    item = make([{"role": "user", "content": "Hm."}, {"role": "assistant", "content": "Yes."}])
    runs = tools()[2].parse(item.grid)
    assert len(runs) == 1 and isinstance(runs[0], Text)


def test_keys_without_a_meaning_are_named() -> None:
    assert ignored_keys({"task": ["tts"], "text": "a"}) == ["text"], "which row_parts refuses"
    assert ignored_keys({"task": "tts", "text": "a", "audio": AUDIO, "vioce": AUDIO, "id": 3}) == ["id", "vioce"]
    assert ignored_keys({"text": "a", "audio": AUDIO}, "asr") == []
    assert ignored_keys({"turns": [], "system": "a"}) == ["system"] and ignored_keys([]) == []
    assert ignored_keys({"messages": [], "audio": AUDIO}, ["asr", "tts"]) == ["audio"], "a conversation all the same"
    row = {"text": "a", "audio": AUDIO, "words": [], "id": 3, "turns": None}
    assert ignored_keys(row, ["asr", "interleaved"]) == ["id"], "words have a meaning for the second task"
    assert ignored_keys(row, [None]) == ["audio", "id", "text", "words"]


def test_keys_that_are_null_are_as_if_they_were_not_there() -> None:
    row = {"text": "a", "audio": AUDIO}
    assert names_its_use([]) and names_its_use({"task": "asr"}) and names_its_use({"turns": []})
    assert not names_its_use(row) and not names_its_use({**row, "task": None, "turns": None})
    np.testing.assert_array_equal(make({**row, "task": None}, "asr").grid, make(row, "asr").grid)


def test_shards_of_codes_are_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the datasets extra")
    from pyarrow import Table, parquet

    content = CountingCodec().encode(None).to_bytes()
    words = [{"start": 0.0, "end": 0.1, "word": "So"}, {"start": 0.1, "end": 0.2, "word": "it"}]
    rows = [
        {"codes": content, "text": "So it is.", "words": words, "speaker": "a"},
        {"codes": content[:-3], "text": "cut", "words": None, "speaker": None},
        {"codes": content, "text": "Yes.", "words": None, "speaker": None},
    ]
    path = tmp_path / "shard-0.parquet"
    parquet.write_table(Table.from_pylist(rows), path)
    entries = list(read_rows(path))
    assert [entry.fault is None for entry in entries] == [True, False, True]
    item = make(entries[0].row, "asr")
    np.testing.assert_array_equal(item.grid, make({"audio": CODES, "text": "So it is."}, "asr").grid)
    assert make(entries[0].row, "interleaved").trained.all()
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(MimoError, match="shard-0"):
        list(read_rows(path))


def test_text_of_a_shard_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the datasets extra")
    from pyarrow import parquet

    texts = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(MimoError, match="a.parquet: not a readable Parquet file"):
        list(read_rows(tmp_path / "a.parquet"))
