"""The commands `encode`, `decode` and `reconstruct`; `batch.py` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mimo_codec.audio.formats import AUDIO, WRITABLE
from mimo_codec.cli.console import print_line
from mimo_codec.cli.options import (
    BatchSeconds,
    Device,
    Dtype,
    Format,
    Model,
    NumQuantizers,
    Output,
    Overwrite,
    Revision,
    SkipExisting,
    Strict,
)
from mimo_codec.cli.pipes import PIPE, output_file
from mimo_codec.cli.plan import CODES, plan_jobs

if TYPE_CHECKING:
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.onnx.codec.runtime import OnnxCodec


def encode(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN", help="Audio files, or folders of them; - for standard input.")
    ],
    output: Output,
    num_quantizers: NumQuantizers = None,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_seconds: BatchSeconds = 120.0,
    strict: Strict = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
) -> None:
    """Encode audio files to .mimo files.

    One file is written to OUT, several into the folder OUT; folders are mirrored: IN/a/b.wav becomes OUT/a/b.mimo. A
    single - for IN or OUT is standard input or output.
    """
    with output_file(output, CODES[0], inputs) as output:
        plan = plan_jobs(inputs, output, AUDIO, CODES, overwrite=overwrite, skip_existing=skip_existing)
        from mimo_codec.cli.batch import encode_files

        encode_files(_load(model, revision, device, dtype), plan, num_quantizers, batch_seconds, overwrite)


def decode(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN", help=".mimo files, or folders of them; - for standard input.")
    ],
    output: Output,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_seconds: BatchSeconds = 120.0,
    format: Format = "wav",
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
) -> None:
    """Decode .mimo files to audio files.

    One file is written to OUT, whose suffix chooses the format; several into the folder OUT; folders are mirrored. A
    single - for IN or OUT is standard input or output, which gets audio in the format of --format.
    """
    suffix = f".{format}"
    with output_file(output, suffix, inputs) as output:
        plan = plan_jobs(
            inputs, output, CODES, WRITABLE, suffix=suffix, overwrite=overwrite, skip_existing=skip_existing
        )
        from mimo_codec.cli.batch import decode_files

        decode_files(_load(model, revision, device, dtype), plan, batch_seconds, overwrite)


def reconstruct(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Audio file, or folder of audio files; - for standard input.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="Audio file or folder to write; - for standard output.")],
    num_quantizers: NumQuantizers = None,
    model: Model = "nano",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_seconds: BatchSeconds = 120.0,
    format: Format = "wav",
    strict: Strict = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
) -> None:
    """Encode and decode audio files, to hear or measure the result.

    A folder is mirrored in the folder OUT. The outputs have the codec's sample rate and the lengths of the inputs. A
    single - for IN or OUT is standard input or output, which gets audio in the format of --format.
    """
    suffix, say = f".{format}", print_line if output == PIPE else print
    with output_file(output, suffix, [source]) as output:
        plan = plan_jobs(
            [source], output, AUDIO, WRITABLE, suffix=suffix, overwrite=overwrite, skip_existing=skip_existing
        )
        from mimo_codec.cli.batch import reconstruct_files

        reconstruct_files(_load(model, revision, device, dtype), plan, num_quantizers, batch_seconds, overwrite, say)


def _load(model: str, revision: str | None, device: str | None, dtype: str | None) -> MimoCodec | OnnxCodec:
    from mimo_codec.loading import load_codec

    return load_codec(model, device=device, dtype=dtype, revision=revision)
