"""`mimo-codec generate`: one command per task of the language model, files in and files out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimo_codec.audio.folders import AUDIO
from mimo_codec.cli.console import counter, print_error, print_line
from mimo_codec.cli.plan import CODES, check_new
from mimo_codec.common.errors import ContextError, MimoError
from mimo_codec.common.files import atomic_path, check_target, read_json

if TYPE_CHECKING:
    from mimo_codec.lm import Generation, MimoAudioLM

TEXT = (".txt", ".md")
Turns = list[dict[str, Any]]

generate = typer.Typer(rich_markup_mode=None)


def _readable(path: str | None) -> str | None:
    """The name of an audio or .mimo file, which is looked at before gigabytes are loaded."""
    from mimo_codec.audio.files import audio_info
    from mimo_codec.codes import AudioCodes

    if path is not None:
        (AudioCodes.load if path.lower().endswith(CODES) else audio_info)(path)
    return path


def _some_text(words: str | None) -> str | None:
    """Words that are some, if they are given."""
    if words is not None and not words.strip():
        raise typer.BadParameter("it is empty")
    return words


AudioFile = Annotated[str, typer.Argument(metavar="AUDIO", help="Audio or .mimo file.", callback=_readable)]
SpokenOutput = Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Audio or .mimo file to write.")]
WrittenOutput = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="Text file to write.  [default: print]")
]
AnyOutput = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="Audio, .mimo or text file.  [default: print]")
]
Model = Annotated[str, typer.Option("--model", "-m", help="Language model: folder or Hugging Face hub id.")]
Codec = Annotated[
    str | None, typer.Option(help="Codec to hear and speak with, as for encode --model.  [default: what MODEL names]")
]
Voice = Annotated[
    str | None, typer.Option(metavar="AUDIO", help="Sample of the voice to speak with.", callback=_readable)
]
System = Annotated[str | None, typer.Option(help="How to answer, said before the first turn.")]
Thinking = Annotated[bool, typer.Option("--thinking", help="Think before the answer; thoughts go to stderr.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="The likeliest tokens instead of drawn ones.")]
MaxSeconds = Annotated[float, typer.Option(min=0.2, help="Longest speech of an answer.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest text of an answer.")]
Language = Annotated[str | None, typer.Option(help="Of the instructions: en or zh.  [default: en, or the model's own]")]
Compile = Annotated[bool | None, typer.Option(help="Compiled steps.  [default: on CUDA]", show_default=False)]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1.  [default: cuda if there is one]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.  [default: as in the files]")]
Quantize = Annotated[str | None, typer.Option(help="int8 or int4 weights, for little memory.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


@dataclass(frozen=True)
class _Session:
    """The options that all tasks have."""

    model: str
    codec: str | None
    device: str | None
    dtype: str | None
    quantize: str | None
    language: str | None
    compile: bool | None
    seed: int | None
    greedy: bool

    def load(self) -> MimoAudioLM:
        from mimo_codec.lm import MimoAudioLM
        from mimo_codec.lm.checkpoint import find_config

        recorded = find_config(self.model).codec
        codec = self.codec or (recorded and recorded.partition("@")[0])
        if not codec:
            raise MimoError(
                f"{self.model}: does not say whose codes it was trained on, and those of another codec mean nothing to"
                " it: --codec NAME (XiaomiMiMo/MiMo-Audio-Tokenizer for the released models)"
            )
        return MimoAudioLM.from_pretrained(
            self.model,
            codec=codec,
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            wording=self.language,
            compile=self.compile,
        )

    @property
    def options(self) -> dict[str, Any]:
        return {"seed": self.seed, "greedy": self.greedy}

    def write(self, max_tokens: int, ask: Ask) -> Generation:
        """An answer in text."""
        return self._run(ask, {"max_new_patches": max_tokens})

    def speak(self, max_seconds: float, ask: Ask) -> Generation:
        """A spoken answer."""
        from mimo_codec.lm import Stop

        positions = round(2 * max_seconds * POSITIONS_PER_SECOND) + THOUGHTS  # as many of text as of speech
        return self._run(ask, {"max_new_patches": positions, "stop": Stop(max_seconds=max_seconds)})

    def answer(self, output: str | None, max_seconds: float, max_tokens: int, ask: Ask, overwrite: bool) -> None:
        """Write an answer, spoken or in text, as `output` says; print text without one."""
        if output is not None and _is_spoken(output):
            _save_spoken(self.speak(max_seconds, ask), output, overwrite)
        else:
            _save_written(self.write(max_tokens, ask), output, overwrite)

    def _run(self, ask: Ask, limits: dict[str, Any]) -> Generation:
        lm = self.load()
        with counter("positions") as counted:
            found: Generation = ask(lm, {**self.options, **limits, "progress": counted})
        return found


Ask = Callable[["MimoAudioLM", dict[str, Any]], Any]
POSITIONS_PER_SECOND = 6.25
THOUGHTS = 500
"""Positions that a model may think for before it speaks."""


def warn_if_cut(found: Generation) -> None:
    """A line on stderr when an answer has not come to its end."""
    if found.stop_reason in ("max_new_patches", "max_seconds", "context"):
        print_line(f"the answer was cut at its limit ({found.stop_reason})")


def _is_spoken(output: str) -> bool:
    return Path(output).suffix.lower() in (*AUDIO, *CODES)


def _check_any(output: str | None, overwrite: bool) -> bool:
    """Whether an answer is spoken; MimoError for a file that can hold none."""
    if output is None:
        return False
    check_target(Path(output), overwrite)
    if not _is_spoken(output) and Path(output).suffix.lower() not in TEXT:
        raise MimoError(f"{output}: an output file ends in {' '.join((*AUDIO, *CODES, *TEXT))}")
    return _is_spoken(output)


def _check_spoken(output: str, overwrite: bool) -> None:
    if not _is_spoken(output):
        raise MimoError(f"{output}: an output file ends in {' '.join((*AUDIO, *CODES))}")
    check_target(Path(output), overwrite)


def _check_answer(speaks: bool, voice: str | None, thinking: bool) -> None:
    """MimoError for options of the other kind of answer."""
    if voice is not None and not speaks:
        raise MimoError("--voice is for spoken answers: --output says where they go")
    if thinking and speaks:
        raise MimoError("--thinking is for answers in text, and --output asks for spoken ones")


def _save_spoken(found: Generation, output: str, overwrite: bool, wanted_end: str = "") -> None:
    if found.text:
        print(found.text)
    if found.stop_reason != wanted_end:
        warn_if_cut(found)
    if found.codes is None or found.waveform is None:
        raise MimoError(f"{output}: the model answered without speech, which ended with {found.stop_reason}")
    if Path(output).suffix.lower() in CODES:
        found.codes.save(output, overwrite)
    else:
        from mimo_codec.audio.files import save_audio

        save_audio(output, found.waveform, found.codes.sample_rate, overwrite)


def _save_written(found: Generation, output: str | None, overwrite: bool) -> None:
    warn_if_cut(found)
    if found.thoughts:
        print(found.thoughts, file=sys.stderr)
    if output is None:
        print(found.text)
        return
    with atomic_path(output, overwrite) as temporary:
        temporary.write_text(found.text + "\n", encoding="utf-8")


def _read_json(path: str, what: str) -> list[dict[str, Any]]:
    """A JSON list of objects, the audio files named in it relative to its folder."""
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise MimoError(f"{path}: a list of {what} is needed")
    return [
        {name: _beside(path, value) if name.endswith("audio") else value for name, value in item.items()}
        for item in content
    ]


def _beside(path: str, name: Any) -> Any:
    return _readable(str(Path(path).parent / name)) if isinstance(name, str) else name


@generate.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Speech and text in, speech and text out, with a language model of the MiMo-Audio family."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@generate.command()
def transcribe(
    audio: AudioFile,
    model: Model,
    output: WrittenOutput = None,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    max_tokens: MaxTokens = 2000,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Write down what is said."""
    _check_written(output, overwrite)
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)
    _save_written(session.write(max_tokens, lambda lm, options: lm.transcribe(audio, **options)), output, overwrite)


