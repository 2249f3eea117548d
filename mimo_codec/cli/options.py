"""Options that several commands share."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from mimo_codec.common.errors import DamageWarning

Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="OUT", help="File to write, or folder for several files; - for standard output."
    ),
]
NumQuantizers = Annotated[
    int | None,
    typer.Option("--num-quantizers", "-q", help="Number of codebooks to use; models with fewer use all.  [default: 8]"),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Shipped name, folder (of an exported codec too) or Hugging Face hub id."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.", show_default=False)]
Device = Annotated[
    str | None, typer.Option(help="Device to compute on, such as cpu or cuda:1.  [default: cuda if there is one]")
]
Dtype = Annotated[str | None, typer.Option(help="Precision: float32, bfloat16 or float16.  [default: float32]")]
BatchSeconds = Annotated[
    float, typer.Option(help="Seconds of audio in a batch; longer files are processed alone, in bounded memory.")
]
Format = Annotated[str, typer.Option(help="Format of the audio files in a folder: wav, flac, ogg, opus or mp3.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Keep outputs that exist, and make the others: goes on after a stop.")
]


def _make_strict(strict: bool) -> bool:
    if strict:
        warnings.simplefilter("error", DamageWarning)
    return strict


Strict = Annotated[
    bool, typer.Option(help="Refuse audio that is cut short or damaged, instead of a warning.", callback=_make_strict)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
