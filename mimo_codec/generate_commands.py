"""`mimo-codec generate`: one command per task of the language model, files in and files out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimo_codec.errors import MimoError
from mimo_codec.files import atomic_path, check_target
from mimo_codec.jobs import AUDIO, CODES
from mimo_codec.report import counter, print_error

if TYPE_CHECKING:
    from mimo_codec.lm import Generation, MimoAudioLM

generate = typer.Typer(rich_markup_mode=None)

Heard = Annotated[str, typer.Argument(metavar="AUDIO", help="Audio or .mimo file.")]
Spoken = Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Audio or .mimo file to write.")]
Written = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="Text file to write.  [default: print]")
]
Model = Annotated[str, typer.Option("--model", "-m", help="Language model: folder or Hugging Face hub id.")]
Codec = Annotated[str, typer.Option(help="What hears and speaks: shipped name, folder or hub id.")]
Voice = Annotated[str | None, typer.Option(metavar="AUDIO", help="Sample of the voice to speak with.")]
System = Annotated[str | None, typer.Option(help="How to answer, said before the first turn.")]
Thinking = Annotated[bool, typer.Option("--thinking", help="Think before the answer; thoughts go to stderr.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="The likeliest tokens instead of drawn ones.")]
MaxSeconds = Annotated[float, typer.Option(help="Longest answer.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1.  [default: cuda if there is one]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.  [default: as in the files]")]
Quantize = Annotated[str | None, typer.Option(help="int8 or int4 weights, for little memory.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]

POSITIONS_PER_SECOND = 6.25


@dataclass(frozen=True)
class _Session:
    """The options that all tasks have."""

    model: str
    codec: str
    device: str | None
    dtype: str | None
    quantize: str | None
    seed: int | None
    greedy: bool
    max_seconds: float

    def load(self) -> MimoAudioLM:
        from mimo_codec.lm import MimoAudioLM

        return MimoAudioLM.from_pretrained(
            self.model, codec=self.codec, device=self.device, dtype=self.dtype, quantize=self.quantize
        )

    @property
    def options(self) -> dict[str, Any]:
        if not 0 < self.max_seconds <= 86400:
            raise MimoError(f"--max-seconds must be above 0, not {self.max_seconds:g}")
        positions = max(1, round(self.max_seconds * POSITIONS_PER_SECOND))
        return {"seed": self.seed, "greedy": self.greedy, "max_new_patches": positions, "stream": True}

    def run(self, ask: Callable[[MimoAudioLM, dict[str, Any]], Any]) -> Generation:
        """The answer, with a count of its positions on stderr while it comes."""
        options = self.options
        lm = self.load()
        with counter("positions") as counted:
            for piece in ask(lm, options):
                counted()
                if piece.generation is not None:
                    return piece.generation
        raise AssertionError("generation has an end")


def _check_spoken(output: str, overwrite: bool) -> None:
    if Path(output).suffix.lower() not in (*AUDIO, *CODES):
        raise MimoError(f"{output}: an output file ends in {' '.join((*AUDIO, *CODES))}")
    check_target(Path(output), overwrite)


def _save_spoken(found: Generation, output: str, overwrite: bool) -> None:
    if found.codes is None or found.waveform is None:
        raise MimoError(f"{output}: the model answered without speech, which ended with {found.stop_reason}")
    if Path(output).suffix.lower() in CODES:
        found.codes.save(output, overwrite)
    else:
        from mimo_codec.audio import save_audio

        save_audio(output, found.waveform, found.codes.sample_rate, overwrite)
    if found.text:
        print(found.text)


def _save_written(found: Generation, output: str | None, overwrite: bool) -> None:
    if found.thoughts:
        print(found.thoughts, file=sys.stderr)
    if output is None:
        print(found.text)
        return
    with atomic_path(output, overwrite) as temporary:
        temporary.write_text(found.text + "\n", encoding="utf-8")


def _read_json(path: str, what: str) -> list[dict[str, Any]]:
    """A JSON list of objects, the audio files named in it relative to its folder."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MimoError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise MimoError(f"{path}: a list of {what} is needed")
    return [{name: _beside(path, value) if name.endswith("audio") else value for name, value in item.items()}
            for item in content]  # fmt: skip


def _beside(path: str, name: Any) -> Any:
    return str(Path(path).parent / name) if isinstance(name, str) else name


@generate.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Speech and text in, speech and text out, with a language model of the MiMo-Audio family."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@generate.command()
def transcribe(
    audio: Heard, model: Model, output: Written = None, codec: Codec = "nano", seed: Seed = None,
    greedy: Greedy = False, max_seconds: MaxSeconds = 120.0, device: Device = None, dtype: Dtype = None,
    quantize: Quantize = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Write down what is said."""
    _check_written(output, overwrite)
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max_seconds)
    _save_written(session.run(lambda lm, options: lm.transcribe(audio, **options)), output, overwrite)


@generate.command()
def speak(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    output: Spoken, model: Model,
    style: Annotated[str | None, typer.Option(help="How to say it, in words.")] = None,
    natural: Annotated[bool, typer.Option("--natural", help="TEXT says itself how and what to speak.")] = False,
    voice: Voice = None, codec: Codec = "nano", seed: Seed = None, greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0, device: Device = None, dtype: Dtype = None, quantize: Quantize = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Say a text."""
    _check_spoken(output, overwrite)
    if natural and style is not None:
        raise MimoError("--natural and --style exclude each other")
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max_seconds)

    def ask(lm: MimoAudioLM, options: dict[str, Any]) -> Any:
        if natural:
            return lm.run("tts_natural", {"text": text, "voice": voice}, **options)
        return lm.speak(text, style, voice, **options)

    _save_spoken(session.run(ask), output, overwrite)


