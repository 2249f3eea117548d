"""Speed and memory of codecs on the CPU: `python -m mimo_codec.benchmarks.codec speed|memory|stream`.

Everything is measured in processes of its own, so that their memory is separate and the number of threads is fixed. The
process that starts them never imports torch: on Linux the peak memory of a child begins at that of its parent.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory, TemporaryFile
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import numpy as np
import soundfile as sf
import typer

from mimo_codec.benchmarks.shared import make_speech, parse_numbers, print_table, run_app
from mimo_codec.common.checks import require, wrap_errors
from mimo_codec.common.errors import MimoError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mimo_codec.codec.config import CodecConfig
    from mimo_codec.codec.model import MimoCodec

Result = TypeVar("Result")

SAMPLE_RATE = 24000
"""Rate of the waveforms that `speed` codes, which is that of every codec it knows."""
FILE_RATE = 16000
"""Rate of the files that `memory` codes; it differs from the codecs' rate, so that resampling is included."""
NUM_QUANTIZERS = 8
CHUNK_SECONDS = 0.04
EDGE_SECONDS = 10.0
"""Length of a stream's start and end, whose costs are shown separately."""
RIVALS = ("mimi", "encodec")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one of ru_maxrss

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__
)
Threads = Annotated[int, typer.Option(min=1, help="Number of threads for torch.")]


def main() -> None:
    """Run the command line."""
    run_app(app)


# ---- speed -----------------------------------------------------------------------------------------------------------


class CodecRun(NamedTuple):
    """One run of encoding and decoding; times in seconds of compute per second of audio."""

    encode: float
    decode: float
    num_parameters: int
    peak_bytes: int
    """Peak memory of the process so far."""


@app.command()
def speed(
    models: Annotated[
        str, typer.Option(help="mimo, mimi or encodec (random weights), or names or folders of trained models.")
    ] = "mimo,nano,mimi,encodec",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the audio in seconds.")] = 10.0,
    threads: Threads = 2,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed runs of each model, after one that is not timed.")
    ] = 3,
) -> None:
    """Print realtime factors (lower is better), parameters and peak memory; models take turns in every repeat."""
    names = list(dict.fromkeys(models.split(",")))
    for name in names:
        can_run = name not in RIVALS or find_spec("transformers") is not None
        require(can_run, f"{name}: transformers is not installed: pip install 'mimo-codec[lm]'")
    runs: dict[str, list[CodecRun]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(threads)) for name in names}
        for repeat in range(1 + repeats):
            for name, worker in workers.items():
                run = _ask(worker, _run_codec, name, seconds)
                if repeat > 0:  # the first run builds the model and warms up
                    runs[name].append(run)
    print(f"{seconds:g} s of audio, {threads} threads, {repeats} repeats, float32, torch {version('torch')}")
    print("encode, decode: seconds of compute per second of audio")
    header = ("model", "parameters (M)", "encode min", "encode median", "decode min", "decode median", "peak (MB)")
    print_table(header, [_speed_row(name, runs[name]) for name in names])


def _speed_row(name: str, runs: Sequence[CodecRun]) -> list[str]:
    encode, decode = [run.encode for run in runs], [run.decode for run in runs]
    times = (min(encode), median(encode), min(decode), median(decode))
    size, peak = runs[-1].num_parameters / 1e6, runs[-1].peak_bytes / 1e6
    return [name, f"{size:.1f}", *(f"{time:.4f}" for time in times), f"{peak:.0f}"]


class Subject(NamedTuple):
    """A codec under test."""

    encode: Callable[[Tensor], Any]
    """Function from a waveform [S] float32 at SAMPLE_RATE to its codes."""
    decode: Callable[[Any], Tensor]
    num_parameters: int
    """Number of trained weights, without codebooks."""


def _run_codec(name: str, seconds: float) -> CodecRun:
    """Encode and decode once; runs in a worker."""
    import torch

    codec = _load_subject(name)
    waveform = torch.from_numpy(np.concatenate(list(make_speech(seconds, SAMPLE_RATE))))
    with torch.no_grad():
        start = perf_counter()
        codes = codec.encode(waveform)
        middle = perf_counter()
        codec.decode(codes)
        end = perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    return CodecRun((middle - start) / seconds, (end - middle) / seconds, codec.num_parameters, peak)


