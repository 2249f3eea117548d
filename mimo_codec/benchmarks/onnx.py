"""Speed of a codec by PyTorch, eager and compiled, and by ONNX Runtime: `python -m mimo_codec.benchmarks.onnx`.

Every column is measured in a process of its own, one after the other, on the same speech and number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from mimo_codec.benchmarks.codec import SAMPLE_RATE
from mimo_codec.benchmarks.shared import make_speech, parse_numbers, print_table, run_app
from mimo_codec.common.checks import require

if TYPE_CHECKING:
    from torch import Tensor

    from mimo_codec.codec.model import MimoCodec

RUNTIMES = ("eager", "compiled", "float32", "int8")
"""PyTorch in two ways, and ONNX Runtime in two precisions."""
Times = tuple[list[float], list[float] | None]
"""Seconds of each run of the encoder and of the decoder; None if the decoder is left out."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def speed(
    model: Annotated[
        str, typer.Argument(help="Preset with random weights (mimo, small), or a trained model.")
    ] = "nano",
    seconds: Annotated[str, typer.Option(help="Lengths of the audio in seconds, separated by commas.")] = "1,10",
    threads: Annotated[int, typer.Option(min=1, help="Number of threads.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Number of timed runs, after two that are not timed.")] = 5,
    decode: Annotated[bool, typer.Option(help="Measure the decoder too.")] = True,
    runtimes: Annotated[str, typer.Option(help="Any of eager, compiled, float32 and int8.")] = ",".join(RUNTIMES),
) -> None:
    """Print realtime factors (lower is better): eager and compiled PyTorch, ONNX Runtime in float32 and int8."""
    names = runtimes.split(",")
    unknown = ", ".join(sorted(set(names) - set(RUNTIMES)))
    require(not unknown, f"--runtimes: {unknown} is not known; choose some of {', '.join(RUNTIMES)}")
    lengths = parse_numbers("--seconds", seconds)
    print(f"{model}: {threads} threads, best and median of {repeats}, seconds for a second of audio")
    rows = []
    with TemporaryDirectory() as folder:
        for name in names:
            measured = _alone(_measure, name, model, Path(folder) / name, lengths, threads, repeats, decode)
            rows += [_row(name, length, times) for length, times in zip(lengths, measured, strict=True)]
    header = ("runtime", "seconds", "encode min", "encode median", "decode min", "decode median")
    print_table(header[: len(rows[0])], sorted(rows, key=lambda row: float(row[1])))


def _row(name: str, length: float, times: Times) -> list[str]:
    cells = [f"{value / length:.4f}" for part in times if part is not None for value in (min(part), median(part))]
    return [name, f"{length:g}", *cells]


def _alone(function: Callable[..., list[Times]], *arguments: Any) -> list[Times]:
    """Run a function in a process of its own, after the export, if there is one, in another process."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        name, model, folder = arguments[:3]
        if name in ("float32", "int8"):
            pool.apply(_export, (model, folder, name))
        return pool.apply(function, arguments)


def _load(model: str) -> MimoCodec:
    import torch

    from mimo_codec.codec.config import CodecConfig
    from mimo_codec.codec.model import MimoCodec
    from mimo_codec.codec.presets import PRESETS

    torch.manual_seed(0)
    if model in ("mimo", "small") and model in PRESETS:
        return MimoCodec(CodecConfig.preset(model)).eval()
    return MimoCodec.from_pretrained(model, device="cpu")


def _export(model: str, folder: Path, dtype: str) -> None:
    from mimo_codec.onnx.codec.export import export_codec

    export_codec(_load(model), folder, dtype=dtype, graphs=("encoder", "decoder"))


def _measure(
    name: str, model: str, folder: Path, lengths: list[float], threads: int, repeats: int, decode: bool
) -> list[Times]:
    """Measure one runtime for each length of audio."""
    encoder, decoder = _runtime(name, model, folder, threads)
    measured: list[Times] = []
    for length in lengths:
        waveform = np.concatenate(list(make_speech(length, SAMPLE_RATE)))
        codes, times = _time(partial(encoder, waveform), repeats)
        measured.append((times, _time(partial(decoder, codes), repeats)[1] if decode else None))
    return measured


def _runtime(name: str, model: str, folder: Path, threads: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Load a model in a runtime -> functions from waveform to codes and from codes to waveform."""
    if name in ("float32", "int8"):
        from mimo_codec.onnx.codec.runtime import OnnxCodec

        exported = OnnxCodec(folder, ["cpu"], num_threads=threads)
        return partial(exported.encode, sample_rate=SAMPLE_RATE), exported.decode
    import torch

    torch.set_num_threads(threads)
    codec = _load(model)
    if name == "eager":
        return partial(codec.encode, sample_rate=SAMPLE_RATE), codec.decode
    from mimo_codec.onnx.codec.graphs import DecoderGraph, EncoderGraph

    count, alone = min(8, codec.num_quantizers), torch.zeros(2, dtype=torch.int64)
    encoder, decoder = torch.compile(EncoderGraph(codec, count)), torch.compile(DecoderGraph(codec, count))

    def encode(waveform: np.ndarray) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            found: tuple[Tensor, ...] = encoder(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]), alone)
            return found

    def decode(codes: tuple[Tensor, ...]) -> Tensor:
        with torch.inference_mode():
            waveform: Tensor = decoder(*codes)
            return waveform

    return encode, decode


def _time(function: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """Call a function again and again -> its value, and the seconds of every call after the first two."""
    times, value = [], None
    for _ in range(2 + repeats):
        started = perf_counter()
        value = function()
        times.append(perf_counter() - started)
    return value, times[2:]


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
