"""Instructions: the sentences with which prompts ask for something, in English and Chinese, or a caller's own.

They are no part of the format: a checkpoint may bring others in a `prompts.json`, and callers may pass theirs.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from mimo_codec.common.checks import check_choice, check_type, error_prefix, require
from mimo_codec.common.files import atomic_path, read_json

PROMPTS = "prompts.json"
"""File with the instructions of a model, beside its weights."""
CHINESE = re.compile("[\u4e00-\u9fff]")
"""A character of Chinese."""
LANGUAGE_MARKS = {"en": "<english>", "zh": "<chinese>"}
"""Language -> what answers of recognizers begin with that were trained with such marks (MiMo-V2.5-ASR)."""


@dataclass(frozen=True)
class Instructions:
    """The instructions of every task; each can be replaced by a caller or by a `prompts.json` beside a checkpoint."""

    transcribe: str = "Write down what is said in the audio."
    speak: str = "Read the following text aloud"
    speak_chinese: str = "请朗读下面的文字"
    """Before text in which there are Chinese characters; `speak` too, where only that was replaced."""
    style_system: str = "Speak the text that you are given in the style that is asked for."
    style_voice_system: str = "Speak the text that you are given in the style that is asked for, with this voice: "
    voice_system: str = "Speak with this voice: "
    dialogue_voice_system: str = "Answer with this voice: "
    few_shot_prefix: str = "[Int]:"
    """Before examples of text and speech."""
    few_shot_speech_prefix: str = "<Spe>:"
    """Before examples that are all speech."""
    understand: str = "Describe what you hear."

    def __post_init__(self) -> None:
        """Check that every field is a string."""
        for field in fields(self):
            check_type(f"instructions: {field.name}", getattr(self, field.name), str, "text")

    def replace(self, changes: Mapping[str, str]) -> Instructions:
        """Return a copy with some sentences changed; MimoError names those that do not exist."""
        known = [field.name for field in fields(self)]
        unknown = [str(name) for name in changes if name not in known]
        require(not unknown, f"instructions: there is no {', '.join(unknown)}; there is {', '.join(known)}")
        chinese = {"speak_chinese": changes["speak"]} if "speak" in changes else {}
        return dataclasses.replace(self, **{**chinese, **changes})

    def to_speak(self, text: str) -> str:
        """Return what asks for `text` to be spoken, in Chinese if there are Chinese characters in it."""
        return self.speak_chinese if CHINESE.search(text) else self.speak

    def save(self, path: Path) -> None:
        """Write a prompts.json."""
        with atomic_path(path) as temporary:
            content = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
            temporary.write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Instructions:
        """Read a prompts.json: {"language": "en" or "zh", and sentences by name}; MimoError names a bad file."""
        content = read_json(path)
        with error_prefix(path):
            changes = dict(check_type("instructions", content, dict, "an object with sentences by name"))
            return find_instructions(changes.pop("language", "en")).replace(changes)

    @classmethod
    def choose(cls, given: Instructions | str | None, folder: Path) -> Instructions:
        """Return the instructions for a model.

        Args:
            given: instructions, or a language ("en", "zh"); None for the prompts.json in `folder`, or English.
            folder: of the model.
        """
        if isinstance(given, Instructions):
            return given
        if given is None and (folder / PROMPTS).is_file():
            return cls.load(folder / PROMPTS)
        return find_instructions("en" if given is None else given)


INSTRUCTIONS: Mapping[str, Instructions] = MappingProxyType(
    {
        "en": Instructions(),
        "zh": Instructions(
            transcribe="请写下音频中说的话。",
            speak="请朗读下面的文字",
            style_system="请按要求的风格说出给你的文字。",
            style_voice_system="请按要求的风格，用下面的声音说出给你的文字：",
            voice_system="请用下面的声音说话：",
            dialogue_voice_system="请用下面的声音回答：",
            understand="请描述你听到的内容。",
        ),
    }
)
"""Language -> this project's own instructions."""


Wording, WORDINGS = Instructions, INSTRUCTIONS
"""Their names in version 0.1."""


def find_instructions(language: str) -> Instructions:
    """Return this project's instructions in a language; MimoError lists the languages there are."""
    return INSTRUCTIONS[check_choice("language", language, INSTRUCTIONS)]
