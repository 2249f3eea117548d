"""AudioLM: a language model of speech with a codec attached, whatever computes its networks. Torch is not needed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, overload

from numpy.typing import NDArray

from mimo_codec.codes import AudioCodes
from mimo_codec.common.checks import check_integer, require
from mimo_codec.common.errors import ContextError
from mimo_codec.lm.audio import Audio, AudioReader, SpeechCodec
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.generate import Backend, Position, generate_positions
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.layout import Grid, Layout
from mimo_codec.lm.methods import TaskMethods
from mimo_codec.lm.output import ArrayT, Generation, Piece, Writer
from mimo_codec.lm.prompts import render
from mimo_codec.lm.request import (
    Options,
    Request,
    Sampling,
    Samplings,
    Stop,
    TaskOptions,
    as_stop,
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


class AudioLM(TaskMethods[Generation[ArrayT]], Generic[ArrayT]):
    """Speech and text in, speech and text out (arXiv 2512.23808). Arrays that come out are those of the backend."""

    backend: Backend
    attach_codec: str
    """How to get a model with a codec, for errors."""

    def __init__(
        self, config: LMConfig, tokenizer: TextTokenizer, codec: SpeechCodec | None, instructions: Instructions
    ):
        """Put the parts together; MimoError when the codec is not the one whose codes the model reads."""
        self.config, self.tokenizer, self.codec, self.instructions = config, tokenizer, codec, instructions
        empty_id = tokenizer.special.empty
        self.layout = Layout(
            config.group_size, config.speech_zeroemb_idx, config.delay_pattern, empty_id, config.vocab_size
        )
        self.reader = AudioReader(config, self.layout, codec, self.attach_codec)

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

    def encode(self, audio: Audio, where: str = "audio") -> AudioCodes | NDArray[Any]:
        """Encode audio by the codec that is attached; codes are returned as they are.

        Raises MimoError, which calls it `where`, for audio that cannot be read or is longer than the context, and for
        codes of another codec.
        """
        return self.reader.encode(audio, where)

    # ---- generation ----------------------------------------------------------------------------------------------

    @overload
    def generate(self, ids: GridLike, *, max_new_patches: int, **options: Unpack[Options]) -> Generation[ArrayT]: ...

    @overload
    def generate(
        self, ids: Sequence[GridLike], *, max_new_patches: int, **options: Unpack[Options]
    ) -> list[Generation[ArrayT]]: ...

    def generate(
        self, ids: GridLike | Sequence[GridLike], *, max_new_patches: int, **options: Unpack[Options]
    ) -> Generation[ArrayT] | list[Generation[ArrayT]]:
        """Go on with one grid [1 + C, G P], or with a list of them as a batch, each item as if it were alone.

        Args:
            ids: the prompt, or several; a list gives a list.
            max_new_patches: most new positions, text tokens and patches alike.
            **options: greedy: draw the likeliest tokens, whatever the samplings say. text_sampling, audio_sampling: one
                for all items, or one each; temperature 0.6 and 0.9, both with top-p 0.95, when None (those of a task
                are `TASKS[task].text` and `.audio`). stop: end of text, `<|im_end|>` and `<|eostm|>` when None. seed:
                item i draws with seed + i, or with the i-th of several; the same seed gives the same tokens, in
                whatever batch. progress: called at every step.

        Raises:
            MimoError: for bad grids and options, and for prompts that do not fit into the context (ContextError),
                before anything is computed.
        """
        pieces = self._start(ids, max_new_patches, whole=True, **options)
        found = {piece.item: piece.generation for piece in pieces if piece.generation is not None}
        return [found[i] for i in range(len(found))] if isinstance(ids, (list, tuple)) else found[0]

    def stream(
        self, ids: GridLike | Sequence[GridLike], *, max_new_patches: int, **options: Unpack[Options]
    ) -> Iterator[Piece[ArrayT]]:
        """Do what `generate` does, and yield every piece of the answers as soon as it is there.

        The last piece of an item has the whole `generation`. Mistakes raise MimoError at once, as in `generate`.
        """
        return self._start(ids, max_new_patches, whole=False, **options)

    def run(self, task: str, arguments: Mapping[str, Any], **options: Unpack[TaskOptions]) -> Generation[ArrayT]:
        """Do any task of the table `TASKS` by name; see `TaskMethods.run`."""
        return self.generate(self.prompt(task, **arguments), **self._task_options(task, arguments, **options))

    @property
    def streaming(self) -> TaskMethods[Iterator[Piece[ArrayT]]]:
        """The tasks as streams: `lm.streaming.speak("Good morning.")` is an iterator of Piece."""
        return _Streaming(self)

    def _task_options(self, task: str, arguments: Mapping[str, Any], **options: Unpack[TaskOptions]) -> TaskOptions:
        """Fill in what a task says about how its answer is drawn and where it ends."""
        entry, special = find_task(task), self.tokenizer.special
        text = sampling_for_each("text_sampling", options.get("text_sampling"), entry.text, 1)[0]
        audio = sampling_for_each("audio_sampling", options.get("audio_sampling"), entry.audio, 1)[0]
        stop = options.get("stop")
        if not entry.answers_in_speech(arguments):
            text = replace(text, forbidden=(*text.forbidden, special.empty, special.speech_start))
            if stop is None and entry.text_end:
                stop = Stop(text=(entry.text_end,))
        filled: TaskOptions = {"text_sampling": text, "audio_sampling": audio, "stop": stop}
        return {"max_new_patches": MAX_NEW, **options, **filled}

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
        text_sampling: Samplings = None,
        audio_sampling: Samplings = None,
        stop: Stop | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> list[Request]:
        """Turn what a caller asks for into one valid request for each item."""
        check_integer("max_new_patches", max_new, 1, 2**31 - 1)
        grids = self._grids(ids)
        count = len(grids)
        texts = sampling_for_each("text_sampling", text_sampling, TEXT_SAMPLING, count)
        audios = sampling_for_each("audio_sampling", audio_sampling, AUDIO_SAMPLING, count)
        if greedy:
            texts, audios = [sampling.greedy for sampling in texts], [sampling.greedy for sampling in audios]
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
            )
            for (_, grid), room, text, audio, seed in zip(grids, rooms, texts, audios, seeds, strict=True)
        ]

    def _grids(self, ids: object) -> list[tuple[str, Grid]]:
        """Return each grid, checked, with what errors call it."""
        if not isinstance(ids, (list, tuple)):
            return [("ids", self.layout.check_grid(ids))]
        require(ids, "ids: the list is empty")
        return [(f"ids[{i}]", self.layout.check_grid(item, f"ids[{i}]")) for i, item in enumerate(ids)]

    def _room(self, grid: Grid, where: str, max_new: int) -> int:
        """Return how many positions can follow a prompt; ContextError when there is none."""
        length, context = self.layout.num_positions(grid), self.config.max_position_embeddings
        if length >= context:
            raise ContextError(
                f"{where}: the prompt has {length} positions, {length - context + 1} more than fit into the context of"
                f" {context} with a position to write"
            )
        return min(max_new, context - length)


class _Streaming(TaskMethods[Iterator[Piece[ArrayT]]]):
    """The tasks of a language model as streams."""

    def __init__(self, lm: AudioLM[ArrayT]):
        self._lm, self.layout = lm, lm.layout

    def run(self, task: str, arguments: Mapping[str, Any], **options: Unpack[TaskOptions]) -> Iterator[Piece[ArrayT]]:
        """Do any task of the table `TASKS` by name; see `TaskMethods.run`."""
        lm = self._lm
        return lm.stream(lm.prompt(task, **arguments), **lm._task_options(task, arguments, **options))