@generate.command()
def understand(
    audio: Heard, model: Model,
    question: Annotated[str | None, typer.Argument(metavar="[QUESTION]", help="About the audio.")] = None,
    thinking: Thinking = False, output: Written = None, codec: Codec = "nano", seed: Seed = None,
    greedy: Greedy = False, max_seconds: MaxSeconds = 120.0, device: Device = None, dtype: Dtype = None,
    quantize: Quantize = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Answer a question about audio."""
    _check_written(output, overwrite)
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max_seconds)
    found = session.run(lambda lm, options: lm.understand(audio, question, thinking, **options))
    _save_written(found, output, overwrite)


@generate.command()
def dialogue(
    turns: Annotated[str, typer.Argument(metavar="TURNS", help="Audio or .mimo file, or JSON with several turns.")],
    model: Model,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="Audio, .mimo or text file.  [default: print]")
    ] = None,
    system: System = None, voice: Voice = None, thinking: Thinking = False, codec: Codec = "nano", seed: Seed = None,
    greedy: Greedy = False, max_seconds: MaxSeconds = 120.0, device: Device = None, dtype: Dtype = None,
    quantize: Quantize = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Answer a spoken question or a conversation, aloud when OUT is an audio or .mimo file.

    JSON: [{"role": "user", "audio": "a.wav"}, {"role": "assistant", "text": "...", "audio": "b.wav"}, ...]
    """
    speaks = output is not None and Path(output).suffix.lower() in (*AUDIO, *CODES)
    if output is not None:
        check_target(Path(output), overwrite)
    is_json = turns.lower().endswith(".json")
    said = _read_json(turns, "turns") if is_json else [{"role": "user", "audio": turns}]
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max_seconds)
    found = session.run(
        lambda lm, options: lm.chat(said, system=system, voice=voice, thinking=thinking, speak=speaks, **options)
    )
    if speaks and output is not None:
        _save_spoken(found, output, overwrite)
    else:
        _save_written(found, output, overwrite)


@generate.command("few-shot")
def few_shot(
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to do.")],
    audio: Heard,
    examples: Annotated[str, typer.Option("--examples", metavar="JSON", help="Examples of it.")],
    model: Model, output: Spoken, codec: Codec = "nano", seed: Seed = None, greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0, device: Device = None, dtype: Dtype = None, quantize: Quantize = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Do with speech what a few examples show.

    JSON: [{"input_audio": "a.wav", "output_audio": "b.wav", "output_text": "what b says"}, ...]
    """
    _check_spoken(output, overwrite)
    shown = _read_json(examples, "examples")
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max_seconds)
    found = session.run(lambda lm, options: lm.few_shot(instruction, shown, audio, **options))
    _save_spoken(found, output, overwrite)


@generate.command("continue")
def continue_speech(
    audio: Heard, output: Spoken, model: Model,
    seconds: Annotated[float, typer.Option(help="Of new speech, at most.")] = 10.0,
    codec: Codec = "nano", seed: Seed = None, greedy: Greedy = False, device: Device = None, dtype: Dtype = None,
    quantize: Quantize = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Go on where speech ends; OUT has what is new."""
    _check_spoken(output, overwrite)
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max(2 * seconds, 10.0))
    found = session.run(lambda lm, options: lm.continue_speech(audio, seconds, **options))
    _save_spoken(found, output, overwrite)


@generate.command()
def chat(
    model: Model, system: System = None, thinking: Thinking = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Spoken answers, into 1.wav, 2.wav, ...")
    ] = None,
    voice: Voice = None, codec: Codec = "nano", seed: Seed = None, greedy: Greedy = False,
    max_seconds: MaxSeconds = 120.0, device: Device = None, dtype: Dtype = None, quantize: Quantize = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Talk on the terminal, line by line, with everything that was said before in mind.

    A line is what you say; @a.wav says what is in a file. An empty line, or the end of the input, ends it.
    """
    if voice is not None and output is None:
        raise MimoError("--voice is for spoken answers, into a folder: --output")
    session = _Session(model, codec, device, dtype, quantize, seed, greedy, max_seconds)
    options = session.options
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    lm = session.load()
    turns: list[dict[str, Any]] = []
    while line := _read_line():
        said = {"audio": line[1:].strip()} if line.startswith("@") else {"text": line}
        try:
            asked = [*turns, {"role": "user", **said}]
            answer = _answer(lm, asked, options, system, voice, thinking, output is not None)
            if output is not None:
                _save_spoken(answer, str(Path(output) / f"{len(turns) // 2 + 1}.wav"), overwrite)
        except MimoError as error:  # the conversation goes on without this turn
            print_error(error)
            continue
        turns = [*asked, {"role": "assistant", "text": answer.text or "...", "audio": answer.codes}]


def _read_line() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _answer(
    lm: MimoAudioLM, turns: list[dict[str, Any]], options: dict[str, Any], system: str | None, voice: str | None,
    thinking: bool, speak: bool,
) -> Generation:  # fmt: skip
    """The answer to the last turn; one in text is printed as it comes."""
    for piece in lm.chat(turns, system, voice, thinking, speak, **options):
        if not speak:
            print(piece.text, end="" if piece.generation is None else "\n", flush=True)
        if piece.generation is not None:
            return piece.generation
    raise AssertionError("generation has an end")


def _check_written(output: str | None, overwrite: bool) -> None:
    if output is not None:
        check_target(Path(output), overwrite)
