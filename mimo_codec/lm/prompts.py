"""Prompts: one registry entry per task, each a few segments; the wording is data.

A task says what stands between the special tokens; `render` turns its segments into the runs of a grid. The layouts are
those that the released models were trained on; the instructions in words are an argument (`Wording`), ours by default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import atomic_path, read_json
from mimo_codec.lm.layout import Audio, Layout, Run, Text
from mimo_codec.lm.request import GREEDY, Sampling
from mimo_codec.lm.tokenizer import TextTokenizer

Codes = NDArray[np.int64]
MIN_VOICE_SECONDS = 0.2
PROMPTS = "prompts.json"
"""File of a wording beside a model."""


# ---- wording ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wording:
    """The instructions in words; every one can be given by a caller or by a `prompts.json` beside a checkpoint."""

    transcribe: str = "Write down what is said in the audio."
    speak: str = "Read the following text aloud"
    style_system: str = "Speak the text that you are given in the style that is asked for."
    style_voice_system: str = "Speak the text that you are given in the style that is asked for, with this voice: "
    voice_system: str = "Speak with this voice: "
    dialogue_voice_system: str = "Answer with this voice: "
    few_shot_prefix: str = "[Int]:"
    understand: str = "Describe what you hear."

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(getattr(self, field.name), str):
                raise MimoError(f"wording: {field.name} must be text, not {getattr(self, field.name)!r}")

    def replace(self, changes: Mapping[str, str]) -> Wording:
        """A copy with some pieces changed; MimoError names those that do not exist."""
        known = [field.name for field in fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise MimoError(f"wording: there is no {', '.join(map(str, unknown))}; there is {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def save(self, path: Path) -> None:
        """Write a prompts.json."""
        with atomic_path(path) as temporary:
            content = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
            temporary.write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Wording:
        """Read a prompts.json: {"language": "en" or "zh", and pieces by name}."""
        content = read_json(path)
        if not isinstance(content, dict):
            raise MimoError(f"{path}: an object with pieces of wording is needed")
        language = content.pop("language", "en")
        try:
            return find_wording(language).replace(content)
        except MimoError as error:
            raise MimoError(f"{path}: {error}") from None


WORDINGS: Mapping[str, Wording] = MappingProxyType(
    {
        "en": Wording(),
        "zh": Wording(
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
"""Language -> our own wording."""


def find_wording(language: str) -> Wording:
    """Our wording in a language; MimoError lists the languages there are."""
    if not isinstance(language, str) or language not in WORDINGS:
        raise MimoError(f"language: {language!r} is not known; there is {', '.join(WORDINGS)}")
    return WORDINGS[language]


# ---- segments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Markup:
    """Text in which names of special tokens mean these tokens."""

    text: str


@dataclass(frozen=True, eq=False)
class Heard:
    """Audio between `<|sosp|>` and `<|eosp|>`."""

    codes: Codes


@dataclass(frozen=True, eq=False)
class Spoken:
    """A spoken answer: text and audio in turn between `<|sostm|>` and `<|eostm|>`."""

    text: str
    codes: Codes


@dataclass(frozen=True, eq=False)
class Open:
    """Audio that the model is to go on with: `<|sosp|>` and no end."""

    codes: Codes


Segment = str | Markup | Heard | Spoken | Open
"""A str is what a user said: no special token comes of it."""


def render(segments: Sequence[Segment], tokenizer: TextTokenizer, layout: Layout) -> list[Run]:
    """Segments -> runs of text and audio. Text of neighbours is joined before it is tokenized."""
    runs: list[Run] = []
    special = tokenizer.special
    waiting = ""

    def flush() -> None:
        nonlocal waiting
        runs.append(Text(tuple(tokenizer.encode(waiting))))
        waiting = ""

    for segment in segments:
        pieces = tokenizer.split(segment.text) if isinstance(segment, Markup) else [segment]
        for piece in pieces:
            if isinstance(piece, str):
                waiting += piece
                continue
            flush()
            if isinstance(piece, int):
                runs.append(Text((piece,)))
            elif isinstance(piece, Heard):
                runs += [Text((special.audio_start,)), Audio(piece.codes), Text((special.audio_end,))]
            elif isinstance(piece, Open):
                runs += [Text((special.audio_start,)), Audio(piece.codes)]
            elif isinstance(piece, Spoken):
                turns = layout.interleave(tokenizer.encode(piece.text), piece.codes, special.text_end)
                runs += [Text((special.speech_start,)), *turns, Text((special.speech_end,))]
    flush()
    return [run for run in runs if not isinstance(run, Text) or run.ids]


# ---- turns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side said: text, audio codes [C, T], or both (a spoken answer)."""

    role: str
    text: str | None = None
    audio: Codes | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """An example of a few: what went in, and what came out of it."""

    output_text: str
    output_audio: Codes | None = None
    input_text: str | None = None
    input_audio: Codes | None = None


