"""AudioLM: a language model of speech with a codec attached, whatever computes its networks. Torch is not needed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, overload

from numpy.typing import NDArray

from mimo_codec.codes import AudioCodes
from mimo_codec.common.checks import check_integer, error_prefix, require
from mimo_codec.common.errors import ContextError
from mimo_codec.lm.audio import Audio, AudioReader, SpeechCodec
from mimo_codec.lm.config import FRAME_RATE, LMConfig
from mimo_codec.lm.generate import Backend, Position, generate_positions
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.layout import Grid, Layout
from mimo_codec.lm.methods import TaskMethods
from mimo_codec.lm.output import ArrayT, Generation, Piece, Writer
from mimo_codec.lm.prompts import render
from mimo_codec.lm.request import (
    Options,
    Preset,
    Request,
    Sampling,
    Samplings,
    Stop,
    TaskOptions,
    as_stop,
    check_options,
    find_preset,
    sampling_for_each,
    seed_for_each,
)
from mimo_codec.lm.tasks import AUDIO_SAMPLING, find_task
from mimo_codec.lm.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

GridLike: TypeAlias = "torch.Tensor | NDArray[Any]"
"""A grid [1 + C, G P] of integers."""
TEXT_SAMPLING = Sampling(temperature=0.6, top_p=0.95)
MAX_NEW = 750
"""Most positions of a task's answer, two minutes of audio, unless something else is asked for."""


