"""The command line `mimo-codec`: command -> function, and whatever a user got wrong -> one line and an exit code.

Exit codes: 0 done, 1 some of many files failed, 2 nothing could be done, 130 and 143 interrupted and terminated. What
needs torch is imported inside the commands, so that help and mistakes in arguments are quick.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mimo_codec import __version__
from mimo_codec.audio.folders import AUDIO
from mimo_codec.cli.console import FilesFailed, print_error, print_line, progress_bar
from mimo_codec.cli.export import export
from mimo_codec.cli.generate import generate
from mimo_codec.cli.plan import CODES, plan_jobs
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import check_target

if TYPE_CHECKING:
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.onnx.codec.runtime import OnnxCodec

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(rich_markup_mode=None)
app.add_typer(data, name="data")
app.add_typer(generate, name="generate", help="Have a language model transcribe, speak, answer, go on.")
app.add_typer(export, name="export", help="Write models as ONNX files, checked against PyTorch.")
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer has a name for its subclass only

Output = Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="File, or folder for several files.")]
NumQuantizers = Annotated[
    int | None,
    typer.Option("--num-quantizers", "-q", help="Number of codebooks to use, all of a model with fewer.  [default: 8]"),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Shipped name, folder (of an exported codec too) or Hugging Face hub id."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1.  [default: cuda if there is one]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.  [default: float32]")]
BatchSeconds = Annotated[float, typer.Option(help="Audio at a time; longer files go alone, in bounded memory.")]
Format = Annotated[str, typer.Option(help="Of audio in a folder: wav, flac, ogg, opus or mp3.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mimo-codec {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Speech to tokens and back, with the codecs of the MiMo-Audio-Tokenizer family."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def encode(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Audio files and folders of them.")],
    output: Output,
    num_quantizers: NumQuantizers = None,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_seconds: BatchSeconds = 120.0,
    overwrite: Overwrite = False,
) -> None:
    """Encode audio files to .mimo files.

    One file is written to OUT, several into the folder OUT; folders are mirrored: IN/a/b.wav becomes OUT/a/b.mimo.
    """
    plan = plan_jobs(inputs, output, AUDIO, CODES, overwrite=overwrite)
    from mimo_codec.cli.batch import encode_files

    encode_files(_load(model, revision, device, dtype), plan, num_quantizers, batch_seconds, overwrite)


@app.command()
def decode(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help=".mimo files and folders of them.")],
    output: Output,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_seconds: BatchSeconds = 120.0,
    format: Format = "wav",
    overwrite: Overwrite = False,
) -> None:
    """Decode .mimo files to audio files.

    One file is written to OUT, whose suffix chooses the format; several into the folder OUT; folders are mirrored.
    """
    plan = plan_jobs(inputs, output, CODES, AUDIO, suffix=f".{format}", overwrite=overwrite)
    from mimo_codec.cli.batch import decode_files

    decode_files(_load(model, revision, device, dtype), plan, batch_seconds, overwrite)


@app.command()
def reconstruct(
    source: Annotated[str, typer.Argument(metavar="IN", help="Audio file, or folder of them.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="Audio file, or folder.")],
    num_quantizers: NumQuantizers = None,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_seconds: BatchSeconds = 120.0,
    format: Format = "wav",
    overwrite: Overwrite = False,
) -> None:
    """Encode and decode, to hear or to measure what a codec keeps.

    A folder is mirrored in the folder OUT. The outputs have the codec's sample rate and the lengths of the inputs.
    """
    plan = plan_jobs([source], output, AUDIO, AUDIO, suffix=f".{format}", overwrite=overwrite)
    from mimo_codec.cli.batch import reconstruct_files

    reconstruct_files(_load(model, revision, device, dtype), plan, num_quantizers, batch_seconds, overwrite)


@app.command()
def evaluate(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="Speech: file, folder or .jsonl manifest.")],
    decoded: Annotated[
        str | None, typer.Argument(metavar="[DECODED]", help="Folder of decoded files to score instead of a model.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write report.json, report.md and plots.")
    ] = None,
    num_quantizers: NumQuantizers = None,
    codebooks: Annotated[str, typer.Option(help="Fewer codebooks to measure too, such as 1,2,4.")] = "",
    baselines: Annotated[str, typer.Option(help="To measure too, where their programs are; or none.")] = "opus,codec2",
    metrics: Annotated[
        str | None, typer.Option(help="Names such as pesq_wb,stoi, or all.  [default: all but word error rates]")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-w", help="Processes.  [default: one per core]")] = None,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every file's scores included.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure a codec on speech, beside Opus and Codec2.

    Every file is encoded, decoded and compared with the original; or with the file of the same name in DECODED. A
    manifest has a line like {"path": "a.wav", "text": "what is said"} for each file; the text is for word error rates.
    """
    numbers = [_integer("--codebooks", word) for word in _words(codebooks)]
    from mimo_codec.cli.evaluate import evaluate_files

    evaluate_files(
        lambda: _load(model, revision, device, dtype),
        reference,
        decoded,
        output,
        num_quantizers=num_quantizers,
        codebooks=numbers,
        metrics=None if metrics is None else _words(metrics),
        baselines=[] if baselines == "none" else _words(baselines),
        workers=workers,
        as_json=as_json,
        overwrite=overwrite,
    )