@generate.command()
def speak(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.", callback=_some_text)],
    output: SpokenOutput,
    model: Model,
    style: Annotated[str | None, typer.Option(help="How to say it, in words.", callback=_some_text)] = None,
    natural: Annotated[bool, typer.Option("--natural", help="TEXT says itself how and what to speak.")] = False,
    voice: Voice = None,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Say a text."""
    _check_spoken(output, overwrite)
    if natural and style is not None:
        raise MimoError("--natural and --style exclude each other")
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)

    def ask(lm: MimoAudioLM, options: dict[str, Any]) -> Any:
        if natural:
            return lm.run("tts_natural", {"text": text, "voice": voice}, **options)
        return lm.speak(text, style, voice, **options)

    _save_spoken(session.speak(max_seconds, ask), output, overwrite)


@generate.command()
def understand(
    audio: AudioFile,
    model: Model,
    question: Annotated[
        str | None, typer.Argument(metavar="[QUESTION]", help="About the audio.", callback=_some_text)
    ] = None,
    thinking: Thinking = False,
    output: WrittenOutput = None,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    max_tokens: MaxTokens = 2000,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Answer a question about audio."""
    _check_written(output, overwrite)
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)
    found = session.write(max_tokens, lambda lm, options: lm.understand(audio, question, thinking, **options))
    _save_written(found, output, overwrite)