class AudioLM(TaskMethods[Generation[ArrayT], list[Generation[ArrayT]]], Generic[ArrayT]):
    """Speech and text in, speech and text out (arXiv 2512.23808). Arrays that come out are those of the backend."""

    backend: Backend
    attach_codec: str
    """How to get a model with a codec, for errors."""

    def __init__(
        self, config: LMConfig, tokenizer: TextTokenizer, codec: SpeechCodec | None, instructions: Instructions
    ):
        """Put the parts together; MimoError when the codec is not the one whose codes the model reads."""
        self.config, self.tokenizer, self.instructions = config, tokenizer, instructions
        empty_id = tokenizer.special.empty
        self.layout = Layout(
            config.group_size, config.speech_zeroemb_idx, config.delay_pattern, empty_id, config.vocab_size
        )
        self.use_codec(codec)

    def use_codec(self, codec: SpeechCodec | None) -> None:
        """Listen and speak with another codec, or without any; MimoError when the model does not read its codes."""
        self.reader = AudioReader(self.config, self.layout, codec, self.attach_codec)
        self.codec = codec

    def __repr__(self) -> str:
        """Say which networks these are, and with which codec."""
        codec = "no codec" if self.codec is None else f"codec {self.codec.model_id}"
        shape = f"{self.config.num_hidden_layers} layers of {self.config.hidden_size}"
        return f"{type(self).__name__}({shape}, context {self.config.max_position_embeddings}, {codec})"

    @abstractmethod
    def from_numpy(self, array: NDArray[Any]) -> ArrayT:
        """Return an array in the kind that this model gives to its users."""

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prompt(self, task: str, **arguments: Any) -> Grid:
        """Return the grid [1 + C, G P] of a task's prompt; audio among the arguments may be whatever `Audio` says.

        Raises MimoError for unknown tasks and arguments, and for what the task cannot use.
        """
        segments = find_task(task).prompt(self.instructions, self.reader, arguments)
        return self.layout.build(render(segments, self.tokenizer, self.layout))

    def prompts(self, task: str, items: Sequence[Mapping[str, Any]]) -> list[Grid]:
        """Return a prompt for each of several sets of arguments; audio that all of them share is encoded once.

        Raises what `prompt` does, with the number of the item.
        """
        require(items, f"{task}: there are no items")
        first, shared = items[0], dict[str, Any]()
        for name in {"audio", "voice"} & first.keys():
            if first[name] is not None and len(items) > 1 and all(item.get(name) is first[name] for item in items):
                shared[name] = self.encode(first[name], name)
        examples = first.get("examples")
        if examples is not None and len(items) > 1 and all(item.get("examples") is examples for item in items):
            shared["examples"] = find_task(task).inputs["examples"](self.reader, "examples", examples)
        grids = []
        for i, item in enumerate(items):
            with error_prefix(f"item {i}"):
                grids.append(self.prompt(task, **{**item, **shared}))
        return grids

    def task_options(
        self, task: str, arguments: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (), **options: Unpack[TaskOptions]
    ) -> TaskOptions:
        """Return the options of `generate` for prompts of a task: how its answers are drawn and where they end.

        Args:
            task: name in `TASKS`.
            arguments: of the prompt, or of each of several; they matter where they say whether the answer is spoken.
            **options: what is to differ from the task's own.
        """
        check_options(options)
        entry, special = find_task(task), self.tokenizer.special
        items = [arguments] if isinstance(arguments, Mapping) else list(arguments) or [{}]
        preset = find_preset(options.pop("sampling", None)) or Preset(entry.text, entry.audio)
        count = len(items)
        texts = sampling_for_each("text_sampling", options.get("text_sampling"), preset.text, count)
        audios = sampling_for_each("audio_sampling", options.get("audio_sampling"), preset.audio, count)
        spoken = {entry.answers_in_speech(item) for item in items}
        require(len(spoken) == 1, f"{task}: all answers of a batch are spoken, or none is")
        stop = options.get("stop")
        if not spoken.pop():
            texts = [replace(s, forbidden=(*s.forbidden, special.empty, special.speech_start)) for s in texts]
            if stop is None and entry.text_end:
                stop = Stop(text=(entry.text_end,))
        one = not isinstance(arguments, list)
        filled: TaskOptions = {
            "text_sampling": texts[0] if one else texts,
            "audio_sampling": audios[0] if one else audios,
            "stop": stop,
        }
        return {"max_new_patches": MAX_NEW, **options, **filled}

    def encode(self, audio: Audio, where: str = "audio") -> AudioCodes | NDArray[Any]:
        """Encode audio by the codec that is attached; codes are returned as they are.

        Raises MimoError, which calls it `where`, for audio that cannot be read or is longer than the context, and for
        codes of another codec.
        """
        return self.reader.encode(audio, where)

    # ---- generation ----------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, ids: GridLike, *, max_new_patches: int = MAX_NEW, **options: Unpack[Options]
    ) -> Generation[ArrayT]: ...

    @overload
    def generate(
        self, ids: Sequence[GridLike], *, max_new_patches: int = MAX_NEW, **options: Unpack[Options]
    ) -> list[Generation[ArrayT]]: ...

    def generate(
        self, ids: GridLike | Sequence[GridLike], *, max_new_patches: int = MAX_NEW, **options: Unpack[Options]
    ) -> Generation[ArrayT] | list[Generation[ArrayT]]:
        """Go on with one grid [1 + C, G P], or with a list of them as a batch, each item as if it were alone.

        Args:
            ids: the prompt, or several; a list gives a list.
            max_new_patches: most new positions, text tokens and patches alike.
            **options: greedy: draw the likeliest tokens, whatever the samplings say. sampling: name in `PRESETS`.
                text_sampling, audio_sampling: one for all items, or one each; those of the preset when None, or
                temperature 0.6 and 0.9, both with top-p 0.95 (`task_options` gives those of a task).
                repetition_penalty: of codes, in place of that of the samplings. stop: end of text, `<|im_end|>` and
                `<|eostm|>` when None. seed: item i draws with seed + i, or with the i-th of several; the same seed
                gives the same tokens, in whatever batch. keep_cache: keep what one prompt and its answer have
                computed; the next call that says so, with a prompt that begins alike, does not compute it again.
                progress: called at every step.

        Raises:
            MimoError: for bad grids and options, and for prompts that do not fit into the context (ContextError),
                before anything is computed.
        """
        pieces = self._start(ids, max_new_patches, whole=True, **options)
        found = {piece.item: piece.generation for piece in pieces if piece.generation is not None}
        return [found[i] for i in range(len(found))] if isinstance(ids, (list, tuple)) else found[0]

    def stream(
        self, ids: GridLike | Sequence[GridLike], *, max_new_patches: int = MAX_NEW, **options: Unpack[Options]
    ) -> Iterator[Piece[ArrayT]]:
        """Do what `generate` does, and yield every piece of the answers as soon as it is there.

        The last piece of an item has the whole `generation`. Mistakes raise MimoError at once, as in `generate`.
        """
        return self._start(ids, max_new_patches, whole=False, **options)

    @overload
    def run(self, task: str, arguments: Mapping[str, Any], **options: Unpack[TaskOptions]) -> Generation[ArrayT]: ...

    @overload
    def run(
        self, task: str, arguments: list[Mapping[str, Any]], **options: Unpack[TaskOptions]
    ) -> list[Generation[ArrayT]]: ...

    def run(
        self, task: str, arguments: Mapping[str, Any] | list[Mapping[str, Any]], **options: Unpack[TaskOptions]
    ) -> Generation[ArrayT] | list[Generation[ArrayT]]:
        """Do any task of the table `TASKS` by name; see `TaskMethods.run`."""
        filled = self.task_options(task, arguments, **options)
        if isinstance(arguments, Mapping):
            return self.generate(self.prompt(task, **arguments), **filled)
        return self.generate(self.prompts(task, arguments), **filled)

    @property
    def streaming(self) -> TaskMethods[Iterator[Piece[ArrayT]], Iterator[Piece[ArrayT]]]:
        """The tasks as streams: `lm.streaming.speak("Good morning.")` is an iterator of Piece."""
        return _Streaming(self)

    def _start(
        self,
        ids: GridLike | Sequence[GridLike],
        max_new: int,
        *,
        whole: bool,
        progress: Callable[[], None] | None = None,
        **options: Any,
    ) -> Iterator[Piece[ArrayT]]:
        """Check everything, then return the pieces, of which nothing is computed yet."""
        check_options(options)
        requests = self._requests(ids, max_new, **options)
        writers = [Writer(self, i, request, stream=not whole) for i, request in enumerate(requests)]
        return self._pieces(requests, writers, progress)

    def _pieces(
        self, requests: Sequence[Request], writers: Sequence[Writer[ArrayT]], progress: Callable[[], None] | None
    ) -> Iterator[Piece[ArrayT]]:
        for step in self._positions(requests):
            if progress is not None:
                progress()
            for writer, position in zip(writers, step, strict=True):
                if position is not None:
                    yield from writer.add(position)

    def _positions(self, requests: Sequence[Request]) -> Iterator[list[Position | None]]:
        """Yield, step by step, the new position of every item; None for those that have ended."""
        return generate_positions(self.backend, requests, self.layout)

    def _requests(
        self,
        ids: GridLike | Sequence[GridLike],
        max_new: int,
        *,
        greedy: bool = False,
        sampling: str | None = None,
        text_sampling: Samplings = None,
        audio_sampling: Samplings = None,
        repetition_penalty: float | None = None,
        stop: Stop | None = None,
        seed: int | Sequence[int] | None = None,
        keep_cache: bool = False,
    ) -> list[Request]:
        """Turn what a caller asks for into one valid request for each item."""
        check_integer("max_new_patches", max_new, 1, 2**31 - 1)
        grids = self._grids(ids)
        count = len(grids)
        preset = find_preset(sampling) or Preset(TEXT_SAMPLING, AUDIO_SAMPLING)
        texts = sampling_for_each("text_sampling", text_sampling, preset.text, count)
        audios = sampling_for_each("audio_sampling", audio_sampling, preset.audio, count)
        if greedy:
            texts, audios = [sampling.greedy for sampling in texts], [sampling.greedy for sampling in audios]
        if repetition_penalty is not None:
            audios = [replace(sampling, repetition_penalty=repetition_penalty) for sampling in audios]
        require(count == 1 or not keep_cache, "keep_cache: one prompt at a time is kept, not a batch")
        size, highest = self.config.vocab_size, max((token for s in texts for token in s.forbidden), default=0)
        require(highest < size, f"forbidden: {highest} is no text token; there are {size}")
        seeds = self.backend.new_seeds(count) if seed is None else seed_for_each(seed, count)
        stop = as_stop(stop)
        stop_ids = tuple(self.tokenizer.token_id(token) for token in stop.tokens)
        patches = None if stop.max_seconds is None else max(1, self.layout.patches_in(stop.max_seconds))
        rooms = [self._room(grid, where, max_new) for where, grid in grids]
        return [
            Request(
                grid,
                room,
                text,
                audio,
                stop_ids,
                stop.text,
                self.tokenizer.decode if stop.text else None,
                patches,
                seed,
                stop.min_new,
                stop.runaway,
                keep_cache,
            )
            for (_, grid), room, text, audio, seed in zip(grids, rooms, texts, audios, seeds, strict=True)
        ]

    def _grids(self, ids: object) -> list[tuple[str, Grid]]:
        """Return each grid, checked, and of which item it is, for errors about its length."""
        if not isinstance(ids, (list, tuple)):
            return [("", self.layout.check_grid(ids))]
        require(ids, "ids: the list is empty")
        return [(f" of item {i}", self.layout.check_grid(item, f"ids[{i}]")) for i, item in enumerate(ids)]

    def _room(self, grid: Grid, where: str, max_new: int) -> int:
        """Return how many positions can follow a prompt; ContextError when there is none."""
        length, context = self.layout.num_positions(grid), self.config.max_position_embeddings
        if length >= context:
            is_audio = self.layout.token_ids(grid) == self.layout.empty_id
            seconds = is_audio.sum() * self.layout.group_size / FRAME_RATE
            raise ContextError(
                f"the prompt{where} has {length} positions, {length - context + 1} more than fit into the context of"
                f" {context} with a position to write: {seconds:.0f} s of audio and {(~is_audio).sum()} text tokens"
            )
        return min(max_new, context - length)


class _Streaming(TaskMethods[Iterator[Piece[ArrayT]], Iterator[Piece[ArrayT]]]):
    """The tasks of a language model as streams."""

    def __init__(self, lm: AudioLM[ArrayT]):
        self._lm, self.layout = lm, lm.layout

    def run(
        self, task: str, arguments: Mapping[str, Any] | list[Mapping[str, Any]], **options: Unpack[TaskOptions]
    ) -> Iterator[Piece[ArrayT]]:
        """Do any task of the table `TASKS` by name; see `TaskMethods.run`."""
        lm, one = self._lm, isinstance(arguments, Mapping)
        filled = lm.task_options(task, arguments, **options)
        prompts = lm.prompts(task, [arguments] if isinstance(arguments, Mapping) else arguments)
        return lm.stream(prompts[0] if one else prompts, **filled)
