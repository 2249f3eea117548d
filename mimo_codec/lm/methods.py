"""The tasks as methods: what users call, whether the answer comes whole or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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


class TaskMethods(ABC, Generic[AnswerT]):
    """A method for every task. `options` of all of them are those of `TaskOptions`."""

    layout: Layout

    @abstractmethod
    def run(self, task: str, arguments: Mapping[str, Any], **options: Unpack[TaskOptions]) -> AnswerT:
        """Do any task of the table `TASKS` by name.

        Samplings are the task's own unless others are given; tasks that answer in text draw no audio. An answer has at
        most 750 positions unless `max_new_patches` says otherwise: two minutes of audio. The other options are those
        of `generate`. Raises what `prompt` and `generate` do.
        """

    def transcribe(self, audio: Audio, instruction: str | None = None, **options: Unpack[TaskOptions]) -> AnswerT:
        """Write down what is said in `audio`: an answer with `text`."""
        return self.run("asr", {"audio": audio, "instruction": instruction}, **options)

    def speak(
        self, text: str, style: str | None = None, voice: Audio | None = None, **options: Unpack[TaskOptions]
    ) -> AnswerT:
        """Say `text`: an answer with `waveform` and `codes`.

        Args:
            text: what to say.
            style: how to say it, in words.
            voice: a sample, of at least 0.2 s, of the voice to say it with.
            **options: see `TaskOptions`.
        """
        if style is None:
            return self.run("tts", {"text": text, "voice": voice}, **options)
        return self.run("tts_instruct", {"text": text, "style": style, "voice": voice}, **options)

    def understand(
        self, audio: Audio, question: str | None = None, thinking: bool = False, **options: Unpack[TaskOptions]
    ) -> AnswerT:
        """Answer a question about audio: an answer with `text`, and `thoughts` when the model thinks first."""
        return self.run("understanding", {"audio": audio, "text": question, "thinking": thinking}, **options)

    def chat(
        self,
        turns: Sequence[Turn | Mapping[str, Any]],
        system: str | None = None,
        voice: Audio | None = None,
        thinking: bool = False,
        speak: bool = True,
        **options: Unpack[TaskOptions],
    ) -> AnswerT:
        """Answer the last turn of a conversation.

        Args:
            turns: user and assistant in turn, each {"role": "user" or "assistant", "text": ..., "audio": ...}.
            system: how to answer.
            voice: a sample of the voice to answer with.
            thinking: think before an answer in text.
            speak: answer in speech, else in text.
            **options: see `TaskOptions`.
        """
        if speak and thinking:
            raise MimoError("chat: spoken answers come without thinking; speak=False thinks")
        if speak:
            return self.run("dialogue_speech", {"turns": turns, "system": system, "voice": voice}, **options)
        if voice is not None:
            raise MimoError("chat: a voice is for spoken answers; speak=True")
        said = as_items(Turn, "turns", turns)
        task = "dialogue_text" if all(turn.audio is None for turn in said) else "dialogue_speech_to_text"
        return self.run(task, {"turns": said, "system": system, "thinking": thinking}, **options)

    def few_shot(
        self,
        instruction: str,
        examples: Sequence[Example | Mapping[str, Any]],
        audio: Audio | None = None,
        text: str | None = None,
        speak: bool = True,
        **options: Unpack[TaskOptions],
    ) -> AnswerT:
        """Do with `audio` (or `text`) what the examples show.

        Args:
            instruction: what to do.
            examples: each {"input_audio" or "input_text": ..., "output_text": ..., "output_audio": ...}, the last of
                them for spoken answers.
            audio: what to do it with.
            text: the same in words.
            speak: answer in speech, else in text.
            **options: see `TaskOptions`.
        """
        arguments = {"instruction": instruction, "examples": examples, "audio": audio, "text": text, "speak": speak}
        return self.run("few_shot", arguments, **options)

    def continue_speech(self, audio: Audio, seconds: float = 10.0, **options: Unpack[TaskOptions]) -> AnswerT:
        """Go on with `audio` for at most so many seconds: an answer with `waveform` and `codes` of what is new."""
        stop = as_stop(options.get("stop"))
        stop = replace(stop, tokens=(*stop.tokens, "<|eosp|>"), max_seconds=min(seconds, stop.max_seconds or seconds))
        positions = 2 * self.layout.patches_in(seconds) + 16  # text may come in between
        given: TaskOptions = {"max_new_patches": positions, **options, "stop": stop}
        return self.run("continuation", {"audio": audio}, **given)