@generate.command()
def dialogue(
    turns: Annotated[str, typer.Argument(metavar="TURNS", help="Audio or .mimo file, or JSON with several turns.")],
    model: Model,
    output: AnyOutput = None,
    system: System = None,
    voice: Voice = None,
    thinking: Thinking = False,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0,
    max_tokens: MaxTokens = 2000,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Answer a spoken question or a conversation, aloud when OUT is an audio or .mimo file.

    JSON: [{"role": "user", "audio": "a.wav"}, {"role": "assistant", "text": "...", "audio": "b.wav"}, ...]
    """
    speaks = _check_any(output, overwrite)
    _check_answer(speaks, voice, thinking)
    is_json = turns.lower().endswith(".json")
    said = _read_json(turns, "turns") if is_json else [{"role": "user", "audio": _readable(turns)}]
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)

    def ask(lm: MimoAudioLM, options: dict[str, Any]) -> Any:
        return lm.chat(said, system=system, voice=voice, thinking=thinking, speak=speaks, **options)

    session.answer(output, max_seconds, max_tokens, ask, overwrite)


@generate.command("few-shot")
def few_shot(
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to do.", callback=_some_text)],
    examples: Annotated[str, typer.Option("--examples", metavar="JSON", help="Examples of it.")],
    model: Model,
    audio: Annotated[
        str | None, typer.Argument(metavar="[AUDIO]", help="To do it with: audio or .mimo file.", callback=_readable)
    ] = None,
    text: Annotated[str | None, typer.Option(help="To do it with, instead of AUDIO.", callback=_some_text)] = None,
    output: AnyOutput = None,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0,
    max_tokens: MaxTokens = 2000,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Do with speech, or text, what a few examples show; aloud when OUT is an audio or .mimo file.

    JSON: [{"input_audio": "a.wav", "output_audio": "b.wav", "output_text": "what b says"}, ...], or "input_text".
    """
    speaks = _check_any(output, overwrite)
    if (audio is None) == (text is None):
        raise MimoError("few-shot: either AUDIO or --text")
    shown = _read_json(examples, "examples")
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)

    def ask(lm: MimoAudioLM, options: dict[str, Any]) -> Any:
        return lm.few_shot(instruction, shown, audio, text, speak=speaks, **options)

    session.answer(output, max_seconds, max_tokens, ask, overwrite)