@cache
def _load_subject(name: str) -> Subject:
    import torch

    torch.manual_seed(0)
    if name == "mimi":
        return _mimi()
    if name == "encodec":
        return _encodec()
    if name == "mimo":
        from mimo_codec.codec.config import CodecConfig

        return _own(_random_codec(CodecConfig.preset(name)))
    return _own(_load_codec(name))


def _random_codec(config: CodecConfig) -> MimoCodec:
    """Make a codec with random weights and codebooks."""
    from mimo_codec.codec.model import MimoCodec

    return MimoCodec(config).eval()


@cache
def _load_codec(name: str) -> MimoCodec:
    from mimo_codec.codec.model import MimoCodec

    return MimoCodec.from_pretrained(name, device="cpu")


def _own(codec: MimoCodec) -> Subject:
    num_quantizers = min(NUM_QUANTIZERS, codec.num_quantizers)
    return Subject(lambda x: codec.encode(x, SAMPLE_RATE, num_quantizers), codec.decode, _count_parameters(codec))


def _mimi() -> Subject:
    from transformers import MimiConfig, MimiModel

    model = MimiModel(MimiConfig()).eval()
    _randomize_codebooks(model)
    return Subject(
        lambda x: model.encode(x[None, None], num_quantizers=NUM_QUANTIZERS).audio_codes,
        lambda codes: model.decode(codes).audio_values[0, 0],
        _count_parameters(model),
    )


def _encodec() -> Subject:
    from transformers import EncodecConfig, EncodecModel

    model = EncodecModel(EncodecConfig()).eval()
    _randomize_codebooks(model)
    return Subject(
        lambda x: model.encode(x[None, None], bandwidth=6.0),
        lambda encoded: model.decode(encoded.audio_codes, encoded.audio_scales).audio_values[0, 0],
        _count_parameters(model),
    )


def _randomize_codebooks(model: nn.Module) -> None:
    """Fill codebooks, which transformers initializes to zero, with random entries."""
    for name, buffer in model.named_buffers():
        if name.endswith((".embed", ".embed_sum")):
            buffer.normal_()


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---- memory ----------------------------------------------------------------------------------------------------------


@app.command()
def memory(
    model: Annotated[str, typer.Option(help="Name or folder of a trained model.")] = "nano",
    minutes: Annotated[str, typer.Option(help="Lengths of the files in minutes, separated by commas.")] = "5,60",
) -> None:
    """Print the peak memory of encoding and decoding files of these lengths with the command line."""
    lengths = sorted(parse_numbers("--minutes", minutes))
    peaks = [_file_peaks(model, length) for length in lengths]
    print("peak memory in MB of `mimo-codec encode` (16 kHz wav) and `mimo-codec decode`")
    rows = [[f"{n:g} min", *(f"{peak / 1e6:.0f}" for peak in pair)] for n, pair in zip(lengths, peaks, strict=True)]
    ratios = [f"{longest / shortest:.2f}" for longest, shortest in zip(peaks[-1], peaks[0], strict=True)]
    print_table(("length", "encode", "decode"), [*rows, ["longest/shortest", *ratios]])


def _file_peaks(model: str, minutes: float) -> tuple[int, int]:
    """Measure the peak bytes of encoding a file of this length, and of decoding the result."""
    with TemporaryDirectory() as folder:
        wav, mimo, decoded = (str(Path(folder, name)) for name in ("speech.wav", "speech.mimo", "decoded.wav"))
        with sf.SoundFile(wav, "w", FILE_RATE, channels=1, subtype="PCM_16") as file:
            for block in make_speech(60 * minutes, FILE_RATE):
                file.write(block)
        options = ("--model", model, "--device", "cpu")
        encode = _command_peak("encode", wav, "-o", mimo, *options)
        return encode, _command_peak("decode", mimo, "-o", decoded, *options)


