"""Prompts of every task: the golden grids, the instructions, and what is refused."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path

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

TASK_OF = {
    "few_shot_speech_to_speech": "few_shot",
    "dialogue_speech_multiturn": "dialogue_speech",
    "understanding_thinking": "understanding",
    "tts_instruct_voice": "tts_instruct",
    "tts_natural_voice": "tts_natural",
}
VOICE = np.zeros((8, 5), np.int64)


@dataclass(frozen=True)
class Golden:
    """A folder of reference prompts, with the tokenizer and the instructions that they were made with."""

    config: LMConfig
    tokenizer: TextTokenizer
    layout: Layout
    words: Instructions
    prompts: dict[str, dict]
    """Name -> arguments, in which audio is a name."""
    expected: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Path) -> Golden:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        config, tokenizer = LMConfig.load(folder / "config.json"), TextTokenizer.load(folder)
        sizes, delays = config.speech_zeroemb_idx, config.delay_pattern
        layout = Layout(config.group_size, sizes, delays, tokenizer.special.empty)
        words = INSTRUCTIONS["en"].replace(meta["wording"])
        return cls(config, tokenizer, layout, words, meta["prompts"], load_file(folder / "expected.safetensors"))

    def arguments(self, name: str) -> dict:
        """The arguments of a prompt, in the form that the task takes."""
        found = self.with_codes({k: v for k, v in self.prompts[name].items() if k != "note"})
        if name == "dialogue_speech":
            found["turns"] = [{"role": "user", "audio": found.pop("audio")}]
        for key, kind in (("turns", Turn), ("examples", Example)):
            if key in found:
                found[key] = [kind(**self.with_codes(item)) for item in found[key]]
        return found

    def with_codes(self, value: dict) -> dict:
        """Names of audio -> codes."""
        is_audio = {k: isinstance(v, str) and (k == "voice" or k.endswith("audio")) for k, v in value.items()}
        return {k: self.expected[f"audio.{v}"].astype(np.int64) if is_audio[k] else v for k, v in value.items()}

    def grid(self, task: str, words: Instructions | None = None, **given) -> np.ndarray:
        """The grid of a prompt."""
        reader = AudioReader(self.config, self.layout, None, "codec=NAME")
        segments = TASKS[task].prompt(words or self.words, reader, given)
        return self.layout.build(render(segments, self.tokenizer, self.layout))


BASE, QWEN = Golden.load(GOLDEN / "lm_base"), Golden.load(GOLDEN / "lm_prompts")
"""With a tokenizer of bytes, and with one of Qwen2's pre-tokenizer, which joins `.` and an empty line after it."""
TOKENIZER, LAYOUT, grid = BASE.tokenizer, BASE.layout, BASE.grid
READER = AudioReader(BASE.config, LAYOUT, None, "codec=NAME")


@pytest.mark.parametrize("golden", [BASE, QWEN], ids=["lm_base", "lm_prompts"])
@pytest.mark.parametrize("name", BASE.prompts)
def test_golden_prompts(golden: Golden, name: str) -> None:
    assert len(golden.prompts) == 13
    found = golden.grid(TASK_OF.get(name, name), **golden.arguments(name))
    assert np.array_equal(found, golden.expected[f"prompt.{name}"])


def test_segments_are_tokenized_one_by_one() -> None:
    """What a user says never joins the markup before and after it, whatever it begins and ends with."""
    joined, apart = QWEN.tokenizer.encode("Be calm.\n\n"), ["Be calm.", "\n\n"]
    found = [token for run in render(apart, QWEN.tokenizer, QWEN.layout) for token in run.ids]
    assert found == [token for text in apart for token in QWEN.tokenizer.encode(text)] != joined
    turns = [{"role": "user", "text": "\n\nHello.\n"}]
    ids = QWEN.layout.token_ids(QWEN.grid("dialogue_text", turns=turns, system="Be calm.")).tolist()
    texts = ["user\n", "Be calm.", "\n\n", "\n\nHello.\n"]
    assert ids[1 : ids.index(QWEN.tokenizer.special.turn_end)] == [t for s in texts for t in QWEN.tokenizer.encode(s)]


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
    assert set(TASKS) == {TASK_OF.get(name, name) for name in BASE.prompts} | {"continuation"}
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
    assert said == "Capitals.\nFrance\nParis \n\nItaly\nRome \n\nSpain\n"


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ({"text": "c", "speak": False}, ""),
        ({"text": "c"}, "[Int]:"),
        ({"audio": VOICE, "speak": False}, "[Int]:"),
        ({"audio": VOICE}, "<Spe>:"),
        ({"audio": VOICE, "prefix": "[Int]:"}, "[Int]:"),
        ({"audio": VOICE, "prefix": ""}, ""),
        ({"audio": VOICE, "instruction": "Do it."}, "[Int]:Do it.\n"),
    ],
)
def test_few_shot_begins_as_its_kind_does(given: dict, prefix: str) -> None:
    """`[Int]:` where text and speech are mixed, `<Spe>:` where all is speech, nothing where all is text."""
    source = {"input_audio": VOICE} if "audio" in given else {"input_text": "a"}
    shown = Example("b", VOICE, **source)
    ids = LAYOUT.token_ids(grid("few_shot", examples=[shown], **given)).tolist()
    begin = TOKENIZER.encode(prefix)
    assert ids[: len(begin)] == begin
    assert ids[len(begin)] == (TOKENIZER.special.audio_start if "audio" in given else TOKENIZER.encode("a")[0])


