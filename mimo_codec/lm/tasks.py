"""The tasks of the language model: one entry each, which says what goes in, the prompt, and how answers are drawn.

To add a task, write a function that returns the segments of its prompt and put `@_task(...)` over it: `prompt`, `run`
and `streaming.run` of every model then know it by the name of the function.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar, cast

from mimo_codec.common.checks import check_choice, check_type, error_prefix, require
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.audio import AudioReader
from mimo_codec.lm.instructions import LANGUAGE_MARKS, Instructions
from mimo_codec.lm.layout import Codes
from mimo_codec.lm.prompts import (
    NO_THINK,
    SPEECH,
    THINK,
    Example,
    Heard,
    Markup,
    Open,
    Segment,
    Sound,
    Turn,
    assistant,
    check_examples,
    check_text,
    dialogue,
    example,
    message,
    sentence,
    thoughts,
)
from mimo_codec.lm.request import GREEDY, Sampling

AUDIO_SAMPLING = Sampling(temperature=0.9, top_p=0.95)
"""How every task draws codes."""
THOUGHTS = ("thinking", "Chain-of-thought")
"""Keys of turns in training data that are left out: past turns are shown to a model without their thoughts."""

# ---- inputs ----------------------------------------------------------------------------------------------------------

Input = Callable[[AudioReader, str, Any], object]
"""(reader, name, what a caller gave) -> what a prompt is made of; MimoError for what cannot be used."""
ItemT = TypeVar("ItemT", Turn, Example)


def _text(reader: AudioReader, name: str, value: object) -> str:
    return check_text(name, value)


def _question(reader: AudioReader, name: str, value: object) -> str:
    return check_text("question", value)  # as `understand` calls it


def _audio(reader: AudioReader, name: str, value: Any) -> Codes:
    return reader.codes(value, name)


def _patches(reader: AudioReader, name: str, value: Any) -> Codes:
    return reader.patches(value, name)


def _voice(reader: AudioReader, name: str, value: Any) -> Codes:
    return reader.voice(value, name)


def _system(reader: AudioReader, name: str, value: object) -> str:
    return check_type(name, value, str, "text")


def _language(reader: AudioReader, name: str, value: str) -> str:
    return check_choice(name, value, LANGUAGE_MARKS)


def _turns(reader: AudioReader, name: str, values: object) -> list[Turn]:
    return [_turn_with_codes(reader, f"{name}[{i}]", turn) for i, turn in enumerate(as_items(Turn, name, values))]


def _turn_with_codes(reader: AudioReader, where: str, turn: Turn) -> Turn:
    parts = turn.parts
    for i, part in enumerate(parts):
        if isinstance(part, Sound):
            place = "audio" if turn.content is None else f"content[{i}]"
            parts[i] = Sound(reader.codes(part.audio, f"{where}.{place}"))
    return Turn(turn.role, content=parts)


def _examples(reader: AudioReader, name: str, values: object) -> list[Example]:
    return [_with_codes(reader, f"{name}[{i}]", item) for i, item in enumerate(as_items(Example, name, values))]


def _with_codes(reader: AudioReader, where: str, item: Example) -> Example:
    audio = {name: value for name, value in vars(item).items() if name.endswith("audio") and value is not None}
    codes: dict[str, Any] = {name: reader.codes(value, f"{where}.{name}") for name, value in audio.items()}
    return replace(item, **codes)


def as_items(kind: type[ItemT], name: str, values: object) -> list[ItemT]:
    """Return turns or examples, each given as such or as a dictionary; MimoError says which cannot be used."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    require(is_list, f"{name}: a list is needed, not {reprlib.repr(values)}")
    return [_as_item(kind, f"{name}[{i}]", value) for i, value in enumerate(cast("Sequence[object]", values))]


def _as_item(kind: type[ItemT], where: str, value: object) -> ItemT:
    if isinstance(value, Mapping):
        with error_prefix(where):
            return _from_mapping(kind, {name: given for name, given in value.items() if name not in THOUGHTS})
    return check_type(where, value, kind, f"a {kind.__name__} or a dictionary")


