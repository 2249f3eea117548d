"""MimoAudioLM: a language model of speech with a codec attached; what users call.

The only file of the language model that knows the codec.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mimo_codec.audio import audio_info
from mimo_codec.checks import check_integer
from mimo_codec.codec import MimoCodec, check_device, check_dtype
from mimo_codec.codes import AudioCodes
from mimo_codec.errors import MimoError
from mimo_codec.lm.checkpoint import DeviceMap, find_language_model, load_language_model, save_language_model
from mimo_codec.lm.generate import FRAME_RATE, SAMPLE_RATE, Position, Request, Steps, Stop, generate
from mimo_codec.lm.layout import Grid, Layout
from mimo_codec.lm.model import Output, SpeechLanguageModel
from mimo_codec.lm.prompts import MIN_VOICE_SECONDS, TASKS, WORDINGS, Example, Turn, Wording, find_wording, render
from mimo_codec.lm.sampling import Sampling
from mimo_codec.lm.tokenizer import TextTokenizer

Audio = str | os.PathLike[str] | AudioCodes | np.ndarray | Tensor | tuple[Any, int]
"""A file, codes, or a waveform with its sample rate: (waveform, Hz). Bare arrays are codes [Q, T]."""
Samplings = Sampling | Sequence[Sampling] | None
Grids = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
"""One grid [1 + C, G P], or a list of them."""
DEFAULT_SAMPLING = Sampling(temperature=0.6, top_p=0.95)
PROMPTS = "prompts.json"
MAX_NEW = 750
"""Most positions of an answer, two minutes of audio, unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class Generation:
    """What the model wrote."""

    ids: Tensor
    """The new positions, int64 [1 + C, G N]; text tokens fill all G columns."""
    text: str
    """Of the text tokens, without special ones and thoughts."""
    thoughts: str | None
    """What was thought before, up to `</think>`."""
    codes: AudioCodes | None
    """Of all patches, in order; None when there are none."""
    waveform: Tensor | None
    """`codes` decoded, [S] at 24 kHz, when a codec is attached."""
    stop_reason: str
    """The stop token, or "max_new_patches", "max_seconds" or "context"."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a generation, as it comes."""

    item: int
    """Of the batch."""
    text: str = ""
    thoughts: str = ""
    codes: AudioCodes | None = None
    """A patch."""
    waveform: Tensor | None = None
    """The samples that are complete, [S] at 24 kHz."""
    generation: Generation | None = None
    """Everything, in the last piece of an item."""


