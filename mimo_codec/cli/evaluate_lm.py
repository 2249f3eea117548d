"""The commands `evaluate-lm SUITE`: what a language model learns from examples in its prompt."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mimo_codec.cli.console import FilesFailed, print_line, progress_bar
from mimo_codec.cli.options import Device, Revision
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError

if TYPE_CHECKING:
    from mimo_codec.evaluation.lm.setup import Setup

evaluate_lm = typer.Typer(rich_markup_mode=None)
SUITES = {
    "speechmmlu": "SpeechMMLU: knowledge, asked and answered by text and by speech (t2t, s2t, t2s, s2s).",
    "mmau": "MMAU: questions about speech, sounds and music.",
    "voice-conversion": "The same words in the voice of the examples.",
    "rate-conversion": "The same words slower or faster.",
    "style-conversion": "The same words sad, laughing or whispered.",
    "denoising": "Noise is taken away.",
    "translation": "The same in another language, spoken.",
    "asr": "Transcription.",
    "tts": "Speech from text.",
    "continuation": "Speech goes on in the same voice.",
    "custom": "A JSONL file of your own with examples and queries.",
}
"""Name of a suite -> what it is."""

Data = Annotated[str, typer.Option("--data", metavar="DIR", help="Folder of the set as it comes, or its list.")]
Shots = Annotated[
    str | None, typer.Option(help="Numbers of examples, such as 0,1,4,16.  [default: those that were published]")
]
Modes = Annotated[str | None, typer.Option(help="Ways to ask, such as t2t,s2s.  [default: all]")]
Recogniser = Annotated[
    str, typer.Option(help="Hears spoken answers: whisper, moonshine, pocketsphinx, or faster-whisper:MODEL.")
]
Language = Annotated[str, typer.Option(help="Language of spoken answers.")]
Encoder = Annotated[str, typer.Option(help="Compares voices: resemblyzer, or a function such as package.module.name.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the choice of examples, and of answers.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask so many items only.")]


@evaluate_lm.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Measure what a language model learns from examples in its prompt."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _suite_command(suite: str, doc: str) -> None:
    def run(
        model: Annotated[str, typer.Option("--model", "-m", help="Folder or Hugging Face hub id of the model.")],
        data: Data,
        output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")],
        shots: Shots = None,
        modes: Modes = None,
        codec: Annotated[
            str | None, typer.Option(help="Codec of the model.  [default: as its configuration says]")
        ] = None,
        recogniser: Recogniser = "whisper",
        language: Language = "en",
        encoder: Encoder = "resemblyzer",
        seed: Seed = 0,
        limit: Limit = None,
        batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Questions that are asked at once.")] = 8,
        workers: Annotated[int, typer.Option(min=1, help="Processes, each with the whole model.")] = 1,
        threads: Annotated[int, typer.Option(min=0, help="Threads of each process; 0: cores are shared out.")] = 0,
        engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
        address: Annotated[
            str | None, typer.Option(help="Of a running Ray cluster, such as auto.  [default: start Ray here]")
        ] = None,
        gpus: Annotated[float, typer.Option(min=0, help="GPUs of each worker of Ray, fractions included.")] = 0.0,
        revision: Revision = None,
        device: Device = None,
        dtype: Annotated[str | None, typer.Option(help="Precision.  [default: that of the files]")] = None,
        quantize: Annotated[str | None, typer.Option(help="int8 or int4 weights.")] = None,
    ) -> None:
        from mimo_codec.common.engines import Resources
        from mimo_codec.evaluation.lm import report
        from mimo_codec.evaluation.lm.model import ModelChoice
        from mimo_codec.evaluation.lm.plots import require_matplotlib
        from mimo_codec.evaluation.lm.run import Running, evaluate
        from mimo_codec.evaluation.lm.setup import prepare

        setup = _setup(suite, data, shots, modes, recogniser, language, encoder, seed, limit)
        require(output, "--output: the name of a folder is needed")
        require_matplotlib()
        prepare(setup)  # before weights are downloaded
        choice = ModelChoice(_absolute(model), codec and _absolute(codec), device, dtype, revision, quantize)
        running = Running(engine, Resources(workers, gpus=gpus, address=address), batch_size, threads)
        with ExitStack() as stack:
            finished: list[Callable[[int], None]] = []

            def begin(batches: dict[int, float]) -> None:
                finished.append(stack.enter_context(progress_bar(suite, batches, in_seconds=False)))

            results = evaluate(
                setup,
                choice.load,
                Path(output),
                model=choice.stamp(),
                measure=choice.measure(),
                words=choice.instructions(),
                running=running,
                begin=begin,
                progress=lambda number: finished[0](number),
            )
        report.write_report(results, Path(output))
        print(report.as_text(results))
        print(Path(output) / report.MARKDOWN_FILE)
        if results.failed:
            raise FilesFailed(f"{len(results.failed)} items or questions were left out")

    run.__doc__ = doc
    evaluate_lm.command(suite)(run)


for _name, _doc in SUITES.items():
    _suite_command(_name, _doc)


@evaluate_lm.command("plan")
def plan(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Name of a suite.")],
    data: Data,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or hub id; without it lengths are estimated.")
    ] = None,
    shots: Shots = None,
    modes: Modes = None,
    prefill: Annotated[
        float, typer.Option(min=0.001, help="Positions of prompts that the model reads a second.")
    ] = 4000,
    decode: Annotated[
        float, typer.Option(min=0.001, help="New positions a second, all items of a batch together.")
    ] = 200,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Questions that are asked at once.")] = 8,
    seed: Seed = 0,
    limit: Limit = None,
    revision: Revision = None,
) -> None:
    """Say how many questions a suite has, how long its prompts are, and how long a model of some speed takes."""
    from mimo_codec.evaluation.lm.model import Measure, ModelChoice
    from mimo_codec.evaluation.lm.plan import Speed, describe
    from mimo_codec.evaluation.lm.plan import plan as make_plan
    from mimo_codec.evaluation.lm.setup import prepare
    from mimo_codec.lm.instructions import INSTRUCTIONS

    require(suite in SUITES, f"suite {suite!r} is not known; choose one of {', '.join(SUITES)}")
    prepared = prepare(_setup(suite, data, shots, modes, "whisper", "en", "resemblyzer", seed, limit), judged=False)
    choice = None if model is None else ModelChoice(model, revision=revision)
    measure = Measure() if choice is None else choice.measure()
    words = INSTRUCTIONS["en"] if choice is None else choice.instructions()
    costs, bad = make_plan(prepared, measure, words)
    print(describe(costs, Speed(prefill, decode), None if choice is None else choice.config, batch_size))
    for name, reason in [*prepared.bad.items(), *bad.items()]:
        print_line(f"left out: {name}: {reason}")


def _setup(
    suite: str,
    data: str,
    shots: str | None,
    modes: str | None,
    recogniser: str,
    language: str,
    encoder: str,
    seed: int,
    limit: int | None,
) -> Setup:
    from mimo_codec.evaluation.lm.judges import Judges
    from mimo_codec.evaluation.lm.setup import Setup

    judges = Judges(recogniser, language, encoder)
    numbers = tuple(_integer(word) for word in _words("--shots", shots))
    return Setup(suite, Path(data), numbers, tuple(_words("--modes", modes)), judges, seed, limit)


def _words(option: str, text: str | None) -> list[str]:
    words = [word for word in (part.strip() for part in (text or "").split(",")) if word]
    require(words or text is None, f"{option}: names nothing")
    return words


def _absolute(name: str) -> str:
    """Return the absolute path of a folder, so that workers in other folders find it, and other names as they are."""
    return os.path.abspath(name) if os.path.isdir(name) else name


def _integer(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise MimoError(f"--shots: {word!r} is not a number") from None