CONVERSATIONS = json.loads((GOLDEN / "lm_prompts" / "conversations.json").read_text(encoding="utf-8"))
TRAINED = load_file(GOLDEN / "lm_prompts" / "conversations.safetensors")


@pytest.mark.parametrize(
    ("number", "task", "end"),
    [
        (0, "dialogue_speech_to_text", "<think>\n\n</think>\n"),
        (1, "dialogue_speech", "<|sostm|>"),
        (2, "dialogue_speech", "<|sostm|>"),
        (3, "dialogue_speech_to_text", "<think>\n"),
    ],
)
def test_turns_of_the_released_format(number: int, task: str, end: str) -> None:
    """Parts in any order and the system's turn become what the released training toolkit makes of them."""
    *turns, answer = CONVERSATIONS[number]
    turns = [{**turn, "content": [QWEN.with_codes(part) for part in turn["content"]]} for turn in turns]
    thinking = {"thinking": answer["thinking"]} if task == "dialogue_speech_to_text" else {}
    prompt = QWEN.grid(task, turns=turns, **thinking)
    expected = TRAINED[f"input_ids.{number}"]
    assert np.array_equal(prompt, expected[:, : prompt.shape[1]])
    ends = QWEN.tokenizer.split(end)
    ids = [t for e in ends for t in ([e] if isinstance(e, int) else QWEN.tokenizer.encode(e))]
    assert QWEN.layout.token_ids(prompt).tolist()[-len(ids) :] == ids


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"role": "user", "content": []}, "content: is empty"),
        ({"role": "user", "content": " "}, "text: is empty"),
        ({"role": "user", "content": 5}, "content must be text or a list of parts, not 5"),
        ({"role": "user", "content": [{"type": "audio"}]}, r"content\[0\]: .*is needed"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, r"content\[0\]: .*is needed"),
        ({"role": "user", "content": ["a", {"type": "image", "image": 5}]}, r"content\[1\]: .*is needed"),
        ({"role": "user", "content": "a", "text": "b"}, "beside it"),
        ({"role": "user", "text": "b", "txt": "b"}, "txt is not known; there is role, text, audio, content"),
        ({"text": "b"}, "role is missing"),
        ({"role": "system", "text": "b"}, "there is none of the user"),
    ],
)
def test_turns_that_are_refused(turn: dict, words: str) -> None:
    with pytest.raises(MimoError, match=words):
        grid("dialogue_text", turns=[turn])


def test_the_system_speaks_once() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    said = TOKENIZER.decode(LAYOUT.token_ids(grid("dialogue_text", turns=turns)).tolist())
    assert "system\nBe brief." in said
    for given in ({"system": "Be long."}, {"voice": VOICE}):
        with pytest.raises(MimoError, match="leave out system and voice"):
            grid("dialogue_speech", turns=turns, **given)
    with pytest.raises(MimoError, match="turn 1 is of 'system'"):
        grid("dialogue_text", turns=[turns[1], turns[0]])
    with pytest.raises(MimoError, match="one sound at most, not 2"):
        Turn("assistant", content=[{"type": "audio", "audio": VOICE}] * 2)


def test_chinese_text_is_asked_for_in_chinese() -> None:
    def asked(words: Instructions, text: str) -> str:
        return TOKENIZER.decode(LAYOUT.token_ids(grid("tts", words, text=text)).tolist())

    english, own = INSTRUCTIONS["en"], INSTRUCTIONS["en"].replace({"speak": "Say"})
    assert "请朗读下面的文字: 你好" in asked(english, "你好")
    assert f"{english.speak}: Good day" in asked(english, "Good day")
    assert "Say: 你好" in asked(own, "你好")
    with_style = grid("tts_instruct", english, text="你好", style="calm")
    assert "请朗读下面的文字: 你好(calm)" in TOKENIZER.decode(LAYOUT.token_ids(with_style).tolist())


def test_recognizers_are_told_the_language() -> None:
    """The mark stands in one segment with the line break before it."""
    told, untold = (QWEN.layout.token_ids(QWEN.grid("asr", audio=VOICE, **g)) for g in ({"language": "zh"}, {}))
    end = QWEN.tokenizer.split("<think>\n\n</think>\n<chinese>")
    assert told.tolist() == [*untold.tolist()[:-1], *QWEN.tokenizer.encode(str(end[-1]))]
    with pytest.raises(MimoError, match="language 'fr' is not known; choose one of en, zh"):
        grid("asr", audio=VOICE, language="fr")


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
        ("asr", {"audio": VOICE, "tongue": "a"}, "asr: tongue is not known; there is audio, instruction, language"),
        ("tts", {"text": "\udcff"}, "no Unicode text"),
    ],
)
def test_what_tasks_refuse(task: str, given: dict, words: str) -> None:
    with pytest.raises(MimoError, match=words):
        grid(task, **given)
