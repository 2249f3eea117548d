"""Prompts of every task: the golden grids, the instructions, and what is refused."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from conftest import GOLDEN

pytest.importorskip("tokenizers", reason="needs the lm extra")

from safetensors.numpy import load_file

from mimo_codec import MimoError
from mimo_codec.lm.audio import AudioReader
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.instructions import INSTRUCTIONS, Instructions, find_instructions
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.prompts import Example, Turn, render
from mimo_codec.lm.request import Sampling
from mimo_codec.lm.tasks import TASKS
from mimo_codec.lm.tokenizer import TextTokenizer

FOLDER = GOLDEN / "lm_base"
EXPECTED = load_file(FOLDER / "expected.safetensors")
META = json.loads((FOLDER / "meta.json").read_text())
CONFIG, TOKENIZER = LMConfig.load(FOLDER / "config.json"), TextTokenizer.load(FOLDER)
LAYOUT = Layout(CONFIG.group_size, CONFIG.speech_zeroemb_idx, CONFIG.delay_pattern, TOKENIZER.special.empty)
READER = AudioReader(CONFIG, LAYOUT, None, "codec=NAME")
WORDS = INSTRUCTIONS["en"].replace(META["wording"])
TASK_OF = {
    "few_shot_speech_to_speech": "few_shot",
    "dialogue_speech_multiturn": "dialogue_speech",
    "understanding_thinking": "understanding",
    "tts_instruct_voice": "tts_instruct",
    "tts_natural_voice": "tts_natural",
}
VOICE = np.zeros((8, 5), np.int64)


def codes(name: str) -> np.ndarray:
    return EXPECTED[f"audio.{name}"].astype(np.int64)


def with_codes(value: dict) -> dict:
    """Names of audio -> codes."""
    return {
        k: codes(v) if isinstance(v, str) and (k in ("voice", "audio") or k.endswith("_audio")) else v
        for k, v in value.items()
    }


def arguments(name: str) -> dict:
    """The arguments of a golden prompt, in the form that the task takes."""
    found = with_codes({k: v for k, v in META["prompts"][name].items() if k != "note"})
    if name == "dialogue_speech":
        found["turns"] = [{"role": "user", "audio": found.pop("audio")}]
    for key, kind in (("turns", Turn), ("examples", Example)):
        if key in found:
            found[key] = [kind(**with_codes(item)) for item in found[key]]
    return found


def grid(task: str, words: Instructions = WORDS, **given) -> np.ndarray:
    return LAYOUT.build(render(TASKS[task].prompt(words, READER, given), TOKENIZER, LAYOUT))


@pytest.mark.parametrize("name", META["prompts"])
def test_golden_prompts(name: str) -> None:
    assert np.array_equal(grid(TASK_OF.get(name, name), **arguments(name)), EXPECTED[f"prompt.{name}"])


def test_tasks_say_which_inputs_are_audio() -> None:
    """What a caller gives for them may be a file or a waveform; arguments without an entry are flags."""
    for task in TASKS.values():
        parameters = list(inspect.signature(task.segments).parameters.values())[1:]
        flags = {parameter.name for parameter in parameters if parameter.annotation == "bool"}
        assert {parameter.name for parameter in parameters} - task.inputs.keys() == flags, task.name
        for name in {"audio", "voice"} & task.inputs.keys():
            with pytest.raises(MimoError, match=f"{name}: only codes can be read without a codec"):
                task.inputs[name](READER, name, "speech.wav")


def test_every_task_has_a_golden_prompt_or_a_test_of_its_own() -> None:
    assert set(TASKS) == {TASK_OF.get(name, name) for name in META["prompts"]} | {"continuation"}
    assert all(task.doc for task in TASKS.values())


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("asr", (0, 1)),
        ("few_shot", (0, 1)),
        ("tts", (0.6, 1)),
        ("tts_instruct", (0.6, 1)),
        ("tts_natural", (0.6, 1)),
        ("understanding", (0.3, 0.95)),
        ("dialogue_speech", (0.6, 0.95)),
        ("dialogue_speech_to_text", (0.6, 0.95)),
        ("dialogue_text", (0.4, 0.95)),
        ("continuation", (0.6, 0.95)),
    ],
)
def test_sampling_of_every_task(task: str, text: tuple[float, float]) -> None:
    """Text (temperature, top-p) as the released model's card has it; audio is drawn the same way in all of them."""
    assert TASKS[task].text == Sampling(text[0], top_p=text[1])
    assert TASKS[task].audio == Sampling(0.9, top_p=0.95)