def _command_peak(*arguments: str) -> int:
    """Measure the peak bytes of a process that runs `mimo-codec ARGUMENTS`; MimoError when it fails."""
    with TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", "mimo_codec", *arguments], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), f"status {process.returncode}")
            raise MimoError(f"mimo-codec {arguments[0]} failed: {reason.strip()}")
    return usage.ru_maxrss * _RSS_UNIT


# ---- stream ----------------------------------------------------------------------------------------------------------


class StreamCost(NamedTuple):
    """Seconds of compute per second of audio, of a whole stream and of its first and last EDGE_SECONDS."""

    whole: float
    first: float
    last: float


class StreamRun(NamedTuple):
    """Costs of one stream in both directions, and the codec's latencies in seconds."""

    encode: StreamCost
    decode: StreamCost
    encode_latency: float
    decode_latency: float


@app.command()
def stream(
    model: Annotated[str, typer.Option(help="Name or folder of a trained model that streams.")] = "nano",
    seconds: Annotated[str, typer.Option(help="Lengths of the streams in seconds, separated by commas.")] = "10,600",
    threads: Threads = 2,
) -> None:
    """Print the cost of streaming in chunks of 40 ms (encode) and of one frame (decode), also at start and end."""
    lengths = parse_numbers("--seconds", seconds)
    with _worker(threads) as worker:
        _ask(worker, _run_stream, model, 1.0)  # warms up
        runs = [_ask(worker, _run_stream, model, length) for length in lengths]
    print(f"model {model}, {threads} threads; seconds of compute per second of audio")
    header = ("stream", "direction", "whole", f"first {EDGE_SECONDS:g} s", f"last {EDGE_SECONDS:g} s", "latency (ms)")
    rows = []
    for length, run in zip(lengths, runs, strict=True):
        directions = (("encode", run.encode, run.encode_latency), ("decode", run.decode, run.decode_latency))
        for direction, cost, latency in directions:
            rows.append([f"{length:g} s", direction, *(f"{c:.4f}" for c in cost), f"{1000 * latency:.0f}"])
        both = (sum(pair) for pair in zip(run.encode, run.decode, strict=True))
        rows.append([f"{length:g} s", "both", *(f"{cost:.4f}" for cost in both), ""])
    print_table(header, rows)


def _run_stream(model: str, seconds: float) -> StreamRun:
    """Stream once in each direction; runs in a worker."""
    import torch

    codec = _load_codec(model)
    speech = [torch.from_numpy(block) for block in make_speech(seconds, codec.sample_rate, CHUNK_SECONDS)]
    times, codes = _drive(codec.encode_chunk, speech)
    encode = _stream_cost(times, CHUNK_SECONDS)
    times, _ = _drive(codec.decode_chunk, torch.cat(codes, dim=1).split(1, dim=1))
    decode = _stream_cost(times, 1 / codec.frame_rate)
    return StreamRun(encode, decode, codec.encode_latency, codec.decode_latency)


def _drive(step: Callable[..., tuple[Tensor, Any]], chunks: Sequence[Tensor]) -> tuple[list[float], list[Tensor]]:
    """Feed a whole stream -> seconds of compute and output of every chunk."""
    state, times, outputs = None, [], []
    for index, chunk in enumerate(chunks):
        start = perf_counter()
        output, state = step(chunk, state, last=index == len(chunks) - 1)
        times.append(perf_counter() - start)
        outputs.append(output)
    return times, outputs


def _stream_cost(times: Sequence[float], chunk_seconds: float) -> StreamCost:
    edge = max(1, round(EDGE_SECONDS / chunk_seconds))
    return StreamCost(*(mean(part) / chunk_seconds for part in (times, times[:edge], times[-edge:])))


# ---- processes -------------------------------------------------------------------------------------------------------


def _worker(threads: int) -> ProcessPoolExecutor:
    """Start a process that runs one function at a time, with this number of threads."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_set_threads, initargs=(threads,))


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _ask(worker: ProcessPoolExecutor, function: Callable[..., Result], name: str, seconds: float) -> Result:
    """Call `function(name, seconds)` in a worker; MimoError when its process dies."""
    with wrap_errors(f"{name}: its process was ended, most likely for lack of memory", BrokenProcessPool):
        return worker.submit(function, name, seconds).result()


if __name__ == "__main__":
    main()