class MimoAudioLM:
    """Speech and text in, speech and text out (arXiv 2512.23808). `from_pretrained` loads one."""

    def __init__(
        self,
        model: SpeechLanguageModel,
        tokenizer: TextTokenizer,
        *,
        codec: MimoCodec | None = None,
        wording: Wording | None = None,
        compile: bool | None = None,
    ):
        """compile: torch.compile for the steps of generation, CUDA graphs included; None for on CUDA only."""
        self.model, self.tokenizer, self.config = model, tokenizer, model.config
        self.layout = Layout(
            self.config.group_size, self.config.speech_zeroemb_idx, self.config.delay_pattern, tokenizer.special.empty,
            self.config.vocab_size,
        )  # fmt: skip
        self.wording = wording or WORDINGS["en"]
        self.codec = codec
        if codec is not None:
            self._check_codec(codec)
        self._steps = Steps(model, model.device.type == "cuda" if compile is None else compile)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        codec: MimoCodec | str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        quantize: str | None = None,
        device_map: DeviceMap | None = None,
        wording: Wording | str | None = None,
        compile: bool | None = None,
    ) -> MimoAudioLM:
        """Load a model, in evaluation mode.

        name_or_path: a folder with config.json, safetensors and a text tokenizer, or a Hugging Face hub id.
        codec: one to hear and speak with, or its name; without it audio goes in and comes out as codes.
        device: None for CUDA where there is one, else the CPU. dtype: None keeps that of the files. quantize: "int8" or
        "int4" weights (by torchao), for little memory. device_map: "auto", or a device for each module, to spread the
        layers over several devices (by accelerate). wording: of the instructions, or a language ("en", "zh"); None for
        the prompts.json of the checkpoint, or English. compile: None for CUDA only.
        Raises MimoError for what cannot be found, read or used, and when memory does not suffice.
        """
        place = check_device(device)
        wanted = None if dtype is None else check_dtype(dtype)
        folder = find_language_model(name_or_path, revision)
        if isinstance(wording, str):
            wording = find_wording(wording)
        elif wording is None and (folder / PROMPTS).is_file():
            wording = Wording.load(folder / PROMPTS)
        if isinstance(codec, (str, Path)):
            codec = MimoCodec.from_pretrained(codec, device=place)
        spread = device_map is not None
        model, tokenizer = load_language_model(folder, place, wanted, quantize, device_map)
        return cls(model, tokenizer, codec=codec, wording=wording, compile=False if spread else compile)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, safetensors and tokenizer.json in the released layout; prompts.json for other wording."""
        save_language_model(folder, self.model, self.tokenizer)
        if self.wording != WORDINGS["en"]:
            self.wording.save(Path(folder) / PROMPTS)

    def _check_codec(self, codec: MimoCodec) -> None:
        sizes = tuple(codec.codebook_sizes[: self.config.audio_channels])
        if sizes != self.config.codebook_sizes or codec.frame_rate != FRAME_RATE or codec.sample_rate != SAMPLE_RATE:
            raise MimoError(
                f"codec: {codec.name} has codebooks of {list(sizes)} at {codec.frame_rate:g} Hz; this language model"
                f" reads {list(self.config.codebook_sizes)} at {FRAME_RATE:g} Hz"
            )

    # ---- for those who build their own ---------------------------------------------------------------------------

    @torch.no_grad()
    def forward(self, ids: Grids) -> Output:
        """One grid [1 + C, G P], or a list -> predictions of every next position from the true ones before it.

        Shorter grids of a list are padded at their ends, where what comes out means nothing.
        """
        grids = [self.layout.check_grid(_as_array(item), where) for where, item in _named(ids)]
        lengths = torch.tensor([grid.shape[1] // self.config.group_size for grid in grids])
        longest = max(grid.shape[1] for grid in grids)
        padded = np.stack([np.pad(grid, ((0, 0), (0, longest - grid.shape[1]))) for grid in grids])
        return self.model(torch.from_numpy(padded).to(self.model.device), lengths.to(self.model.device))

    __call__ = forward

    def prompt(self, task: str, **arguments: Any) -> Grid:
        """The grid of a task's prompt; audio among the arguments may be whatever `Audio` says.

        Raises MimoError for unknown tasks and arguments, and for what the task cannot use.
        """
        if task not in TASKS:
            raise MimoError(f"unknown task {task!r}: there is {', '.join(TASKS)}")
        try:
            inspect.signature(TASKS[task].segments).bind(self.wording, **arguments)
        except TypeError as error:
            raise MimoError(f"{task}: {error}") from None
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
        samplings say. text_sampling, audio_sampling: one for all items, or one each; temperature 0.6 and top-p 0.95
        when None. stop: end of text, `<|im_end|>` and `<|eostm|>` when None. seed: item i draws with seed + i, or with
        the i-th of several; the same seed gives the same tokens, in whatever batch. progress: called at every step.
        Raises MimoError for bad grids and for prompts that do not fit into the context, before anything is computed.
        """
        requests = self._requests(ids, max_new_patches, greedy, text_sampling, audio_sampling, stop or Stop(), seed)
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
        grids = _named(ids)
        count, context = len(grids), self.config.max_position_embeddings
        texts, audios = _each("text_sampling", text, count), _each("audio_sampling", audio, count)
        if greedy:
            texts, audios = ([replace(s, temperature=0.0, repetition_penalty=1.0) for s in both]
                             for both in (texts, audios))  # fmt: skip
        seeds = _seeds(seed, count)
        stop_ids = tuple(self.tokenizer.token_id(token) for token in stop.tokens)
        seconds = stop.max_seconds
        patches = None if seconds is None else max(1, int(seconds * FRAME_RATE / self.config.group_size))
        requests = []
        for i, (where, item) in enumerate(grids):
            grid = self.layout.check_grid(_as_array(item), where)
            length = grid.shape[1] // self.config.group_size
            if length >= context:
                raise MimoError(f"{where}: the prompt has {length} positions, {length - context + 1} more than fit into"
                                f" the context of {context} with a position to write")  # fmt: skip
            generator = torch.Generator().manual_seed(seeds[i])
            room = min(max_new, context - length)
            requests.append(Request(grid, room, texts[i], audios[i], stop_ids, patches, generator))
        return requests

    def _pieces(
        self, requests: Sequence[Request], stream: bool, progress: Callable[[], None] | None
    ) -> Iterator[Piece]:
        writers = [_Writer(self, i, request, stream) for i, request in enumerate(requests)]
        for step in generate(self._steps, self.layout, requests):
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
        heard = any(turn.audio is not None for turn in self._ready("turns", turns))
        task = "dialogue_speech_to_text" if heard else "dialogue_text"
        return self.run(task, {"turns": turns, "system": system, "thinking": thinking}, **options)

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
        stop = Stop((*Stop().tokens, "<|eosp|>"), seconds)
        most = 2 * int(seconds * FRAME_RATE / self.config.group_size) + 16  # text may come in between
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
        text = text_sampling or Sampling(**entry.text)  # type: ignore[arg-type]
        audio = audio_sampling or Sampling(**entry.audio)  # type: ignore[arg-type]
        if not entry.speaks or arguments.get("speak") is False:
            special = self.tokenizer.special
            text = replace(text, forbidden=(*text.forbidden, special.empty, special.speech_start))
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
        if value is None:
            return None
        if name == "audio":
            return self._codes(name, value)
        if name == "voice":
            audio = self._encoded(name, value)
            codes = self.layout.check_codes(audio, FRAME_RATE, name)
            seconds = audio.duration if isinstance(audio, AudioCodes) else codes.shape[1] / FRAME_RATE
            if seconds < MIN_VOICE_SECONDS:
                raise MimoError(f"voice: {seconds:.2f} s is too short for a sample; at least {MIN_VOICE_SECONDS} s")
            return codes
        if name in ("turns", "examples"):
            if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
                raise MimoError(f"{name}: a list is needed")
            return [self._ready_item(f"{name}[{i}]", Turn if name == "turns" else Example, item)
                    for i, item in enumerate(value)]  # fmt: skip
        return value

    def _ready_item(self, where: str, kind: type, item: Any) -> Any:
        if isinstance(item, Mapping):
            try:
                item = kind(**item)
            except TypeError as error:
                raise MimoError(f"{where}: {error}") from None
        if not isinstance(item, kind):
            raise MimoError(f"{where}: is a {type(item).__name__}; a {kind.__name__} or a dictionary is needed")
        audio = {name: self._codes(f"{where}.{name}", value) for name, value in vars(item).items()
                 if "audio" in name and value is not None}  # fmt: skip
        return replace(cast(Any, item), **audio)

    def _codes(self, where: str, audio: Audio) -> np.ndarray:
        """Codes [C, T] of whatever audio is; MimoError when they are of another codec, or one is needed."""
        return self.layout.check_codes(self._encoded(where, audio), FRAME_RATE, where)

    def _encoded(self, where: str, audio: Audio) -> AudioCodes | np.ndarray:
        if isinstance(audio, (str, os.PathLike)) and str(audio).lower().endswith(".mimo"):
            audio = AudioCodes.load(audio)
        if isinstance(audio, AudioCodes):
            if self.codec is not None and audio.model:
                own = self.codec.model_id
                if audio.model.rpartition("@")[2] != own.rpartition("@")[2]:
                    raise MimoError(f"{where}: codes of {audio.model}; the codec attached is {own}")
            return audio
        if isinstance(audio, (np.ndarray, Tensor)):
            return _as_array(audio)
        if self.codec is None:
            raise MimoError(f"{where}: only codes can be read without a codec: from_pretrained(..., codec='nano')")
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
            raise MimoError(f"{where}: {seconds:.0f} s of audio, {seconds - most:.0f} more than the context of"
                            f" {self.config.max_position_embeddings} positions holds")  # fmt: skip

    # ---- audio that comes out ------------------------------------------------------------------------------------

    def _wrap(self, patches: Sequence[Tensor]) -> AudioCodes | None:
        """Patches [C, G] -> AudioCodes."""
        if not patches:
            return None
        codes = torch.cat(list(patches), dim=1)
        num_samples = codes.shape[1] * round(SAMPLE_RATE / FRAME_RATE)
        name = self.codec.model_id if self.codec is not None else None
        return AudioCodes(codes, num_samples, SAMPLE_RATE, FRAME_RATE, self.config.codebook_sizes, name)


