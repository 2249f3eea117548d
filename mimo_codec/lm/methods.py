"""The tasks as methods: what users call, whether the answer comes whole or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from mimo_codec.common.errors import MimoError
from mimo_codec.lm.audio import Audio
from mimo_codec.lm.layout import Layout
from mimo_codec.lm.prompts import Example, Turn
from mimo_codec.lm.request import TaskOptions, as_stop
from mimo_codec.lm.tasks import as_items

if TYPE_CHECKING:
    from typing_extensions import Unpack

AnswerT = TypeVar("AnswerT")
"""What a task gives: a Generation, or an iterator of Piece."""
BatchT = TypeVar("BatchT")
"""What a batch gives: a list of Generation, or one iterator with the pieces of all items."""
Arguments = Mapping[str, Any]
"""Arguments of a task's prompt."""
Conversation = Sequence["Turn | Mapping[str, Any]"]


class TaskMethods(ABC, Generic[AnswerT, BatchT]):
    """A method for every task. `options` of all of them are those of `TaskOptions`.

    A list, where there is one text or one audio otherwise, is a batch: each item gives what it gives alone with its
    seed.
    """

    layout: Layout

    @overload
    def run(self, task: str, arguments: Arguments, **options: Unpack[TaskOptions]) -> AnswerT: ...

    @overload
    def run(self, task: str, arguments: list[Arguments], **options: Unpack[TaskOptions]) -> BatchT: ...

    @abstractmethod
    def run(
        self, task: str, arguments: Arguments | list[Arguments], **options: Unpack[TaskOptions]
    ) -> AnswerT | BatchT:
        """Do any task of the table `TASKS` by name, once or, with a list of arguments, as a batch.

        Samplings are the task's own unless others are given; tasks that answer in text draw no audio. An answer has at
        most 750 positions unless `max_new_patches` says otherwise: two minutes of audio. The other options are those
        of `generate`. Raises what `prompt` and `generate` do.
        """

    @overload
    def transcribe(
        self,
        audio: list[Any],
        instruction: str | None = None,
        language: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> BatchT: ...

    @overload
    def transcribe(
        self, audio: Audio, instruction: str | None = None, language: str | None = None, **options: Unpack[TaskOptions]
    ) -> AnswerT: ...

    def transcribe(
        self,
        audio: Audio | list[Any],
        instruction: str | None = None,
        language: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AnswerT | BatchT:
        """Write down what is said in `audio`: an answer with `text`; a list of them is a batch.

        Args:
            audio: what is said, or a list.
            instruction: in place of the model's own.
            language: that is spoken, "en" or "zh", for recognizers that were trained with marks of it, such as
                MiMo-V2.5-ASR; None for others, and to have it recognized.
            **options: see `TaskOptions`.
        """
        return self.run("asr", _each("audio", audio, instruction=instruction, language=language), **options)

    @overload
    def speak(
        self, text: list[str], style: str | None = None, voice: Audio | None = None, **options: Unpack[TaskOptions]
    ) -> BatchT: ...

    @overload
    def speak(
        self, text: str, style: str | None = None, voice: Audio | None = None, **options: Unpack[TaskOptions]
    ) -> AnswerT: ...

    def speak(
        self,
        text: str | list[str],
        style: str | None = None,
        voice: Audio | None = None,
        **options: Unpack[TaskOptions],
    ) -> AnswerT | BatchT:
        """Say `text`: an answer with `waveform` and `codes`; a list of texts is a batch.

        Args:
            text: what to say, or a list.
            style: how to say it, in words.
            voice: a sample, of at least 0.2 s, of the voice to say it with. The released model was trained with
                voices in prompts that have a style; give one too, such as "naturally".
            **options: see `TaskOptions`.
        """
        if style is None:
            return self.run("tts", _each("text", text, voice=voice), **options)
        return self.run("tts_instruct", _each("text", text, style=style, voice=voice), **options)

    @overload
    def understand(
        self, audio: list[Any], question: str | None = None, thinking: bool = False, **options: Unpack[TaskOptions]
    ) -> BatchT: ...

    @overload
    def understand(
        self, audio: Audio, question: str | None = None, thinking: bool = False, **options: Unpack[TaskOptions]
    ) -> AnswerT: ...

    def understand(
        self,
        audio: Audio | list[Any],
        question: str | None = None,
        thinking: bool = False,
        **options: Unpack[TaskOptions],
    ) -> AnswerT | BatchT:
        """Answer a question about audio, or about each of a list.

        The answer has `text`, and `thoughts` when the model thinks first.
        """
        return self.run("understanding", _each("audio", audio, text=question, thinking=thinking), **options)

    @overload
    def chat(
        self,
        turns: Conversation,
        system: str | None = None,
        voice: Audio | None = None,
        thinking: bool = False,
        speak: bool = True,
        **options: Unpack[TaskOptions],
    ) -> AnswerT: ...

    @overload
    def chat(
        self,
        turns: list[Conversation],
        system: str | None = None,
        voice: Audio | None = None,
        thinking: bool = False,
        speak: bool = True,
        **options: Unpack[TaskOptions],
    ) -> BatchT: ...

    def chat(
        self,
        turns: Conversation | list[Conversation],
        system: str | None = None,
        voice: Audio | None = None,
        thinking: bool = False,
        speak: bool = True,
        **options: Unpack[TaskOptions],
    ) -> AnswerT | BatchT:
        """Answer the last turn of a conversation; a list of conversations is a batch.

        Args:
            turns: user and assistant in turn, each {"role": "user" or "assistant", "text": ..., "audio": ...}, or
                with several parts in any order, {"role": ..., "content": [{"type": "audio", "audio": ...}, {"type":
                "text", "text": ...}]}. A turn with the role "system" may be the first, instead of `system` and
                `voice`.
            system: how to answer.
            voice: a sample of the voice to answer with.
            thinking: think before an answer in text.
            speak: answer in speech, else in text.
            **options: see `TaskOptions`.
        """
        if speak and thinking:
            raise MimoError("chat: spoken answers come without thinking; speak=False thinks")
        if not speak and voice is not None:
            raise MimoError("chat: a voice is for spoken answers; speak=True")
        is_batch = isinstance(turns, list) and bool(turns) and all(isinstance(item, list) for item in turns)
        given: list[Any] = list(turns) if is_batch else [turns]
        if speak:
            items = [{"turns": said, "system": system, "voice": voice} for said in given]
            return self._run("dialogue_speech", items, is_batch, options)
        said = [as_items(Turn, f"turns[{i}]" if is_batch else "turns", turns) for i, turns in enumerate(given)]
        hear = {any(turn.has_audio for turn in conversation) for conversation in said}
        if len(hear) > 1:
            raise MimoError("chat: all conversations of a batch contain audio, or none does; ask in two batches")
        task = "dialogue_speech_to_text" if hear.pop() else "dialogue_text"
        items = [{"turns": turns, "system": system, "thinking": thinking} for turns in said]
        return self._run(task, items, is_batch, options)

    def _run(self, task: str, items: list[Any], is_batch: bool, options: TaskOptions) -> AnswerT | BatchT:
        return self.run(task, items, **options) if is_batch else self.run(task, items[0], **options)

    @overload
    def few_shot(
        self,
        instruction: str | None,
        examples: Sequence[Example | Mapping[str, Any]],
        audio: list[Any],
        text: None = None,
        speak: bool = True,
        prefix: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> BatchT: ...

    @overload
    def few_shot(
        self,
        instruction: str | None,
        examples: Sequence[Example | Mapping[str, Any]],
        audio: None = None,
        *,
        text: list[str],
        speak: bool = True,
        prefix: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> BatchT: ...

    @overload
    def few_shot(
        self,
        instruction: str | None,
        examples: Sequence[Example | Mapping[str, Any]],
        audio: Audio | None = None,
        text: str | None = None,
        speak: bool = True,
        prefix: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AnswerT: ...

    def few_shot(
        self,
        instruction: str | None,
        examples: Sequence[Example | Mapping[str, Any]],
        audio: Audio | list[Any] | None = None,
        text: str | list[str] | None = None,
        speak: bool = True,
        prefix: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AnswerT | BatchT:
        """Do with `audio` (or `text`) what the examples show; a list of either is a batch.

        Args:
            instruction: what to do; None lets the examples say it.
            examples: each {"input_audio" or "input_text": ..., "output_text": ..., "output_audio": ...}, the last of
                them for spoken answers.
            audio: what to do it with.
            text: the same in words.
            speak: answer in speech, else in text.
            prefix: what the prompt begins with; None for `[Int]:` where text and speech are mixed, `<Spe>:` where
                all is speech and there is no instruction, and nothing where all is text.
            **options: see `TaskOptions`. `stop=Stop(min_new=5)` asks for at least 5 new positions.
        """
        if isinstance(audio, list) and isinstance(text, list):
            raise MimoError("few_shot: either a list of audio or a list of texts")
        shared: dict[str, Any] = {"instruction": instruction, "examples": examples, "speak": speak, "prefix": prefix}
        name, value, other = ("text", text, audio) if isinstance(text, list) else ("audio", audio, text)
        shared["audio" if name == "text" else "text"] = other
        return self.run("few_shot", _each(name, value, **shared), **options)

    @overload
    def continue_speech(self, audio: list[Any], seconds: float = 10.0, **options: Unpack[TaskOptions]) -> BatchT: ...

    @overload
    def continue_speech(self, audio: Audio, seconds: float = 10.0, **options: Unpack[TaskOptions]) -> AnswerT: ...

    def continue_speech(
        self, audio: Audio | list[Any], seconds: float = 10.0, **options: Unpack[TaskOptions]
    ) -> AnswerT | BatchT:
        """Go on with `audio` for at most so many seconds: an answer with `waveform` and `codes` of what is new.

        A list of audio is a batch.
        """
        stop = as_stop(options.get("stop"))
        stop = replace(stop, tokens=(*stop.tokens, "<|eosp|>"), max_seconds=min(seconds, stop.max_seconds or seconds))
        positions = 2 * self.layout.patches_in(seconds) + 16  # text may come in between
        given: TaskOptions = {"max_new_patches": positions, **options, "stop": stop}
        return self.run("continuation", _each("audio", audio), **given)


def _each(name: str, value: object, **shared: Any) -> Any:
    """Return the arguments of one prompt, or of each of a list of values."""
    if isinstance(value, list):
        return [{name: item, **shared} for item in value]
    return {name: value, **shared}
