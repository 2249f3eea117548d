"""The parts of recipes/*.py that need neither voices nor recognisers."""

from __future__ import annotations

import json
import random
import runpy
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from mimo_codec import MimoError


def recipe(name: str) -> dict[str, Any]:
    """Everything that recipes/NAME.py defines."""
    return runpy.run_path(str(ROOT / "recipes" / f"{name}.py"))


@pytest.mark.parametrize(
    ("text", "whisper", "moonshine", "kept"),
    [
        (None, "It's a test, he said.", "it's a test he said", "It's a test, he said."),
        (None, "one two three four", "one two three five", None),
        (None, "", "", None),
        (None, "", "a word", None),
        ("A given text.", "a given text", "nothing of it", "A given text."),
        ("A given text.", "something else", "nothing of it", None),
    ],
)
def test_a_text_is_kept_when_both_recognisers_agree_or_one_confirms_it(text, whisper, moonshine, kept):
    pytest.importorskip("jiwer", reason="needs the eval extra")
    assert recipe("transcribe")["trusted_text"](text, whisper, moonshine, max_wer=0.1) == kept


def test_a_line_that_was_cut_off_is_done_again(tmp_path):
    output = tmp_path / "out.jsonl"
    whole = json.dumps({"path": "/a.wav"}) + "\n" + json.dumps({"path": "/a.wav", "start": 2.5}) + "\n"
    output.write_text(whole + '{"path": "/b')
    assert recipe("transcribe")["finished"](output) == {("/a.wav", 0.0), ("/a.wav", 2.5)}
    assert output.read_text() == whole


def test_silence_is_cut_from_both_ends_of_synthetic_speech():
    samples = np.zeros(5000, np.float32)
    samples[2000:3000] = 0.5
    assert len(recipe("synthesise")["trim"](samples, rate=1000)) == pytest.approx(1000 + 2 * 100, abs=1)


def test_voices_are_shifted_in_pitch_and_formants_together():
    synthesise, rate = recipe("synthesise"), 24000
    assert synthesise["shift_factors"](1) == [1.0] and len(set(synthesise["shift_factors"](12))) == 12
    t = np.arange(rate) / rate
    tones = (np.sin(2 * np.pi * 200 * t) + np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
    for factor in synthesise["shift_factors"](5):
        shifted = synthesise["shift"](synthesise["Speech"](tones, rate, "anna"), factor)
        spectrum = np.abs(np.fft.rfft(shifted.samples * np.hanning(len(shifted.samples))))
        peaks = np.sort(np.argsort(spectrum)[::-1][:4]) * rate / len(shifted.samples)
        assert shifted.rate == rate and len(shifted.samples) == pytest.approx(rate / factor, rel=0.01)
        assert peaks[0] == pytest.approx(200 * factor, rel=0.03) and peaks[-1] == pytest.approx(1000 * factor, rel=0.03)
        assert shifted.speaker == ("anna" if factor == 1 else f"anna@{factor:.2f}")


def test_a_probe_learns_to_read_codes():
    """Codes that are the letters themselves: the recogniser must find them, and not in codes of another text."""
    jiwer = pytest.importorskip("jiwer", reason="needs the eval extra")
    probe = recipe("probe")
    draw, letters = random.Random(0), probe["LETTERS"]

    def example() -> Any:
        text = " ".join("".join(draw.sample("abcdefgh", 3)) for _ in range(2))
        codes = torch.tensor([[letters.index(letter) for letter in text for _ in range(2)]])
        return probe["Example"](torch.cat((codes, codes // 5)), text)

    examples, held_out = [example() for _ in range(400)], [example() for _ in range(5)]
    torch.manual_seed(0)
    model = probe["Recogniser"]((32, 8), dim=64, num_layers=1, num_heads=2)
    probe["train"](model, examples, 400, 16, 5e-3)
    texts = [item.text for item in held_out]
    assert jiwer.cer(texts, probe["transcribe"](model, held_out)) < 0.1
    others = [item._replace(codes=item.codes.flip(1)) for item in held_out]
    assert jiwer.cer(texts, probe["transcribe"](model, others)) > 0.4
    assert probe["letters"]("Don’t, 3 times: STOP!") == "don't times stop"


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize("text", [LAUGHS, "a: &a [*a]", "a: [", "x" * 2**21])
def test_hostile_recipes_are_refused_at_once(tmp_path, monkeypatch, text):
    """Aliases of aliases, which grow to billions of values; one that holds itself; no YAML; a huge file."""
    from mimo_codec.train.run import check_yaml, train

    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(MimoError, match=r"bad\.yaml: (has more than|not valid YAML|is larger)"):
        check_yaml(tmp_path / "bad.yaml")
    for arguments in (["--config", "bad.yaml"], ["--config=bad.yaml"]):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MimoError, match=r"bad\.yaml: (has more than|not valid YAML|is larger)"):
            train("nano_stage1", arguments)
    (tmp_path / "good.yaml").write_text("a: &a {b: 1}\nc: *a\nd: *a\n")
    check_yaml(tmp_path / "good.yaml")


def test_a_run_is_carried_whole_but_for_averages_of_gradients():
    """Exactly, but for 16 bits of what is large and averages that begin anew."""
    pytest.importorskip("lightning", reason="needs the train extra")
    carry = recipe("carry_run")
    weights, squares = torch.randn(100, 100), torch.rand(100, 100) * 1e-12
    checkpoint = {
        "global_step": 7,
        "state_dict": {"w": weights, "codes": torch.arange(9), "small": torch.randn(3)},
        "optimizer_states": [{"state": {0: {"exp_avg": weights, "exp_avg_sq": squares, "step": torch.tensor(7.0)}}}],
        "loops": (None, True, [1.5, "text"]),
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(carry["pack"](checkpoint, "", tensors)))
    found = carry["unpack"](packed, tensors)
    assert found["loops"] == checkpoint["loops"] and found["global_step"] == 7
    assert torch.equal(found["state_dict"]["codes"], torch.arange(9))
    assert torch.equal(found["state_dict"]["small"], checkpoint["state_dict"]["small"])
    torch.testing.assert_close(found["state_dict"]["w"], weights, rtol=1e-3, atol=1e-6)
    state = found["optimizer_states"][0]["state"][0]
    assert not state["exp_avg"].any() and state["step"] == 7
    torch.testing.assert_close(state["exp_avg_sq"], squares, rtol=1e-2, atol=0)
    assert sum(tensor.nbytes for tensor in tensors.values()) < 2.1 * 2 * weights.numel()
