"""Speed of a codec by PyTorch, eager and compiled, and by ONNX Runtime: `python -m mimo_codec.onnx.benchmark`.

Every column is measured in a process of its own, one after the other, on the same speech and number of threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from mimo_codec.benchmark import SAMPLE_RATE, make_speech, print_table
from mimo_codec.errors import MimoError

if TYPE_CHECKING:
    from mimo_codec.codec import MimoCodec

RUNTIMES = ("eager", "compiled", "float32", "int8")
"""By PyTorch, and by ONNX Runtime in two precisions."""
Times = tuple[list[float], list[float] | None]
"""Seconds of each encoding and decoding; None where a part is left out."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def speed(
    model: Annotated[
        str, typer.Argument(help="Preset with random weights (mimo, small), or a trained model.")
    ] = "nano",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the audio.")] = 10.0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs, after two that are not.")] = 5,
    decode: Annotated[bool, typer.Option(help="Measure the decoder too.")] = True,
    runtimes: Annotated[str, typer.Option(help="Of eager, compiled, float32 and int8.")] = ",".join(RUNTIMES),
) -> None:
    """Realtime factors (lower is better): eager and compiled PyTorch, ONNX Runtime in float32 and int8."""
    names = runtimes.split(",")
    if unknown := sorted(set(names) - set(RUNTIMES)):
        raise MimoError(f"--runtimes: {', '.join(unknown)}: there is {', '.join(RUNTIMES)}")
    print(f"{model}: {seconds:g} s of audio, {threads} threads, best and median of {repeats}")
    rows = []
    with TemporaryDirectory() as folder:
        for name in names:
            encode, decoded = _alone(_measure, name, model, Path(folder) / name, seconds, threads, repeats, decode)
            cells = [f"{value / seconds:.4f}" for value in (min(encode), median(encode))]
            if decoded is not None:
                cells += [f"{value / seconds:.4f}" for value in (min(decoded), median(decoded))]
            rows.append([name, *cells])
    header = ("runtime", "encode min", "encode median", "decode min", "decode median")
    print_table(header[: len(rows[0])], rows)


def _alone(function: Callable[..., Times], *arguments: Any) -> Times:
    """In a process of its own; export is another, as its memory is not that of what runs."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        name, model, folder = arguments[:3]
        if name in ("float32", "int8"):
            pool.apply(_export, (model, folder, name))
        return pool.apply(function, arguments)


def _load(model: str) -> MimoCodec:
    import torch

    from mimo_codec.codec import MimoCodec
    from mimo_codec.config import PRESETS, CodecConfig

    torch.manual_seed(0)
    if model in ("mimo", "small") and model in PRESETS:
        return MimoCodec(CodecConfig.preset(model)).eval()
    return MimoCodec.from_pretrained(model, device="cpu")


def _export(model: str, folder: Path, dtype: str) -> None:
    from mimo_codec.onnx.export import export_codec

    export_codec(_load(model), folder, dtype=dtype, graphs=("encoder", "decoder"))


def _measure(name: str, model: str, folder: Path, seconds: float, threads: int, repeats: int, decode: bool) -> Times:
    waveform = np.concatenate(list(make_speech(seconds, SAMPLE_RATE)))
    if name in ("float32", "int8"):
        from mimo_codec.onnx.runtime import OnnxCodec

        exported = OnnxCodec(folder, ["cpu"], num_threads=threads)
        codes, times = _time(lambda: exported.encode(waveform, SAMPLE_RATE), repeats)
        return times, _time(lambda: exported.decode(codes), repeats)[1] if decode else None
    import torch

    torch.set_num_threads(threads)
    codec, speech = _load(model), torch.from_numpy(waveform)
    if name == "eager":
        codes, times = _time(lambda: codec.encode(speech, SAMPLE_RATE), repeats)
        return times, _time(lambda: codec.decode(codes), repeats)[1] if decode else None
    from mimo_codec.onnx.graphs import DecoderGraph, EncoderGraph

    length, alone = torch.tensor([len(speech)]), torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        encoder = torch.compile(EncoderGraph(codec, min(8, codec.num_quantizers)))
        (ids, num_frames), times = _time(lambda: encoder(speech[None], length, alone), repeats)
        if not decode:
            return times, None
        decoder = torch.compile(DecoderGraph(codec, ids.shape[1]))
        return times, _time(lambda: decoder(ids, num_frames), repeats)[1]


def _time(function: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """What it returns, and the seconds of every call after the first two."""
    times, value = [], None
    for _ in range(2 + repeats):
        started = perf_counter()
        value = function()
        times.append(perf_counter() - started)
    return value, times[2:]


def main() -> None:
    """Run the command line; bad input ends it with one line and status 1."""
    try:
        app()
    except MimoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
