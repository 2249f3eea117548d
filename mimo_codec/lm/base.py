"""AudioLM: what users call, whatever computes the networks: prompts, options, tasks; torch is not needed."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from mimo_codec.audio.files import audio_info
from mimo_codec.codes import AudioCodes
from mimo_codec.common.arrays import is_array, is_tensor, to_numpy
from mimo_codec.common.checks import check_integer
from mimo_codec.common.errors import ContextError, MimoError
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.layout import Grid, Layout
from mimo_codec.lm.output import Array, Piece, Writer
from mimo_codec.lm.prompts import AUDIO_SAMPLING, MIN_VOICE_SECONDS, TASKS, WORDINGS, Example, Turn, Wording, render
from mimo_codec.lm.request import FRAME_RATE, SAMPLE_RATE, Position, Request, Sampling, Stop
from mimo_codec.lm.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import torch

Audio: TypeAlias = "str | os.PathLike[str] | AudioCodes | np.ndarray | torch.Tensor | tuple[Any, int]"
"""A file, codes, or a waveform with its sample rate: (waveform, Hz). Bare arrays are codes [Q, T]."""
Samplings = Sampling | Sequence[Sampling] | None
Grids: TypeAlias = "torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray]"
"""One grid [1 + C, G P], or a list of them."""
TEXT_SAMPLING = Sampling(temperature=0.6, top_p=0.95)
MAX_NEW = 750
"""Most positions of an answer, two minutes of audio, unless something else is asked for."""


class AudioLM(ABC):
    """Speech and text in, speech and text out (arXiv 2512.23808). Arrays that come out are those of the backend."""

    def __init__(self, config: LMConfig, tokenizer: TextTokenizer, codec: Any, wording: Wording | None):
        """codec: a MimoCodec or an OnnxCodec, or None."""
        self.config, self.tokenizer = config, tokenizer
        self.layout = Layout(
            config.group_size,
            config.speech_zeroemb_idx,
            config.delay_pattern,
            tokenizer.special.empty,
            config.vocab_size,
        )
        self.wording = wording or WORDINGS["en"]
        self.codec = codec
        if codec is not None:
            self._check_codec(codec)

    def _check_codec(self, codec: Any) -> None:
        sizes = tuple(codec.codebook_sizes[: self.config.audio_channels])
        if sizes != self.config.codebook_sizes or codec.frame_rate != FRAME_RATE or codec.sample_rate != SAMPLE_RATE:
            name = codec.model_id.rpartition("@")[0]
            raise MimoError(
                f"codec: {name} has codebooks of {list(sizes)} at {codec.frame_rate:g} Hz; this language model"
                f" reads {list(self.config.codebook_sizes)} at {FRAME_RATE:g} Hz"
            )
        if "@" in (wanted := self.config.codec or "") and _fingerprint(wanted) != _fingerprint(codec.model_id):
            raise MimoError(f"codec: {codec.model_id} is not the one whose codes this model reads, {wanted}")

    # ---- what computes -------------------------------------------------------------------------------------------

    attach_codec: str
    """How to get one with a codec, for errors."""

    @abstractmethod
    def _positions(self, requests: Sequence[Request]) -> Iterator[list[Position | None]]:
        """Step by step, the new position of every item; None for those that have ended."""

    @abstractmethod
    def own(self, array: np.ndarray) -> Array:
        """An array in the kind that this model gives to its users and to its codec."""

    @abstractmethod
    def _new_seeds(self, count: int) -> list[int]:
        """Of items for which none was given."""

    # ---- generation ----------------------------------------------------------------------------------------------

    def prompt(self, task: str, **arguments: Any) -> Grid:
        """The grid of a task's prompt; audio among the arguments may be whatever `Audio` says.

        Raises MimoError for unknown tasks and arguments, and for what the task cannot use.
        """
        if task not in TASKS:
            raise MimoError(f"unknown task {task!r}: there is {', '.join(TASKS)}")
        signature = inspect.signature(TASKS[task].segments)
        try:
            signature.bind(self.wording, **arguments)
        except TypeError as error:
            raise MimoError(f"{task}: {error}") from None
        for name, value in arguments.items():
            if value is None and signature.parameters[name].default is inspect.Parameter.empty:
                raise MimoError(f"{task}: {name} is missing")
        ready = {name: self._ready(name, value) for name, value in arguments.items()}
        segments = TASKS[task].segments(self.wording, **ready)
        return self.layout.build(render(segments, self.tokenizer, self.layout))

    def generate(
        self,
        ids: Grids,
        *,
        max_new_patches: int,
        greedy: bool = False,
        text_sampling: Samplings = None,
        audio_sampling: Samplings = None,
        stop: Stop | None = None,
        seed: int | Sequence[int] | None = None,
        stream: bool = False,
        progress: Callable[[], None] | None = None,
    ) -> Any:
        """Go on with one grid [1 + C, G P], or a list -> Generation, or a list; with `stream` an iterator of Piece.

        max_new_patches: most new positions, text tokens and patches alike. greedy: the likeliest tokens, whatever the
        samplings say. text_sampling, audio_sampling: one for all items, or one each; temperature 0.6 and 0.9, both with
        top-p 0.95, when None (those of a task are `TASKS[task].text` and `.audio`). stop: end of text, `<|im_end|>` and
        `<|eostm|>` when None. seed: item i draws with seed + i, or with the i-th of several; the same seed gives the
        same tokens, in whatever batch. progress: called at every step.
        Raises MimoError for bad grids and for prompts that do not fit into the context, before anything is computed.
        """
        stop = _need_stop(stop)
        requests = self._requests(ids, max_new_patches, greedy, text_sampling, audio_sampling, stop, seed)
        pieces = self._pieces(requests, stream, progress)
        if stream:
            return pieces
        found = {piece.item: piece.generation for piece in pieces if piece.generation is not None}
        return [found[i] for i in range(len(requests))] if isinstance(ids, (list, tuple)) else found[0]

    def _requests(
        self,
        ids: Grids,
        max_new: int,
        greedy: bool,
        text: Samplings,
        audio: Samplings,
        stop: Stop,
        seed: int | Sequence[int] | None,
    ) -> list[Request]:
        check_integer("max_new_patches", max_new, 1, 2**20)
        grids = named(ids)
        count, context = len(grids), self.config.max_position_embeddings
        texts = _each("text_sampling", text, TEXT_SAMPLING, count)
        audios = _each("audio_sampling", audio, AUDIO_SAMPLING, count)
        if greedy:
            texts, audios = (
                [replace(s, temperature=0.0, repetition_penalty=1.0) for s in both] for both in (texts, audios)
            )
        seeds = self._new_seeds(count) if seed is None else _seeds(seed, count)
        stop_ids = tuple(self.tokenizer.token_id(token) for token in stop.tokens)
        seconds = stop.max_seconds
        patches = None if seconds is None else max(1, self._patches(seconds))
        requests = []
        for i, (where, item) in enumerate(grids):
            grid = self.layout.check_grid(as_array(item), where)
            length = grid.shape[1] // self.config.group_size
            if length >= context:
                raise ContextError(
                    f"{where}: the prompt has {length} positions, {length - context + 1} more than fit"
                    f" into the context of {context} with a position to write"
                )
            room = min(max_new, context - length)
            request = Request(grid, room, texts[i], audios[i], stop_ids, max_patches=patches, seed=seeds[i])
            if stop.text:
                request = replace(request, stop_text=stop.text, decode=self.tokenizer.decode)
            requests.append(request)
        return requests

    def _patches(self, seconds: float) -> int:
        """Whole patches in so much audio, whatever the rounding of its float."""
        return int(seconds * FRAME_RATE / self.config.group_size + 1e-6)

    def _pieces(
        self, requests: Sequence[Request], stream: bool, progress: Callable[[], None] | None
    ) -> Iterator[Piece]:
        writers = [Writer(self, i, request, stream) for i, request in enumerate(requests)]
        for step in self._positions(requests):
            if progress is not None:
                progress()
            for writer, position in zip(writers, step, strict=True):
                if position is not None:
                    yield from writer.add(position)

    # ---- tasks ---------------------------------------------------------------------------------------------------

    def transcribe(self, audio: Audio, instruction: str | None = None, **options: Any) -> Any:
        """What is said in `audio`: Generation with `text`. options: those of `run`."""
        return self.run("asr", {"audio": audio, "instruction": instruction}, **options)

    def speak(self, text: str, style: str | None = None, voice: Audio | None = None, **options: Any) -> Any:
        """Text -> speech: Generation with `waveform` and `codes`.

        style: how to say it, in words. voice: a sample of at least 0.2 s.
        """
        if style is None:
            return self.run("tts", {"text": text, "voice": voice}, **options)
        return self.run("tts_instruct", {"text": text, "style": style, "voice": voice}, **options)

    def understand(self, audio: Audio, question: str | None = None, thinking: bool = False, **options: Any) -> Any:
        """A question about audio -> Generation with `text`, and `thoughts` when it thinks first."""
        return self.run("understanding", {"audio": audio, "text": question, "thinking": thinking}, **options)

    def chat(
        self,
        turns: Sequence[Turn | Mapping[str, Any]],
        system: str | None = None,
        voice: Audio | None = None,
        thinking: bool = False,
        speak: bool = True,
        **options: Any,
    ) -> Any:
        """The answer to the last of `turns`, which are {"role": "user" or "assistant", "text": ..., "audio": ...}.

        speak: a spoken answer (in the voice of a sample, if there is one), else text, after `thinking` or at once.
        """
        if speak:
            if thinking:
                raise MimoError("chat: spoken answers come without thinking; speak=False thinks")
            return self.run("dialogue_speech", {"turns": turns, "system": system, "voice": voice}, **options)
        if voice is not None:
            raise MimoError("chat: a voice is for spoken answers; speak=True")
        ready: list[Turn] = self._ready("turns", turns)  # encoded once
        heard = any(turn.audio is not None for turn in ready)
        task = "dialogue_speech_to_text" if heard else "dialogue_text"
        return self.run(task, {"turns": ready, "system": system, "thinking": thinking}, **options)

    def few_shot(
        self,
        instruction: str,
        examples: Sequence[Example | Mapping[str, Any]],
        audio: Audio | None = None,
        text: str | None = None,
        speak: bool = True,
        **options: Any,
    ) -> Any:
        """Do with `audio` (or `text`) what the examples show.

        examples: {"input_audio" or "input_text": ..., "output_text": ..., "output_audio": ...}, the last for speech.
        """
        arguments = {"instruction": instruction, "examples": examples, "audio": audio, "text": text, "speak": speak}
        return self.run("few_shot", arguments, **options)

    def continue_speech(self, audio: Audio, seconds: float = 10.0, **options: Any) -> Any:
        """How `audio` may go on, at most so many seconds: Generation with `waveform` and `codes` of what is new."""
        codes = self._codes("audio", audio)
        whole = codes.shape[1] // self.config.group_size * self.config.group_size
        if not whole:
            raise MimoError("audio: shorter than a patch of 0.16 s")
        stop = _need_stop(options.get("stop"))
        stop = replace(stop, tokens=(*stop.tokens, "<|eosp|>"), max_seconds=min(seconds, stop.max_seconds or seconds))
        most = 2 * self._patches(seconds) + 16  # text may come in between
        options = {"max_new_patches": most, **options, "stop": stop}
        return self.run("continuation", {"audio": codes[:, :whole]}, **options)

    def run(
        self,
        task: str,
        arguments: Mapping[str, Any],
        *,
        max_new_patches: int = MAX_NEW,
        greedy: bool = False,
        text_sampling: Sampling | None = None,
        audio_sampling: Sampling | None = None,
        stop: Stop | None = None,
        seed: int | None = None,
        stream: bool = False,
        progress: Callable[[], None] | None = None,
    ) -> Any:
        """Any task of the registry by name -> Generation, or an iterator of Piece with `stream`.

        max_new_patches: most new positions, 0.16 s each where they are audio. Samplings are the task's own when None;
        tasks that answer in text draw no audio. The rest is as in `generate`. Raises what `prompt` and `generate` do.
        """
        grid = self.prompt(task, **arguments)
        entry = TASKS[task]
        for name, value in (("text_sampling", text_sampling), ("audio_sampling", audio_sampling)):
            if value is not None and not isinstance(value, Sampling):
                raise MimoError(f"{name}: a Sampling is needed, not {value!r}")
        text, audio = text_sampling or entry.text, audio_sampling or entry.audio
        if not entry.speaks or arguments.get("speak") is False:
            special = self.tokenizer.special
            text = replace(text, forbidden=(*text.forbidden, special.empty, special.speech_start))
            if stop is None and entry.text_end:
                stop = Stop(text=(entry.text_end,))
        return self.generate(
            grid,
            max_new_patches=max_new_patches,
            greedy=greedy,
            text_sampling=text,
            audio_sampling=audio,
            stop=stop,
            seed=seed,
            stream=stream,
            progress=progress,
        )

    # ---- audio that goes in --------------------------------------------------------------------------------------

    def _ready(self, name: str, value: Any) -> Any:
        """An argument of a task with its audio as codes [C, T]."""
        if name in ("audio", "voice") and value is None:
            return None
        if name == "audio":
            return self._codes(name, value)
        if name == "voice":
            audio = self.encode(value, name)
            codes = self.layout.check_codes(audio, FRAME_RATE, name)
            seconds = audio.duration if isinstance(audio, AudioCodes) else codes.shape[1] / FRAME_RATE
            if seconds < MIN_VOICE_SECONDS:
                raise MimoError(f"voice: {seconds:.2f} s is too short for a sample; at least {MIN_VOICE_SECONDS} s")
            return codes
        if name in ("turns", "examples"):
            if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
                raise MimoError(f"{name}: a list is needed")
            return [
                self._ready_item(f"{name}[{i}]", Turn if name == "turns" else Example, item)
                for i, item in enumerate(value)
            ]
        return value

    def _ready_item(self, where: str, kind: type, item: Any) -> Any:
        if isinstance(item, Mapping):
            try:
                item = kind(**item)
            except TypeError as error:
                raise MimoError(f"{where}: {error}") from None
        if not isinstance(item, kind):
            raise MimoError(f"{where}: is a {type(item).__name__}; a {kind.__name__} or a dictionary is needed")
        audio = {
            name: self._codes(f"{where}.{name}", value)
            for name, value in vars(item).items()
            if "audio" in name and value is not None
        }
        return replace(cast(Any, item), **audio)

    def _codes(self, where: str, audio: Audio) -> np.ndarray:
        """Codes [C, T] of whatever audio is; MimoError when they are of another codec, or one is needed."""
        return self.layout.check_codes(self.encode(audio, where), FRAME_RATE, where)

    def encode(self, audio: Audio, where: str = "audio") -> AudioCodes | np.ndarray:
        """Codes of whatever audio is, by the codec that is attached; codes themselves.

        Raises MimoError, which calls it `where`, for audio that cannot be read or is longer than the context, and for
        codes of another codec.
        """
        if isinstance(audio, (str, os.PathLike)) and str(audio).lower().endswith(".mimo"):
            audio = AudioCodes.load(audio)
        if isinstance(audio, AudioCodes):
            own = self.config.codec if self.codec is None else self.codec.model_id
            if audio.model and own and "@" in own and _fingerprint(audio.model) != _fingerprint(own):
                raise MimoError(f"{where}: codes of {audio.model}; this model's codec is {own}")
            return audio
        if is_array(audio):
            return as_array(audio)
        if not isinstance(audio, (str, os.PathLike, tuple)):
            raise MimoError(f"{where}: is a {type(audio).__name__}; a file, codes or (waveform, Hz) is needed")
        if self.codec is None:
            raise MimoError(f"{where}: only codes can be read without a codec: {self.attach_codec}")
        if not isinstance(audio, tuple):
            info = audio_info(audio)
            self._check_seconds(where, (info.num_samples or 0) / info.sample_rate)
            return self.codec.encode(audio, num_quantizers=self.config.audio_channels)
        if len(audio) != 2:
            raise MimoError(f"{where}: a waveform comes with its sample rate: (waveform, Hz)")
        return self.codec.encode(*audio, self.config.audio_channels)

    def _check_seconds(self, where: str, seconds: float) -> None:
        """MimoError for audio that cannot fit into the context, before it is encoded."""
        most = self.config.max_position_embeddings * self.config.group_size / FRAME_RATE
        if seconds > most:
            raise MimoError(
                f"{where}: {seconds:.0f} s of audio, {seconds - most:.0f} more than the context of"
                f" {self.config.max_position_embeddings} positions holds"
            )


def named(ids: Grids) -> list[tuple[str, Any]]:
    """One grid or several -> each with what errors call it."""
    if not isinstance(ids, (list, tuple)):
        return [("ids", ids)]
    if not ids:
        raise MimoError("ids: the list is empty")
    return [(f"ids[{i}]", item) for i, item in enumerate(ids)]


def _fingerprint(model_id: str) -> str:
    """ "name@fingerprint" -> what tells codecs apart."""
    return model_id.rpartition("@")[2]


def as_array(value: Any) -> Any:
    return to_numpy(value) if is_tensor(value) else value


def _each(name: str, value: Samplings, default: Sampling, count: int) -> list[Sampling]:
    if value is None:
        return [default] * count
    if isinstance(value, Sampling):
        return [value] * count
    if not isinstance(value, Sequence) or len(value) != count or not all(isinstance(s, Sampling) for s in value):
        raise MimoError(f"{name}: a Sampling for all items, or {count} of them, are needed")
    return list(value)


def _need_stop(stop: object) -> Stop:
    if stop is not None and not isinstance(stop, Stop):
        raise MimoError(f"stop: a Stop is needed, not {stop!r}")
    return stop or Stop()


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise MimoError(f"seed: {len(seed)} were given for {count} items")
        return [check_integer("seed", item, 0, 2**63 - 1) for item in seed]
    first = check_integer("seed", seed, 0, 2**62)
    return [first + i for i in range(count)]