class _Writer:
    """Positions of one item -> pieces."""

    def __init__(self, lm: MimoAudioLM, item: int, request: Request, stream: bool):
        self.lm, self.item, self.request, self.stream = lm, item, request, stream
        self.patches: list[Tensor] = []
        self.columns: list[Tensor] = []
        self.state: Any = None
        self.empty = torch.tensor(lm.config.speech_zeroemb_idx)[:, None].expand(-1, lm.config.group_size)
        self.think, self.answer = (lm.tokenizer.tokenizer.token_to_id(name) for name in ("<think>", "</think>"))
        self.thoughts, self.text = _Text(lm.tokenizer), _Text(lm.tokenizer)
        self.is_thinking = False
        for token in lm.layout.token_ids(request.grid).tolist():
            self._turn(token)

    def _turn(self, token: int) -> bool:
        """Thinking begins or ends with this token."""
        turns = token in (self.think, self.answer)
        self.is_thinking = token == self.think if turns else self.is_thinking
        return turns

    def add(self, position: Position) -> Iterator[Piece]:
        """A new position -> what can be shown of it, and the generation when it is the last."""
        group = self.lm.config.group_size
        codes = self.empty if position.patch is None else position.patch
        self.columns.append(torch.cat((torch.full((1, group), position.token), codes)))
        if position.patch is not None:
            self.patches.append(position.patch)
        elif not self._turn(position.token):
            (self.thoughts if self.is_thinking else self.text).tokens.append(position.token)
        if self.stream:
            piece = self._piece(position)
            if piece.text or piece.thoughts or piece.codes is not None:
                yield piece
        if position.end is not None:
            yield self._last(position.end)

    def _piece(self, position: Position) -> Piece:
        if position.patch is None:
            return Piece(self.item, self.text.new(), self.thoughts.new())
        waveform = None
        if self.lm.codec is not None:
            waveform, self.state = self.lm.codec.decode_chunk(position.patch, self.state)
            waveform = waveform.cpu()
        return Piece(self.item, codes=self.lm._wrap([position.patch]), waveform=waveform)

    def _last(self, end: int | str) -> Piece:
        lm = self.lm
        codes = lm._wrap(self.patches)
        reason = end if isinstance(end, str) else lm.tokenizer.token(end)
        length = self.request.grid.shape[1] // lm.config.group_size + len(self.columns)
        if reason == "max_new_patches" and length >= lm.config.max_position_embeddings:
            reason = "context"
        waveform = rest = None
        if codes is not None and lm.codec is not None:
            waveform = lm.codec.decode(codes)
            if self.stream:
                rest = lm.codec.decode_chunk(self.patches[-1][:, :0], self.state, last=True)[0].cpu()
        text, thoughts = self.text.whole().strip(), self.thoughts.whole().strip() or None
        generation = Generation(torch.cat(self.columns, dim=1), text, thoughts, codes, waveform, reason)
        if not self.stream:
            return Piece(self.item, generation=generation)
        return Piece(self.item, self.text.new(True), self.thoughts.new(True), waveform=rest, generation=generation)


