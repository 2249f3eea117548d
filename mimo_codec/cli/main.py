"""The command line `mimo-codec`: the table of commands, and errors as one line and an exit code.

Exit codes: 0 done, 1 some of many files failed, 2 nothing could be done, 130 and 143 interrupted and terminated. Every
command is a plain function in a file of its own and is registered here. Modules that need torch are imported inside the
functions, so that help and errors in arguments appear quickly.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from mimo_codec import __version__
from mimo_codec.cli.coding import decode, encode, reconstruct
from mimo_codec.cli.console import FilesFailed, print_error, print_line
from mimo_codec.cli.corpus import corpus
from mimo_codec.cli.data import data
from mimo_codec.cli.demo import demo
from mimo_codec.cli.evaluate import evaluate
from mimo_codec.cli.evaluate_lm import evaluate_lm
from mimo_codec.cli.export import export
from mimo_codec.cli.generate import generate
from mimo_codec.cli.info import info
from mimo_codec.cli.merge import merge
from mimo_codec.cli.models import models
from mimo_codec.cli.train import train
from mimo_codec.common.errors import MimoError, MimoWarning

COMMANDS = (encode, decode, reconstruct, evaluate, info, models, merge, demo)
"""Functions that are commands of the same name."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})(train)
app.add_typer(data, name="data")
app.add_typer(corpus, name="corpus")
app.add_typer(evaluate_lm, name="evaluate-lm")
app.add_typer(generate, name="generate", help="Transcribe, speak and answer with a language model.")
app.add_typer(export, name="export", help="Write models as ONNX files and compare them with PyTorch.")

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer has a name for its subclass only


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


class _Terminated(BaseException):
    """SIGTERM as an exception, so that half-written files are removed on its way out."""


def _terminate(signum: int, frame: object) -> NoReturn:
    raise _Terminated


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script `mimo-codec`: run a command, then exit."""
    _fill_closed_streams()
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that it does not know are escaped
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        code = _run(arguments)
    sys.exit(code)


def _fill_closed_streams() -> None:
    """Give the numbers of closed standard streams to nothing, or the next files that are opened would get them.

    Python has None in their places. A `print` to stderr would then go to stdout.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)


def _show_warning(others: Callable[..., None], message: Warning, category: type[Warning], *place: Any) -> None:
    """Print warnings of this package as one line; leave those of others to what was there."""
    if issubclass(category, MimoWarning):
        print_line(f"warning: {message}")
    else:
        others(message, category, *place)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = int(app(arguments, prog_name="mimo-codec", standalone_mode=False) or 0)
        if sys.stdout is not None:  # it is closed
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
