"""The commands `export ...`, which write models as ONNX files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mimo_codec.cli.console import print_line
from mimo_codec.cli.options import Overwrite, Revision
from mimo_codec.cli.plan import check_not_read

export = typer.Typer(rich_markup_mode=None)

Folder = Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")]
Opset = Annotated[int, typer.Option(help="ONNX opset; older runtimes need a lower one.")]
Check = Annotated[bool, typer.Option(help="Compare with PyTorch on speech; nothing is written if this fails.")]


@export.command()
def codec(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Shipped name, folder or Hugging Face hub id.")],
    output: Folder,
    dtype: Annotated[str, typer.Option(help="float32, float16 (for GPUs) or int8 (for CPUs).")] = "float32",
    num_quantizers: Annotated[
        int | None,
        typer.Option(
            "--num-quantizers", "-q", help="Codebooks in the graphs, all of a model with fewer.  [default: 8]"
        ),
    ] = None,
    opset: Opset = 20,
    check: Check = True,
    revision: Revision = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a codec: encoder.onnx and decoder.onnx, and a step of each where the codec streams exactly.

    `mimo_codec.onnx.OnnxCodec` runs them without PyTorch; docs/onnx.md says how others do.
    """
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.onnx.codec.check import check_codec
    from mimo_codec.onnx.codec.export import export_codec

    check_not_read(Path(output), [os.path.expanduser(model)])
    loaded = MimoCodec.from_pretrained(model, device="cpu", revision=revision)

    def compare(folder: Path) -> None:
        check_codec(loaded, folder)

    written = export_codec(
        loaded,
        output,
        num_quantizers=num_quantizers,
        dtype=dtype,
        opset=opset,
        overwrite=overwrite,
        check=compare if check else None,
    )
    _list(written)


@export.command()
def lm(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Language model: folder or Hugging Face hub id.")],
    output: Folder,
    dtype: Annotated[
        str, typer.Option(help="float32, float16 (for GPUs) or int4 (weights of the layers).")
    ] = "float32",
    opset: Opset = 20,
    check: Check = True,
    revision: Revision = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a language model: backbone.onnx and patch_step.onnx, with its tokenizer and instructions.

    `mimo_codec.onnx.OnnxAudioLM` generates with them without PyTorch.
    """
    from mimo_codec.lm import MimoAudioLM
    from mimo_codec.onnx.lm.check import check_lm
    from mimo_codec.onnx.lm.export import export_lm

    check_not_read(Path(output), [os.path.expanduser(model)])
    loaded = MimoAudioLM.from_pretrained(model, device="cpu", revision=revision)

    def compare(folder: Path) -> None:
        check_lm(loaded, folder)

    written = export_lm(loaded, output, dtype=dtype, opset=opset, overwrite=overwrite, check=compare if check else None)
    _list(written)


def _list(written: list[Path]) -> None:
    for path in written:
        print_line(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
