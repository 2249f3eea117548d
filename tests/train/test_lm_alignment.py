"""When each word is said: paths that are planted are found, and are the likeliest ones."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lightning", reason="needs the train extra")

from mimo_codec import MimoError
from mimo_codec.train.lm.alignment import _path, align_words

LETTERS = {"|": 0, **{c: i + 1 for i, c in enumerate("abcdefgh")}}
BLANK = 9


def planted(symbols: list[int], noise: float = 0.1) -> np.ndarray:
    """Log probabilities whose likeliest symbols are these."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, noise, (len(symbols), 10))
    logits[np.arange(len(symbols)), symbols] += 5
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_planted_words_are_found() -> None:
    #          .  a  a  b  .  |  c  .  c  d  .
    symbols = [9, 1, 1, 2, 9, 0, 3, 9, 3, 4, 9]
    found = align_words(planted(symbols), ["ab", "?", "ccd"], LETTERS, BLANK, 0.1)
    assert [(round(start, 3), round(end, 3), word) for start, end, word in found] == [
        (0.1, 0.4, "ab"),
        (0.4, 0.4, "?"),
        (0.6, 1.0, "ccd"),
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 10_000))
def test_the_path_is_the_likeliest_of_all(ids: list[int], seed: int) -> None:
    log_probs = np.random.default_rng(seed).normal(size=(6, 10))
    if len(ids) + sum(a == b for a, b in itertools.pairwise(ids)) > 6:
        return
    path = dict(_path(log_probs, ids, BLANK))
    symbols = [ids[path[frame]] if frame in path else BLANK for frame in range(6)]

    def collapsed(row: tuple[int, ...]) -> list[int]:
        return [s for s, _ in itertools.groupby(row) if s != BLANK]

    assert collapsed(tuple(symbols)) == ids
    rows = [row for row in itertools.product({*ids, BLANK}, repeat=6) if collapsed(row) == ids]
    best = max(sum(log_probs[t, s] for t, s in enumerate(row)) for row in rows)
    assert sum(log_probs[t, s] for t, s in enumerate(symbols)) == pytest.approx(best)


def test_a_text_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MimoError, match="too few"):
        align_words(planted([1, 2]), ["abcdefgh"], LETTERS, BLANK, 0.1)
    with pytest.raises(MimoError, match="none"):
        align_words(planted([1, 2]), ["?!"], LETTERS, BLANK, 0.1)


@pytest.mark.slow
def test_the_program_adds_times_to_rows(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the lm extra")
    vocabulary = {"<pad>": 0, "|": 1, "<unk>": 2, **{c: i + 3 for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")}}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="<unk>")
    extractor = transformers.Wav2Vec2FeatureExtractor()
    config = transformers.Wav2Vec2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    model = tmp_path / "model"
    transformers.Wav2Vec2ForCTC(config).save_pretrained(model)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(model)
    sf.write(tmp_path / "a.wav", make_speech(2.0, seed=0).numpy(), 24000)
    rows = [{"audio": "a.wav", "text": "So it is."}, {"audio": "a.wav", "text": "long " * 300}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = [sys.executable, str(ROOT / "recipes" / "align.py"), str(tmp_path / "rows.jsonl")]
    done = subprocess.run(
        [*program, "-o", str(tmp_path / "out.jsonl"), "--model", str(model)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0 and "1 of 2 rows" in done.stdout, done.stderr
    first, second = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [word for _, _, word in first["words"]] == ["So", "it", "is."] and "words" not in second
    times = [time for start, end, _ in first["words"] for time in (start, end)]
    assert times == sorted(times) and times[-1] <= 2.05