def _message(role: str, *segments: Segment) -> list[Segment]:
    return [Markup(f"<|im_start|>{role}\n"), *segments, Markup("<|im_end|>\n")]


def _assistant(text: str = "") -> list[Segment]:
    """The head of the turn that the model is to write."""
    return [Markup(f"<|im_start|>assistant\n{text}")]


SPEECH, THINK, NO_THINK = "<|sostm|>", "<think>\n", "<think>\n\n</think>\n"


def _thinking(thinking: bool) -> str:
    return THINK if thinking else NO_THINK


def _check_turns(turns: Sequence[Turn], spoken: bool) -> None:
    """MimoError unless user and assistant take turns, the user first and last, and each says what it can."""
    if not turns:
        raise MimoError("turns: there are none")
    for i, turn in enumerate(turns):
        role = ("user", "assistant")[i % 2]
        if turn.role != role:
            raise MimoError(f"turns: turn {i} is of {turn.role!r}; user and assistant take turns, the user first")
        if turn.text is None and turn.audio is None:
            raise MimoError(f"turns: turn {i} has neither text nor audio")
        if turn.text is not None:
            _need_text(turn.text, f"turns: the text of turn {i}")
        if role == "assistant" and turn.text is None:
            raise MimoError(f"turns: turn {i} of the assistant needs its text")
        if role == "assistant" and spoken and turn.audio is None:
            raise MimoError(f"turns: turn {i} of the assistant needs its audio, for the answer is to be spoken")
    if turns[-1].role != "user":
        raise MimoError("turns: the last is the assistant's; the model answers a turn of the user")


def _dialogue(turns: Sequence[Turn], system: str | None, spoken: bool) -> list[Segment]:
    """All turns as messages. What the system says stands before the user's first words."""
    _check_turns(turns, spoken)
    if system is not None and not isinstance(system, str):
        raise MimoError(f"system: is {system!r}, no text")
    segments: list[Segment] = []
    for i, turn in enumerate(turns):
        said: list[Segment] = [f"{system}\n\n"] if system and i == 0 else []
        if turn.role == "assistant":
            assert turn.text is not None
            said += [Spoken(turn.text, turn.audio)] if spoken and turn.audio is not None else [turn.text]
        else:
            said += [Heard(turn.audio)] if turn.audio is not None else []
            said += [turn.text] if turn.text is not None else []
        segments += _message(turn.role, *said)
    return segments


# ---- tasks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A kind of prompt. Temperatures and the like are those of the released models' card."""

    name: str
    doc: str
    segments: Callable[..., list[Segment]]
    """(wording, **arguments) -> segments"""
    speaks: bool
    """The answer holds audio."""
    text: Sampling
    """How text is drawn."""
    audio: Sampling
    """How codes are drawn."""
    text_end: str
    """What ends an answer in text besides special tokens; empty where they suffice."""


TASKS: dict[str, Task] = {}
AUDIO_SAMPLING = Sampling(temperature=0.9, top_p=0.95)
"""Of every task."""


def _task(speaks: bool, text: Sampling, text_end: str = "") -> Callable[[Any], Any]:
    def register(function: Callable[..., list[Segment]]) -> Callable[..., list[Segment]]:
        name, doc = function.__name__, (function.__doc__ or "").splitlines()[0]
        TASKS[name] = Task(name, doc, function, speaks, text, AUDIO_SAMPLING, text_end)
        return function

    return register


def _need_text(text: str, name: str = "text") -> None:
    if not isinstance(text, str):
        raise MimoError(f"{name}: is {text!r}, no text")
    if not text.strip():
        raise MimoError(f"{name}: is empty")


@_task(speaks=False, text=GREEDY)
def asr(words: Wording, audio: Codes, instruction: str | None = None) -> list[Segment]:
    """Transcription: audio -> text."""
    if instruction is not None:
        _need_text(instruction, "instruction")
    return [
        *_message("user", Heard(audio), words.transcribe if instruction is None else instruction),
        *_assistant(NO_THINK),
    ]


@_task(speaks=True, text=Sampling(0.6))
def tts(words: Wording, text: str, voice: Codes | None = None, instruction: str | None = None) -> list[Segment]:
    """Speech synthesis: text -> speech, with a voice sample or without."""
    _need_text(text)
    system = _message("system", words.voice_system, Heard(voice)) if voice is not None else []
    return [
        *system,
        *_message("user", f"{_speak(words, instruction)}: {_sentence(text)}"),
        *_assistant(SPEECH),
    ]


