"""The grid of the language model: building, parsing, delays; and its text tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from mimo_codec import AudioCodes, MimoError
from mimo_codec.lm.layout import PAD, Audio, Layout, Run, Text, delay, undelay

EMPTY_ID = 7
LAYOUT = Layout(4, (1024, 1024, *[128] * 6), tuple(range(8)), EMPTY_ID)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    delays = draw(st.lists(st.integers(0, 6), min_size=len(sizes), max_size=len(sizes)))
    return Layout(draw(st.integers(1, 6)), tuple(sizes), tuple(delays), EMPTY_ID)


@st.composite
def layouts_and_runs(draw: st.DrawFn) -> tuple[Layout, list[Run]]:
    """Neighbours of different kinds, audio of whole patches."""
    layout, runs = draw(layouts()), []
    is_audio = draw(st.booleans())
    for _ in range(draw(st.integers(0, 6))):
        if is_audio:
            num_frames = layout.group_size * draw(st.integers(1, 4))
            rng = np.random.default_rng(draw(st.integers(0, 2**32)))
            runs.append(
                Audio(rng.integers(0, np.array(layout.empty_codes)[:, None], (layout.num_channels, num_frames)))
            )
        else:
            tokens = st.integers(0, 500).filter(lambda token: token != EMPTY_ID)
            runs.append(Text(tuple(draw(st.lists(tokens, min_size=1, max_size=8)))))
        is_audio = not is_audio
    return layout, runs


@given(layouts_and_runs())
def test_grids_come_apart_into_what_they_were_built_of(case: tuple[Layout, list[Run]]) -> None:
    layout, runs = case
    grid = layout.build(runs)
    assert layout.parse(grid) == runs
    assert np.array_equal(layout.build(layout.parse(grid)), grid)
    if runs:
        assert np.array_equal(layout.check_grid(grid), grid)
    lengths = [len(run.ids) if isinstance(run, Text) else run.codes.shape[1] // layout.group_size for run in runs]
    assert layout.token_ids(grid).shape == (sum(lengths),)
    assert layout.patches(grid).shape == (sum(lengths), layout.num_channels, layout.group_size)


@given(layouts(), st.integers(1, 20), st.integers(0, 2**32))
def test_delay_and_undelay_are_inverse(layout: Layout, num_frames: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 50, (2, layout.num_channels, num_frames))
    delayed = delay(codes, layout.delays, layout.empty_codes)
    assert delayed.shape == (2, layout.num_channels, num_frames + max(layout.delays))
    assert np.array_equal(undelay(delayed, layout.delays), codes)
    for r, (start, empty) in enumerate(zip(layout.delays, layout.empty_codes, strict=True)):
        outside = np.delete(delayed[:, r], np.arange(start, start + num_frames), axis=1)
        assert (outside == empty).all()
    tensor = delay(torch.from_numpy(codes), layout.delays, layout.empty_codes)
    assert np.array_equal(tensor.numpy(), delayed)
    assert np.array_equal(undelay(tensor, layout.delays).numpy(), codes)


def test_text_and_audio_positions() -> None:
    codes = np.arange(8 * 6).reshape(8, 6)
    grid = LAYOUT.build([Text((5, 6)), Audio(codes)])
    assert grid.shape == (9, 16)
    assert grid[0].tolist() == [5, *[PAD] * 3, 6, *[PAD] * 3, EMPTY_ID, *[PAD] * 3, EMPTY_ID, *[PAD] * 3]
    assert (grid[1:, :8] == np.array(LAYOUT.empty_codes)[:, None]).all()
    assert np.array_equal(grid[1:, 8:14], codes)
    assert np.array_equal(grid[1:, 14:], codes[:, [5, 5]])  # the last frame fills the patch


@given(st.integers(0, 30), st.integers(1, 90))
def test_spoken_answers_alternate_and_lose_nothing(num_tokens: int, num_frames: int) -> None:
    ids, codes = tuple(range(100, 100 + num_tokens)), np.arange(8 * num_frames).reshape(8, num_frames) % 128
    runs = LAYOUT.interleave(ids, codes, end_id=99)
    texts = [run for run in runs if isinstance(run, Text)]
    audios = [run for run in runs if isinstance(run, Audio)]
    assert tuple(i for run in texts for i in run.ids) == (*ids, 99)
    joined = np.concatenate([run.codes for run in audios], axis=1)
    assert np.array_equal(joined, LAYOUT.whole_patches(codes))
    assert all(len(run.ids) == 5 for run in texts[:-1]) and all(run.codes.shape[1] == 20 for run in audios[:-1])
    both = 2 * min(len(texts), len(audios))
    assert [isinstance(run, Text) for run in runs[:both]] == [True, False] * (both // 2)


def test_grids_that_are_refused() -> None:
    good = LAYOUT.build([Text((5,)), Audio(np.zeros((8, 4), np.int64))])
    silent, high, low = good.copy(), good.copy(), good.copy()
    silent[1, 5], high[3, 4], low[2, 0] = 1024, 129, -1
    for bad, words in [
        (good[:8], "shape"),
        (good[:, :7], "shape"),
        (good[:, :0], "shape"),
        (good[None], "shape"),
        (good.astype(float), "integers"),
        (high, "out of range"),
        (low, "out of range"),
        (silent, "empty codes"),
    ]:
        with pytest.raises(MimoError, match=words):
            LAYOUT.check_grid(bad)


def test_codes_of_another_codec_are_refused() -> None:
    codes = np.zeros((20, 3), np.int64)
    whole = AudioCodes(codes, 2880, 24000, 25.0, (1024, 1024, *[128] * 18))
    assert LAYOUT.check_codes(whole).shape == (8, 3)
    for bad, words in [
        (AudioCodes(codes[:8], 2880, 24000, 25.0, (1024,) * 8, "other@12345678"), "other@12345678"),
        (AudioCodes(codes[:4], 2880, 24000, 25.0, (1024, 1024, 128, 128)), "codebooks"),
        (AudioCodes(codes, 1440, 24000, 50.0, (1024, 1024, *[128] * 18)), "50 code frames"),
        (codes[:5], "8, T"),
        (codes.astype(float), "integers"),
        (codes + 128, "out of range"),
        (codes[:, :0], "no code"),
    ]:
        with pytest.raises(MimoError, match=words):
            LAYOUT.check_codes(bad)


# ---- tokenizer -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    pytest.importorskip("tokenizers", reason="needs the lm extra")
    from mimo_codec.lm.tokenizer import TextTokenizer

    return TextTokenizer.load(GOLDEN / "lm_base")


def test_names_of_special_tokens_in_what_users_say_are_only_text(tokenizer) -> None:
    said = "stop <|im_end|> and <think> on <|im_end|>"
    ids = tokenizer.encode(said)
    assert not set(ids) & set(vars(tokenizer.special).values())
    assert tokenizer.decode(ids) == said
    assert tokenizer.split("<|im_start|>user\n<think>") == [
        tokenizer.special.turn_start,
        "user\n",
        tokenizer.token_id("<think>"),
    ]


@given(st.text(max_size=20))
def test_text_comes_back(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_missing_special_tokens_are_named(tmp_path) -> None:
    pytest.importorskip("tokenizers", reason="needs the lm extra")
    from mimo_codec.lm.tokenizer import TextTokenizer

    text = (GOLDEN / "lm_base" / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace("<|sostm|>", "<|other|>"), encoding="utf-8")
    with pytest.raises(MimoError, match=r"has no <\|sostm\|>"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(MimoError, match="not a readable tokenizer"):
        TextTokenizer.load(tmp_path)
    with pytest.raises(MimoError, match="neither tokenizer.json nor"):
        TextTokenizer.load(tmp_path / "nowhere")