class _Text:
    """Tokens as they come -> text as far as its characters are complete."""

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.shown = ""

    def whole(self) -> str:
        return self.tokenizer.decode(self.tokens)

    def new(self, last: bool = False) -> str:
        """What has not been shown yet."""
        whole = self.whole()
        if whole.endswith("\ufffd") and not last:  # a character of which bytes are still to come
            return ""
        new, self.shown = whole[len(self.shown) :], whole
        return new


def _named(ids: Grids) -> list[tuple[str, Any]]:
    """One grid or several -> each with what errors call it."""
    if not isinstance(ids, (list, tuple)):
        return [("ids", ids)]
    if not ids:
        raise MimoError("ids: the list is empty")
    return [(f"ids[{i}]", item) for i, item in enumerate(ids)]


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _each(name: str, value: Samplings, count: int) -> list[Sampling]:
    if value is None:
        return [DEFAULT_SAMPLING] * count
    if isinstance(value, Sampling):
        return [value] * count
    if len(value) != count or not all(isinstance(item, Sampling) for item in value):
        raise MimoError(f"{name}: a Sampling for all items, or {count} of them, are needed")
    return list(value)


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        return torch.randint(2**31, (count,)).tolist()
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise MimoError(f"seed: {len(seed)} were given for {count} items")
        return [check_integer("seed", item, 0, 2**63 - 1) for item in seed]
    first = check_integer("seed", seed, 0, 2**62)
    return [first + i for i in range(count)]
