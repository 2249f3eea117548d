"""`mimo-codec generate`: one command per task of the language model, files in and files out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimo_codec.audio.formats import AUDIO, AV_SUFFIXES
from mimo_codec.cli.chat import talk
from mimo_codec.cli.pipes import PIPE, standard_input
from mimo_codec.cli.plan import CODES
from mimo_codec.cli.recordings import answer_files
from mimo_codec.cli.session import ANY, SPOKEN, WRITTEN, Session, Target, check_answer, with_session
from mimo_codec.common.checks import check_choice, error_prefix, require
from mimo_codec.common.files import read_json
from mimo_codec.lm.instructions import LANGUAGE_MARKS

if TYPE_CHECKING:
    from mimo_codec.cli.session import Answer
    from mimo_codec.lm import Example, MimoAudioLM, Turn
    from mimo_codec.lm.request import TaskOptions

generate = typer.Typer(rich_markup_mode=None)
PATHS = (str, os.PathLike)


def _readable(path: str | None) -> Any:
    """Look at an audio or .mimo file before gigabytes are loaded; return it, standard input as a file."""
    from mimo_codec.audio.files import audio_info
    from mimo_codec.codes import AudioCodes, begins_as_codes

    if path is None:
        return None
    source = standard_input() if path == PIPE else path
    (AudioCodes.load if path.lower().endswith(CODES) or begins_as_codes(source) else audio_info)(source)
    return source


def _all_readable(paths: list[str]) -> list[Any]:
    require(PIPE not in paths or len(paths) == 1, "- for standard input stands alone, without other files")
    return [_readable(path) for path in paths]


def _is_question(words: list[Any]) -> bool:
    """Whether the last word after some files is a question, neither a file nor named like one."""
    last = words[-1]
    return len(words) > 1 and isinstance(last, str) and not os.path.exists(last) and not _is_named_as_sound(last)


def _is_named_as_sound(name: str) -> bool:
    return name == PIPE or Path(name).suffix.lower() in (*AUDIO, *AV_SUFFIXES, *CODES)


def _readable_but_question(words: list[str]) -> list[Any]:
    if not _is_question(words):
        return _all_readable(words)
    if not words[-1].strip():
        raise typer.BadParameter("the question is empty")
    return [*_all_readable(words[:-1]), words[-1]]


def _not_empty(words: str | None) -> str | None:
    if words is not None and not words.strip():
        raise typer.BadParameter("it is empty")
    return words


def _instruction(words: str) -> str:
    if words and not words.strip():
        raise typer.BadParameter("it is empty")
    return words


AudioFile = Annotated[
    str, typer.Argument(metavar="AUDIO", help="Audio or .mimo file; - for standard input.", callback=_readable)
]
AudioFiles = Annotated[
    list[str],
    typer.Argument(metavar="AUDIO", help="Audio or .mimo files; - for standard input.", callback=_all_readable),
]
SpokenOutput = Annotated[
    str,
    typer.Option("--output", "-o", metavar="OUT", help="Audio or .mimo file to write; - for WAV on standard output."),
]
WrittenOutput = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="Text file to write.  [default: print]")
]
WrittenOutputs = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="OUT", help="Text file to write, or folder for several files.  [default: print]"
    ),
]
AnyOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Audio, .mimo or text file; - for WAV on standard output.  [default: print]",
    ),
]
Voice = Annotated[
    str | None,
    typer.Option(
        metavar="AUDIO",
        help="Sample of the voice to speak with. For speak, the released model expects a style too.",
        callback=_readable,
    ),
]
System = Annotated[str | None, typer.Option(help="How to answer, said before the first turn.")]
Thinking = Annotated[bool, typer.Option("--thinking", help="Think before the answer; thoughts go to stderr.")]
MaxSeconds = Annotated[float, typer.Option(min=0.2, help="Longest speech of an answer, in seconds.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest text of an answer, in tokens.")]


@generate.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Speech and text in, speech and text out, with a language model of the MiMo-Audio family."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@generate.command()
@with_session
def transcribe(
    session: Session,
    audio: AudioFiles,
    output: WrittenOutputs = None,
    spoken_language: Annotated[
        str | None,
        typer.Option(
            help="Language that is spoken, en or zh, for recognizers trained with marks of it.  [default: recognized]",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files that are transcribed at once.")] = 1,
    max_tokens: MaxTokens = 2000,
) -> None:
    """Write down what is said, in one file or several."""
    if spoken_language is not None:
        check_choice("--spoken-language", spoken_language, LANGUAGE_MARKS)
    options = session.text_options(max_tokens)
    if len(audio) > 1:
        answer_files(session, "asr", audio, output, {"language": spoken_language}, batch_size, options)
        return
    target = Target.check(output, session.overwrite, WRITTEN, audio)

    def ask(lm: MimoAudioLM, options: TaskOptions) -> Answer:
        return lm.transcribe(audio[0], language=spoken_language, **options)

    target.save(session.answer(ask, options))


@generate.command()
@with_session
def speak(
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.", callback=_not_empty)],
    output: SpokenOutput,
    style: Annotated[str | None, typer.Option(help="How to say it, in words.", callback=_not_empty)] = None,
    natural: Annotated[bool, typer.Option("--natural", help="TEXT itself says how and what to speak.")] = False,
    voice: Voice = None,
    max_seconds: MaxSeconds = 120.0,
) -> None:
    """Say a text."""
    target = Target.check(output, session.overwrite, SPOKEN, [voice])
    require(not natural or style is None, "--natural and --style exclude each other")

    def ask(lm: MimoAudioLM, options: TaskOptions) -> Answer:
        if natural:
            return lm.run("tts_natural", {"text": text, "voice": voice}, **options)
        return lm.speak(text, style, voice, **options)

    target.save(session.answer(ask, session.speech_options(max_seconds)))


@generate.command()
@with_session
def understand(
    session: Session,
    audio: Annotated[
        list[str],
        typer.Argument(
            metavar="AUDIO... [QUESTION]",
            help="Audio or .mimo files, - for standard input; then what to ask about each of them.",
            callback=_readable_but_question,
        ),
    ],
    thinking: Thinking = False,
    output: WrittenOutputs = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Files that are answered at once.")] = 1,
    max_tokens: MaxTokens = 2000,
) -> None:
    """Answer a question about audio, in one file or each of several.

    The last word is the question if it is neither a file nor named like one.
    """
    files, question = (audio[:-1], audio[-1]) if _is_question(audio) else (audio, None)
    options = session.text_options(max_tokens)
    if len(files) > 1:
        arguments = {"text": question, "thinking": thinking}
        answer_files(session, "understanding", files, output, arguments, batch_size, options)
        return
    target = Target.check(output, session.overwrite, WRITTEN, files)

    def ask(lm: MimoAudioLM, options: TaskOptions) -> Answer:
        return lm.understand(files[0], question, thinking, **options)

    target.save(session.answer(ask, options))


@generate.command()
@with_session
def dialogue(
    session: Session,
    turns: Annotated[str, typer.Argument(metavar="TURNS", help="Audio or .mimo file, or JSON with several turns.")],
    output: AnyOutput = None,
    system: System = None,
    voice: Voice = None,
    thinking: Thinking = False,
    max_seconds: MaxSeconds = 120.0,
    max_tokens: MaxTokens = 2000,
) -> None:
    """Answer a spoken question or a conversation, aloud when OUT is an audio or .mimo file.

    JSON: [{"role": "user", "audio": "a.wav"}, {"role": "assistant", "text": "...", "audio": "b.wav"}, ...], or
    several parts in a turn: {"role": ..., "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text":
    "..."}]}
    """
    from mimo_codec.lm import Turn

    target = Target.check(output, session.overwrite, ANY, [turns, voice])
    check_answer(target.is_spoken, voice, thinking)
    is_json = turns.lower().endswith(".json")
    said = _read_turns(turns, target) if is_json else [Turn("user", audio=_readable(turns))]

    def ask(lm: MimoAudioLM, options: TaskOptions) -> Answer:
        return lm.chat(said, system, voice, thinking, speak=target.is_spoken, **options)

    hears = target.is_spoken or any(turn.has_audio for turn in said)
    target.save(session.answer(ask, _options(session, target, max_seconds, max_tokens), codec=hears))


@generate.command("few-shot")
@with_session
def few_shot(
    session: Session,
    instruction: Annotated[
        str,
        typer.Argument(
            metavar="INSTRUCTION", help='What to do; "" lets the examples alone say it.', callback=_instruction
        ),
    ],
    examples: Annotated[str, typer.Option("--examples", metavar="JSON", help="Examples of it.")],
    audio: Annotated[
        str | None,
        typer.Argument(metavar="[AUDIO]", help="Audio or .mimo file to do it with.", callback=_readable),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text to do it with, instead of AUDIO.", callback=_not_empty)] = None,
    output: AnyOutput = None,
    prefix: Annotated[
        str | None, typer.Option(help="How the prompt begins.  [default: [Int]: or <Spe>:, or nothing for text]")
    ] = None,
    min_tokens: Annotated[int, typer.Option(min=0, help="Least new positions of an answer.")] = 0,
    max_seconds: MaxSeconds = 120.0,
    max_tokens: MaxTokens = 2000,
) -> None:
    """Do with speech, or text, what a few examples show; aloud when OUT is an audio or .mimo file.

    JSON: [{"input_audio": "a.wav", "output_audio": "b.wav", "output_text": "what b says"}, ...], or "input_text".
    """
    from mimo_codec.lm import TASKS

    target = Target.check(output, session.overwrite, ANY, [examples, audio])
    require((audio is None) != (text is None), "few-shot: either AUDIO or --text")
    shown = _read_examples(examples, target)

    def ask(lm: MimoAudioLM, options: TaskOptions) -> Answer:
        return lm.few_shot(instruction or None, shown, audio, text, target.is_spoken, prefix, **options)

    hears = target.is_spoken or audio is not None or any(given.input_audio is not None for given in shown)
    if target.is_spoken:
        options = session.speech_options(max_seconds, min_new=min_tokens)
    else:
        options = session.text_options(max_tokens, min_tokens, ends=(TASKS["few_shot"].text_end,))
    target.save(session.answer(ask, options, codec=hears))


@generate.command("continue")
@with_session
def continue_speech(
    session: Session,
    audio: AudioFile,
    output: SpokenOutput,
    seconds: Annotated[float, typer.Option(min=0.2, help="Longest new speech, in seconds.")] = 10.0,
) -> None:
    """Go on where speech ends; OUT has what is new."""
    target = Target.check(output, session.overwrite, SPOKEN, [audio])

    def ask(lm: MimoAudioLM, options: TaskOptions) -> Answer:
        return lm.continue_speech(audio, seconds, **options)

    target.save(session.answer(ask, session.speech_options(seconds)), expected_end="max_seconds")


@generate.command()
@with_session
def chat(
    session: Session,
    system: System = None,
    thinking: Thinking = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Spoken answers, into 1.wav, 2.wav, ...")
    ] = None,
    voice: Voice = None,
    max_seconds: MaxSeconds = 120.0,
    max_tokens: MaxTokens = 2000,
) -> None:
    """Talk on the terminal, line by line, with what was said before in mind, as far as the model's context reaches.

    A line is what you say; @a.wav says what is in a file. An empty line, or the end of the input, ends it.
    """
    check_answer(output is not None, voice, thinking)
    spoken = output is not None
    options = session.speech_options(max_seconds, thoughts=0) if spoken else session.text_options(max_tokens)
    talk(session, output, system, voice, thinking, options)


def _options(session: Session, target: Target, max_seconds: float, max_tokens: int) -> TaskOptions:
    return session.speech_options(max_seconds) if target.is_spoken else session.text_options(max_tokens)


def _read_turns(path: str, target: Target) -> list[Turn]:
    """Read the turns of a conversation and check them, before anything is loaded; none may be the target."""
    from mimo_codec.lm.prompts import Turn, check_turns
    from mimo_codec.lm.tasks import as_items

    with error_prefix(path):
        turns = as_items(Turn, "turns", _read_items(path, "turns", target))
        check_turns(turns, target.is_spoken)
    return turns


def _read_examples(path: str, target: Target) -> list[Example]:
    """Read examples and check them, before anything is loaded; none may be the target."""
    from mimo_codec.lm.prompts import Example, check_examples
    from mimo_codec.lm.tasks import as_items

    with error_prefix(path):
        examples = as_items(Example, "examples", _read_items(path, "examples", target))
        check_examples(examples, target.is_spoken)
    return examples


def _read_items(path: str, what: str, target: Target) -> list[dict[str, Any]]:
    """Read a JSON list of objects; the audio files named in it are relative to its folder, and none is the target."""
    content = read_json(path)
    is_list = isinstance(content, list) and all(isinstance(item, dict) for item in content)
    require(is_list, f"a list of {what} is needed")
    items = [_with_places(path, item) for item in content]
    target.refuse(file for item in items for file in _files_of(item))
    return items


def _with_places(path: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return an item with its audio files, and those of its parts, in the folder of `path`."""
    placed = {name: _beside(path, value) if name.endswith("audio") else value for name, value in item.items()}
    if isinstance(parts := item.get("content"), list):
        placed["content"] = [_with_places(path, part) if isinstance(part, dict) else part for part in parts]
    return placed


def _files_of(item: dict[str, Any]) -> Iterator[os.PathLike[str] | str]:
    """Yield the audio files of an item and of its parts."""
    yield from (value for name, value in item.items() if name.endswith("audio") and isinstance(value, PATHS))
    if isinstance(parts := item.get("content"), list):
        yield from (file for part in parts if isinstance(part, dict) for file in _files_of(part))


def _beside(path: str, name: object) -> object:
    return _readable(str(Path(path).parent / name)) if isinstance(name, str) else name