@app.command()
def info(
    target: Annotated[str, typer.Argument(metavar="FILE|MODEL", help=".mimo or audio file, or as for --model.")],
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a .mimo file, an audio file or a model."""
    from mimo_codec.cli.info import as_text, describe

    facts = describe(target, revision)
    print(json.dumps(facts, indent=2) if as_json else as_text(facts))


@app.command()
def models() -> None:
    """List shipped and cached models, and presets to train."""
    from mimo_codec.codec.checkpoint import cached_models, shipped_models
    from mimo_codec.codec.config import PRESETS

    rows = [("shipped", name, str(folder)) for name, folder in shipped_models().items()]
    rows += [("cached", name, str(folder)) for name, folder in cached_models().items()]
    rows += [("preset", name, "a configuration without weights") for name in PRESETS]
    width = max(len(name) for _, name, _ in rows)
    for kind, name, place in rows:
        print(f"{kind:8} {name:{width}}  {place}")


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: any that is free.")] = 8000,
    model: Annotated[
        str, typer.Option("--model", "-m", "--graphs", metavar="MODEL", help="As for encode; exported on first use.")
    ] = "nano",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Try a codec in the browser: record or open speech, hear and see what is left of it.

    The page is served to this machine alone, and the codec runs inside it, without PyTorch.
    """
    from mimo_codec.cli.demo import serve

    serve(model, port, open_page)


@app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file or name of a shipped recipe.")],
) -> None:
    """Train a model by a recipe.

    What follows RECIPE overrides its keys, as in mimo-codec train nano_stage1 --data.root speech --trainer.max_steps
    1000. For a list of them: mimo-codec train nano_stage1 --help.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported; see recipes/README.md
    from mimo_codec.train import run

    run.train(recipe, context.args, all_cores=True)


@data.callback(invoke_without_command=True)
def start_data(context: typer.Context) -> None:
    """Look after speech to train on."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@data.command("scan")
def scan_data(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder of audio files, or manifest (.jsonl).")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="MANIFEST", help="Manifest to write (.jsonl).")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: one per processor]")] = None,
    min_seconds: Annotated[float, typer.Option(help="Shortest duration.")] = 0.1,
    max_clipped: Annotated[float, typer.Option(help="Largest share of samples at full scale.")] = 0.01,
    max_silence: Annotated[float, typer.Option(help="Largest share of 20 ms blocks below -60 dBFS.")] = 0.9,
    overwrite: Overwrite = False,
) -> None:
    """Find the utterances that are fit to train on, and write a manifest of them.

    Every file is decoded completely. The manifest tells duration, sample rate, peak, clipping and silence of each, and
    the text that lies beside it (a.txt for a.wav). Files that are damaged, silent, clipped or too short are left out
    and listed.
    """
    if not output.lower().endswith(".jsonl"):
        raise MimoError(f"{output}: a manifest ends in .jsonl")
    check_target(Path(output), overwrite)
    from mimo_codec.data.manifest import find_utterances, write_manifest
    from mimo_codec.data.scan import Limits, scan, summary

    limits = Limits(min_seconds, max_clipped, max_silence)
    found, faults = find_utterances(source)
    with progress_bar("scan", dict.fromkeys(range(len(found)), 1.0)) as finished:
        good, bad = scan(found, limits, workers, finished)
    for fault in (faults := [*faults, *bad]):
        print_line(f"skipped {fault}")
    if not good:
        raise MimoError(f"{source}: none of {len(found)} utterances is fit to train on")
    write_manifest(output, good, overwrite)
    print("\n".join(summary(good, faults)))


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _integer(option: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise MimoError(f"{option}: {word!r} is not a number") from None


def _load(model: str, revision: str | None, device: str | None, dtype: str | None) -> MimoCodec | OnnxCodec:
    from mimo_codec.loading import load_codec

    return load_codec(model, device=device, dtype=dtype, revision=revision)


class _Terminated(BaseException):
    """SIGTERM, as an exception: half-written files are removed on its way out."""


def _terminate(signum: int, frame: object) -> NoReturn:
    raise _Terminated


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script `mimo-codec`: run a command, then exit."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = int(app(arguments, prog_name="mimo-codec", standalone_mode=False) or 0)
        sys.stdout.flush()
        return _fail("interrupted", code) if code == INTERRUPTED else code
    except UsageError as error:
        return _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    except MimoError as error:
        return _fail(error, 1 if isinstance(error, FilesFailed) else 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at its end goes nowhere
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error, 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except _Terminated:
        return _fail("terminated", TERMINATED)


def _fail(message: object, code: int) -> int:
    print_error(message)
    return code