def _from_mapping(kind: type[ItemT], given: Mapping[str, Any]) -> ItemT:
    known = [field.name for field in fields(kind)]
    unknown = [str(name) for name in given if name not in known]
    require(not unknown, f"{', '.join(unknown)} is not known; there is {', '.join(known)}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in given]
    require(not missing, f"{', '.join(missing)} is missing")
    return kind(**given)


TEXT, QUESTION, SYSTEM, AUDIO, PATCHES, VOICE = _text, _question, _system, _audio, _patches, _voice
TURNS, EXAMPLES, LANGUAGE = _turns, _examples, _language

# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A kind of prompt. Temperatures and the like are those of the released models' card."""

    name: str
    doc: str
    segments: Callable[..., list[Segment]]
    """(instructions, **arguments) -> segments of the prompt."""
    inputs: Mapping[str, Input]
    """Argument -> what is made of it, audio as codes; arguments that are not here are True or False."""
    speaks: bool
    """The answer holds audio, unless the task has an argument `speak` and it is False."""
    text: Sampling
    """How text is drawn."""
    audio: Sampling
    """How codes are drawn."""
    text_end: str
    """What ends an answer in text besides special tokens; empty where they suffice."""

    def prompt(self, instructions: Instructions, reader: AudioReader, arguments: Mapping[str, Any]) -> list[Segment]:
        """Return the segments of a prompt; MimoError for arguments that are unknown, missing or of no use."""
        signature = inspect.signature(self.segments)
        known = [name for name in signature.parameters if name != "words"]
        unknown = [name for name in arguments if name not in known]
        require(not unknown, f"{self.name}: {', '.join(unknown)} is not known; there is {', '.join(known)}")
        try:
            signature.bind(instructions, **arguments)
        except TypeError as error:
            raise MimoError(f"{self.name}: {error}") from None
        ready = dict(arguments)
        for name in arguments.keys() & self.inputs.keys():
            if arguments[name] is not None or signature.parameters[name].default is not None:
                ready[name] = self.inputs[name](reader, name, arguments[name])
        return self.segments(instructions, **ready)

    def answers_in_speech(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the answer to a prompt with these arguments holds audio."""
        return self.speaks and arguments.get("speak") is not False


TASKS: dict[str, Task] = {}
"""All tasks by name."""


def find_task(name: str) -> Task:
    """Return a task by name; MimoError lists those there are."""
    return TASKS[check_choice("task", name, TASKS)]


Prompt = Callable[..., list[Segment]]


def _task(inputs: Mapping[str, Input], speaks: bool, text: Sampling, text_end: str = "") -> Callable[[Prompt], Prompt]:
    def register(function: Prompt) -> Prompt:
        name, doc = function.__name__, (function.__doc__ or "").splitlines()[0]
        TASKS[name] = Task(name, doc, function, inputs, speaks, text, AUDIO_SAMPLING, text_end)
        return function

    return register


@_task({"audio": AUDIO, "instruction": TEXT, "language": LANGUAGE}, speaks=False, text=GREEDY)
def asr(
    words: Instructions, audio: Codes, instruction: str | None = None, language: str | None = None
) -> list[Segment]:
    """Transcribe: audio -> text, in a language that recognizers with marks of languages are told."""
    asked = words.transcribe if instruction is None else instruction
    mark = "" if language is None else LANGUAGE_MARKS[language]
    return [*message("user", Heard(audio), asked), *assistant(NO_THINK + mark)]


@_task({"text": TEXT, "voice": VOICE, "instruction": TEXT}, speaks=True, text=Sampling(0.6))
def tts(words: Instructions, text: str, voice: Codes | None = None, instruction: str | None = None) -> list[Segment]:
    """Synthesize speech: text -> speech, with a voice sample or without."""
    system = [] if voice is None else message("system", words.voice_system, Heard(voice))
    asked = words.to_speak(text) if instruction is None else instruction
    return [*system, *message("user", f"{asked}: {sentence(text)}"), *assistant(SPEECH)]


@_task({"text": TEXT, "style": TEXT, "voice": VOICE, "instruction": TEXT}, speaks=True, text=Sampling(0.6))
def tts_instruct(
    words: Instructions, text: str, style: str, voice: Codes | None = None, instruction: str | None = None
) -> list[Segment]:
    """Synthesize speech in a style that is described."""
    asked = words.to_speak(text) if instruction is None else instruction
    said = f"{asked}: {sentence(text)}({style})"
    return [*_style_system(words, voice), *message("user", said), *assistant(THINK)]


@_task({"text": TEXT, "voice": VOICE}, speaks=True, text=Sampling(0.6))
def tts_natural(words: Instructions, text: str, voice: Codes | None = None) -> list[Segment]:
    """Synthesize speech from a request in plain words, which says how and what."""
    return [*_style_system(words, voice), *message("user", text), *assistant(THINK)]


def _style_system(words: Instructions, voice: Codes | None) -> list[Segment]:
    if voice is None:
        return message("system", words.style_system)
    return message("system", words.style_voice_system, Heard(voice))


@_task({"audio": AUDIO, "text": QUESTION}, speaks=False, text=Sampling(0.3, top_p=0.95))
def understanding(words: Instructions, audio: Codes, text: str | None = None, thinking: bool = False) -> list[Segment]:
    """Answer a question about audio in text."""
    asked = words.understand if text is None else text
    return [*message("user", Heard(audio), asked), *assistant(thoughts(thinking))]


@_task({"turns": TURNS, "system": SYSTEM, "voice": VOICE}, speaks=True, text=Sampling(0.6, top_p=0.95))
def dialogue_speech(
    words: Instructions, turns: Sequence[Turn], system: str | None = None, voice: Codes | None = None
) -> list[Segment]:
    """Answer the last of several turns in speech, in the voice of a sample or the model's own."""
    head = [] if voice is None else message("system", words.dialogue_voice_system, Heard(voice))
    return [*dialogue(turns, system, spoken=True, head=head), *assistant(SPEECH)]


@_task({"turns": TURNS, "system": SYSTEM}, speaks=False, text=Sampling(0.6, top_p=0.95))
def dialogue_speech_to_text(
    words: Instructions, turns: Sequence[Turn], system: str | None = None, thinking: bool = False
) -> list[Segment]:
    """Answer the last of several turns, in which the user speaks, in text."""
    return [*dialogue(turns, system, spoken=False), *assistant(thoughts(thinking))]


@_task({"turns": TURNS, "system": SYSTEM}, speaks=False, text=Sampling(0.4, top_p=0.95))
def dialogue_text(
    words: Instructions, turns: Sequence[Turn], system: str | None = None, thinking: bool = False
) -> list[Segment]:
    """Answer the last of several turns, all in text."""
    return [*dialogue(turns, system, spoken=False), *assistant(thoughts(thinking))]


@_task(
    {"instruction": TEXT, "examples": EXAMPLES, "audio": AUDIO, "text": TEXT, "prefix": SYSTEM},
    speaks=True,
    text=GREEDY,
    text_end="\n\n",
)
def few_shot(
    words: Instructions,
    examples: Sequence[Example],
    instruction: str | None = None,
    audio: Codes | None = None,
    text: str | None = None,
    speak: bool = True,
    prefix: str | None = None,
) -> list[Segment]:
    """Do with audio or text what an instruction says, if there is one, and examples show."""
    require((audio is None) != (text is None), "few_shot: audio or text is needed, and not both")
    check_examples(examples, speak)
    inputs = [audio, *(given.input_audio for given in examples)]
    has_audio, is_speech = any(sound is not None for sound in inputs), all(sound is not None for sound in inputs)
    if prefix is None and (has_audio or speak):
        only_speech = is_speech and speak and instruction is None
        prefix = words.few_shot_speech_prefix if only_speech else words.few_shot_prefix
    begin = (prefix or "") + ("" if instruction is None else f"{instruction}\n")
    shown = [segment for given in examples for segment in example(given, speak)]
    asked: list[Segment] = [text or ""] if audio is None else [Heard(audio)]
    return [begin, *shown, *asked, "\n", *([Markup(SPEECH)] if speak else [])]


@_task({"audio": PATCHES}, speaks=True, text=Sampling(0.6, top_p=0.95))
def continuation(words: Instructions, audio: Codes) -> list[Segment]:
    """Go on with speech, in the same voice."""
    return [Open(audio)]