@_task(speaks=True, text=Sampling(0.6))
def tts_instruct(
    words: Wording, text: str, style: str, voice: Codes | None = None, instruction: str | None = None
) -> list[Segment]:
    """Speech synthesis in a style that is described."""
    _need_text(text)
    _need_text(style, "style")
    said = f"{_speak(words, instruction)}: {_sentence(text)}({style})"
    return [*_style_system(words, voice), *_message("user", said), *_assistant(THINK)]


@_task(speaks=True, text=Sampling(0.6))
def tts_natural(words: Wording, text: str, voice: Codes | None = None) -> list[Segment]:
    """Speech synthesis of a request in plain words, which says how and what."""
    _need_text(text)
    return [*_style_system(words, voice), *_message("user", text), *_assistant(THINK)]


def _speak(words: Wording, instruction: str | None) -> str:
    if instruction is not None:
        _need_text(instruction, "instruction")
    return words.speak if instruction is None else instruction


def _sentence(text: str) -> str:
    """Text in one case alone, lower or upper, as the released models were given it: capitalised."""
    return text.capitalize() if text.islower() or text.isupper() else text


def _style_system(words: Wording, voice: Codes | None) -> list[Segment]:
    if voice is None:
        return _message("system", words.style_system)
    return _message("system", words.style_voice_system, Heard(voice))


@_task(speaks=False, text=Sampling(0.3, top_p=0.95))
def understanding(words: Wording, audio: Codes, text: str | None = None, thinking: bool = False) -> list[Segment]:
    """A question about audio -> text."""
    if text is not None:
        _need_text(text, "question")
    return [
        *_message("user", Heard(audio), words.understand if text is None else text),
        *_assistant(_thinking(thinking)),
    ]


@_task(speaks=True, text=Sampling(0.6, top_p=0.95))
def dialogue_speech(
    words: Wording, turns: Sequence[Turn], system: str | None = None, voice: Codes | None = None
) -> list[Segment]:
    """Spoken dialogue: turns -> a spoken answer, in the voice of a sample or its own."""
    head = _message("system", words.dialogue_voice_system, Heard(voice)) if voice is not None else []
    return [*head, *_dialogue(turns, system, spoken=True), *_assistant(SPEECH)]


@_task(speaks=False, text=Sampling(0.6, top_p=0.95))
def dialogue_speech_to_text(
    words: Wording, turns: Sequence[Turn], system: str | None = None, thinking: bool = False
) -> list[Segment]:
    """Dialogue in which the user speaks and the answer is text."""
    return [*_dialogue(turns, system, spoken=False), *_assistant(_thinking(thinking))]


@_task(speaks=False, text=Sampling(0.4, top_p=0.95))
def dialogue_text(
    words: Wording, turns: Sequence[Turn], system: str | None = None, thinking: bool = False
) -> list[Segment]:
    """Dialogue in text."""
    return [*_dialogue(turns, system, spoken=False), *_assistant(_thinking(thinking))]


@_task(speaks=True, text=GREEDY, text_end="\n\n")
def few_shot(
    words: Wording,
    instruction: str,
    examples: Sequence[Example],
    audio: Codes | None = None,
    text: str | None = None,
    speak: bool = True,
) -> list[Segment]:
    """An instruction, examples of it, and audio or text to do the same with."""
    _need_text(instruction, "instruction")
    if (audio is None) == (text is None):
        raise MimoError("few_shot: audio or text is needed, and not both")
    segments: list[Segment] = [f"{words.few_shot_prefix}{instruction}\n"]
    for i, example in enumerate(examples):
        if (example.input_audio is None) == (example.input_text is None):
            raise MimoError(f"examples: example {i} needs input_audio or input_text, and not both")
        _need_text(example.output_text, f"examples: output_text of example {i}")
        if speak and example.output_audio is None:
            raise MimoError(f"examples: example {i} needs output_audio, for the answer is to be spoken")
        out: Segment = example.output_text
        if speak and example.output_audio is not None:
            out = Spoken(example.output_text, example.output_audio)
        segments += [_input(example.input_text, example.input_audio), "\n", out, " \n\n"]
    return [*segments, _input(text, audio), "\n", *([Markup(SPEECH)] if speak else [])]


def _input(text: str | None, audio: Codes | None) -> Segment:
    if audio is not None:
        return Heard(audio)
    _need_text(text or "", "text")
    return text or ""


@_task(speaks=True, text=Sampling(0.6, top_p=0.95))
def continuation(words: Wording, audio: Codes) -> list[Segment]:
    """Speech -> how it may go on, in the same voice."""
    return [Open(audio)]
