"""The command `merge`: a language model and its adapter -> a language model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mimo_codec.cli.console import print_line, printable
from mimo_codec.cli.plan import check_not_read
from mimo_codec.common.checks import require


def merge(
    model: Annotated[str, typer.Argument(help="Folder or hub id of the language model.")],
    adapter: Annotated[Path, typer.Argument(help="Folder of an adapter that was trained for it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the merged model.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16, of the result.  [default: as in the files]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that has files.")] = False,
) -> None:
    """Make an adapter a part of its language model.

    The merged model has the released layout and is loaded like any other.
    """
    from mimo_codec.lm import MimoAudioLM

    is_new = not output.exists() or (output.is_dir() and (overwrite or not any(output.iterdir())))
    require(is_new, f"{output} already exists; pass --overwrite")
    check_not_read(output, (os.path.expanduser(model), adapter))
    lm = MimoAudioLM.from_pretrained(model, device="cpu", dtype=dtype, adapter=adapter)
    lm.merge_adapter()
    lm.save_pretrained(output)
    print_line(f"{printable(str(output))}: {model} with the adapter {printable(str(adapter))}")