def test_text_in_one_case_is_capitalised() -> None:
    same = [grid("tts", text=text) for text in ("good day to you", "GOOD DAY TO YOU", "Good day to you")]
    assert all(np.array_equal(found, same[0]) for found in same)
    assert not np.array_equal(grid("tts", text="Good Day to you"), same[0])


def test_continuation_ends_inside_the_audio() -> None:
    prompt = grid("continuation", audio=VOICE[:, :4])
    assert LAYOUT.token_ids(prompt).tolist() == [TOKENIZER.special.audio_start, TOKENIZER.special.empty]


def test_few_shot_in_text() -> None:
    examples = [Example("Paris", input_text="France"), Example("Rome", input_text="Italy")]
    prompt = grid("few_shot", instruction="Capitals.", examples=examples, text="Spain", speak=False)
    said = TOKENIZER.decode(LAYOUT.token_ids(prompt).tolist())
    assert said == "[Int]:Capitals.\nFrance\nParis \n\nItaly\nRome \n\nSpain\n"


def test_chinese_instructions_and_some_of_them(tmp_path) -> None:
    chinese = TOKENIZER.decode(LAYOUT.token_ids(grid("tts", find_instructions("zh"), text="你好")).tolist())
    assert "请朗读下面的文字: 你好" in chinese
    (tmp_path / "prompts.json").write_text('{"language": "zh", "transcribe": "Say it."}')
    loaded = Instructions.load(tmp_path / "prompts.json")
    assert loaded.transcribe == "Say it." and loaded.speak == INSTRUCTIONS["zh"].speak
    for content, words in [
        ('{"speek": "a"}', "speek"),
        ('{"speak": 3}', "speak must be text, not 3"),
        ("[]", "object"),
        ("{", "JSON"),
        ('{"language": "xx"}', "en, zh"),
    ]:
        (tmp_path / "prompts.json").write_text(content)
        with pytest.raises(MimoError, match=words):
            Instructions.load(tmp_path / "prompts.json")


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "none"),
        ([Turn("assistant", "a")], "takes? turns|the user first"),
        ([Turn("user", "a"), Turn("user", "b")], "turn 1"),
        ([Turn("user", "a"), Turn("assistant", "b", VOICE)], "the last is the assistant's"),
        ([{"role": "user"}], r"turns\[0\]: has neither text nor audio"),
        ([{"role": "user", "text": " "}], r"turns\[0\]: text: is empty"),
        ([{"role": "user", "text": 5}], r"turns\[0\]: text must be text, not 5"),
        ([{"role": "owner", "text": "a"}], r"turns\[0\]: role 'owner' is not known; choose one of user, assistant"),
        ([Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")], "turn 1 of the assistant needs its audio"),
        ([Turn("user", "a"), Turn("assistant", None, VOICE), Turn("user", "c")], "needs its text"),
    ],
)
def test_turns_in_a_wrong_order(turns: list, words: str) -> None:
    with pytest.raises(MimoError, match=words):
        grid("dialogue_speech", turns=turns)


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        ("tts", {"text": " "}, "text: is empty"),
        ("tts_instruct", {"text": "a", "style": ""}, "style: is empty"),
        ("tts_natural", {"text": ""}, "text: is empty"),
        ("understanding", {"audio": VOICE, "text": ""}, "question: is empty"),
        ("few_shot", {"instruction": "a", "examples": []}, "audio or text"),
        ("few_shot", {"instruction": "", "examples": [], "audio": VOICE}, "instruction: is empty"),
        ("few_shot", {"instruction": "a", "examples": [Example("b", None, "c")], "audio": VOICE}, "output_audio"),
        ("few_shot", {"instruction": "a", "examples": [{"output_text": "b"}], "audio": VOICE}, "input_audio or"),
        (
            "few_shot",
            {"instruction": "a", "examples": [{"output_text": None, "input_text": "c"}], "audio": VOICE},
            "output_text",
        ),
        ("asr", {"audio": VOICE, "instruction": ""}, "instruction: is empty"),
        ("tts", {"text": "\udcff"}, "no Unicode text"),
    ],
)
def test_what_tasks_refuse(task: str, given: dict, words: str) -> None:
    with pytest.raises(MimoError, match=words):
        grid(task, **given)