@generate.command("continue")
def continue_speech(
    audio: AudioFile,
    output: SpokenOutput,
    model: Model,
    seconds: Annotated[float, typer.Option(min=0.2, help="Of new speech, at most.")] = 10.0,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Go on where speech ends; OUT has what is new."""
    _check_spoken(output, overwrite)
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)
    found = session.speak(seconds, lambda lm, options: lm.continue_speech(audio, seconds, **options))
    _save_spoken(found, output, overwrite, wanted_end="max_seconds")


@generate.command()
def chat(
    model: Model,
    system: System = None,
    thinking: Thinking = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Spoken answers, into 1.wav, 2.wav, ...")
    ] = None,
    voice: Voice = None,
    codec: Codec = None,
    seed: Seed = None,
    greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0,
    max_tokens: MaxTokens = 2000,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    language: Language = None,
    compile: Compile = None,
    overwrite: Overwrite = False,
) -> None:
    """Talk on the terminal, line by line, with what was said before in mind, as far as the model's context reaches.

    A line is what you say; @a.wav says what is in a file. An empty line, or the end of the input, ends it.
    """
    from mimo_codec.lm import Stop

    _check_answer(output is not None, voice, thinking)
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
        if not overwrite:
            check_new(sorted(Path(output).glob("[0-9]*.wav")))
    session = _Session(model, codec, device, dtype, quantize, language, compile, seed, greedy)
    lm = session.load()
    options: dict[str, Any] = {**session.options, "system": system, "thinking": thinking}
    most = round(2 * max_seconds * POSITIONS_PER_SECOND)

    def reply(turns: Turns) -> Any:
        if output is None:
            return _answer(lm, turns, {**options, "max_new_patches": max_tokens})
        return lm.chat(turns, voice=voice, **options, max_new_patches=most, stop=Stop(max_seconds=max_seconds))

    turns: Turns = []
    number = 1
    while line := _read_line():
        try:
            answer, asked = _within_context(reply, [*turns, {"role": "user", **_said(lm, line)}])
            if output is not None:
                _save_spoken(answer, str(Path(output) / f"{number}.wav"), overwrite)
        except MimoError as error:  # the conversation goes on without this turn
            print_error(error)
            continue
        if output is None:
            warn_if_cut(answer)
        turns = [*asked, {"role": "assistant", "text": answer.text or "...", "audio": answer.codes}]
        number += 1


def _within_context(reply: Callable[[Turns], Generation], turns: Turns) -> tuple[Generation, Turns]:
    """The answer to the last turn and the turns it is based on: the latest for which the context has room."""
    try:
        return reply(turns), turns
    except ContextError:
        if len(turns) == 1:
            raise
    print_line("answering without the two oldest turns, for which the model's context has no room")
    return _within_context(reply, turns[2:])


def _said(lm: MimoAudioLM, line: str) -> dict[str, Any]:
    """A line of the user: text, or @ and an audio file, which is encoded once."""
    if not line.startswith("@"):
        return {"text": line}
    return {"audio": lm.encode(line[1:].strip())}


def _read_line() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise MimoError("standard input: a line is not UTF-8") from None


def _answer(lm: MimoAudioLM, turns: Turns, options: dict[str, Any]) -> Generation:
    """The answer to the last turn in text, printed as it comes; thoughts go to stderr."""
    for piece in lm.chat(turns, speak=False, stream=True, **options):
        print(piece.thoughts, end="", file=sys.stderr, flush=True)
        print(piece.text, end="" if piece.generation is None else "\n", flush=True)
        if piece.generation is not None:
            return piece.generation
    raise AssertionError("generation has an end")


def _check_written(output: str | None, overwrite: bool) -> None:
    if output is not None:
        check_target(Path(output), overwrite)
