"""A MimoCodec -> a folder of ONNX files."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mimo_codec import __version__
from mimo_codec.codec.model import MimoCodec
from mimo_codec.common.checks import check_integer
from mimo_codec.common.errors import MimoError
from mimo_codec.common.rounding import ceil_div
from mimo_codec.common.temporaries import temporary_name
from mimo_codec.onnx.codec.graphs import DecoderGraph, DecoderStepGraph, EncoderGraph, EncoderStepGraph
from mimo_codec.onnx.codec.metadata import DTYPES, GRAPHS
from mimo_codec.onnx.session import METADATA, NEW

OPSET = 20
"""The newest of which ONNX Runtime's CUDA provider has every operator that is used here."""
MAX_INLINE_BYTES = 2**30
"""Larger graphs keep their weights in a file beside them; one file can hold 2 GB."""
Check = Callable[[Path], None]


@dataclass(frozen=True)
class Graph:
    """One file: a module, inputs that show their types and ranks, and which sizes are free."""

    module: nn.Module
    inputs: Mapping[str, Any]
    """Name of each argument -> example; a dictionary of tensors is a state."""
    free: Mapping[str, Any]
    """Name of each argument -> {dimension: name}."""
    outputs: tuple[str, ...]
    """In front of the new state, if there is one."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The state among the inputs; empty where there is none."""
        return self.inputs.get("state", {})


def export_codec(
    codec: MimoCodec,
    folder: str | Path,
    *,
    num_quantizers: int | None = None,
    dtype: str = "float32",
    opset: int = OPSET,
    graphs: Sequence[str] | None = None,
    overwrite: bool = False,
    check: Check | None = None,
) -> list[Path]:
    """Write encoder.onnx and decoder.onnx, and the steps of streams where the codec streams exactly.

    graphs: some of "encoder", "encoder_step", "decoder", "decoder_step"; None: all that this codec has.
    num_quantizers: codebooks in the graphs; None: 8, or all if there are fewer. dtype: of encoder and decoder:
    float32; float16, the front end, quantization and inverse STFT still in float32; or int8, weights and products of
    their matrices (for CPUs).
    check: gets the folder before anything shows at its place; what it raises leaves nothing behind.
    Returns the files. Raises MimoError for an existing folder without `overwrite`, and for bad values.
    """
    require_exporter()
    folder = Path(folder)
    count = codec.check_num_quantizers(num_quantizers)
    check_integer("opset", opset, 18, 25)
    if dtype not in DTYPES:
        raise MimoError(f"dtype: {dtype!r} is not supported: {', '.join(DTYPES)}")
    made = codec_graphs(_converted(codec, dtype), count, graphs)
    metadata = describe(codec, count, dtype, list(made))
    with new_folder(folder, overwrite, GRAPHS) as temporary:
        for name, graph in made.items():
            write_graph(graph, temporary / f"{name}.onnx", {"graph": name, **metadata}, opset)
            if dtype == "int8":
                _quantize(temporary / f"{name}.onnx")
        if check is not None:
            check(temporary)
        names = sorted(path.name for path in temporary.iterdir())
    return [folder / name for name in names]


def require_exporter() -> None:
    """MimoError where what torch.onnx needs is not installed."""
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise MimoError("export needs the extra: pip install 'mimo-codec[onnx]'")


def describe(codec: MimoCodec, num_quantizers: int, dtype: str, graphs: list[str]) -> dict[str, Any]:
    """What every file says of itself; `export_id` tells which files belong together."""
    digest = hashlib.sha256(json.dumps([num_quantizers, dtype, codec.config.to_dict()]).encode())
    for name, value in codec.state_dict().items():
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return {
        "version": __version__,
        "export_id": digest.hexdigest()[:16],
        "model_id": codec.model_id,
        "config": codec.config.to_dict(defaults=True),
        "num_quantizers": num_quantizers,
        "dtype": dtype,
        "graphs": graphs,
        "decode_delay": codec.decoder.vocoder.delay if codec.decoder is not None else None,
        "licence": codec.config.source.get("license", "that of the weights"),
    }


def codec_graphs(codec: MimoCodec, num_quantizers: int, wanted: Sequence[str] | None = None) -> dict[str, Graph]:
    """The graphs that a codec has, by name; MimoError for one that is wanted and that it does not have."""
    makers: dict[str, Callable[[MimoCodec, int], Graph]] = {"encoder": _encoder}
    streams = codec.config.segment_seconds is None
    if streams and codec.config.streams_encode:
        makers["encoder_step"] = _encoder_step
    if codec.decoder is not None:
        makers["decoder"] = _decoder
        if streams and codec.config.streams_decode:
            makers["decoder_step"] = _decoder_step
    if unknown := sorted(set(wanted or ()) - set(makers)):
        raise MimoError(f"graphs: {', '.join(unknown)}: this codec has {', '.join(makers)}")
    return {name: make(codec, num_quantizers) for name, make in makers.items() if wanted is None or name in wanted}


def _encoder(codec: MimoCodec, num_quantizers: int) -> Graph:
    config = codec.config
    waveform = torch.zeros(2, 2 * config.samples_per_frame + config.mel.n_fft)
    lengths = torch.tensor([waveform.shape[1], config.samples_per_frame])
    return Graph(
        EncoderGraph(codec, num_quantizers),
        {"waveform": waveform, "lengths": lengths, "context": torch.zeros(2, dtype=torch.int64)},
        {"waveform": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}, "context": None},
        ("codes", "num_frames"),
    )


def _encoder_step(codec: MimoCodec, num_quantizers: int) -> Graph:
    module, mel = EncoderStepGraph(codec, num_quantizers), codec.config.mel
    num_hops = 3 * codec.config.mels_per_frame + 4 - codec.config.encoder.stride + ceil_div(mel.n_fft, mel.hop_length)
    state, free = _batched(module.initial_state())
    return Graph(
        module,
        {"waveform": torch.zeros(2, num_hops * mel.hop_length), "num_mels": torch.tensor(99), "state": state},
        {"waveform": {0: "batch", 1: "samples"}, "num_mels": None, "state": free},
        ("codes",),
    )


def _example_codes(num_quantizers: int) -> tuple[Tensor, dict[int, str]]:
    """Codes [2, q, 3], and what of their shape is free; one codebook is a size like any other to the exporter."""
    if num_quantizers == 1:
        return torch.zeros(2, 1, 3, dtype=torch.int64), {0: "batch", 2: "frames"}
    return torch.zeros(2, 2, 3, dtype=torch.int64), {0: "batch", 1: "codebooks", 2: "frames"}


def _decoder(codec: MimoCodec, num_quantizers: int) -> Graph:
    codes, free = _example_codes(num_quantizers)
    return Graph(
        DecoderGraph(codec, num_quantizers),
        {"codes": codes, "lengths": torch.tensor([3, 2])},
        {"codes": free, "lengths": {0: "batch"}},
        ("waveform", "num_samples"),
    )


def _decoder_step(codec: MimoCodec, num_quantizers: int) -> Graph:
    module = DecoderStepGraph(codec, num_quantizers)
    codes, free_codes = _example_codes(num_quantizers)
    state, free = _batched(module.initial_state())
    return Graph(
        module,
        {"codes": codes, "num_valid": torch.tensor(3), "state": state},
        {"codes": free_codes, "num_valid": None, "state": free},
        ("waveform",),
    )


def _batched(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state of batch 1 -> one of batch 2, and its free sizes."""
    two = {name: value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value for name, value in state.items()}
    return two, {name: {0: "batch"} if value.ndim else None for name, value in state.items()}


def _converted(codec: MimoCodec, dtype: str) -> MimoCodec:
    """A copy in evaluation mode on the CPU."""
    codec = copy.deepcopy(codec).cpu().float().eval()
    if dtype == "float16":
        codec.encoder.half()
        if codec.decoder is not None:
            codec.decoder.half()
    return codec.requires_grad_(False)


def write_graph(
    graph: Graph, path: Path, metadata: Mapping[str, Any], opset: int, fill: Callable[[Any], None] = lambda model: None
) -> None:
    """Trace a module and write it, its weights in a file of their own when they are large.

    fill: puts weights into the traced model that the module does not hold.
    """
    names = [*(name for name in graph.inputs if name != "state"), *graph.state]
    outputs = [*graph.outputs, *(NEW + name for name in graph.state)]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            kwargs=dict(graph.inputs),
            dynamic_shapes=dict(graph.free),
            input_names=names,
            output_names=outputs,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    fill(program.model)
    size = sum({value.data_ptr(): value.nbytes for value in graph.module.state_dict().values()}.values())
    program.save(str(path), external_data=size > MAX_INLINE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exports and quantizes.

    It tells what it does not find, such as torchvision, and warns of its own workings; where nobody has set logging
    up, its first words would do that for the whole program.
    """
    root, placeholder = logging.getLogger(), logging.NullHandler()
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    root.addHandler(placeholder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
        root.removeHandler(placeholder)


def _quantize(path: Path) -> None:
    """Matrices of the networks to 8 bits; not those of the Fourier transforms, the mel filters and the codebooks."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path, load_external_data=False)
    kept = [node.name for node in model.graph.node if node.op_type == "MatMul" and not _is_of_network(node)]
    weights = path.with_name(f"{path.name}.data")
    with TemporaryDirectory(dir=path.parent) as folder, _quiet():
        quantize_dynamic(
            path,
            Path(folder) / path.name,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            nodes_to_exclude=kept,
            weight_type=QuantType.QInt8,
            use_external_data_format=weights.exists(),
        )
        weights.unlink(missing_ok=True)
        for written in Path(folder).iterdir():
            os.replace(written, path.with_name(written.name))


def _is_of_network(node: Any) -> bool:
    scopes = " ".join(entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes")
    return not any(part in scopes for part in ("fourier", "mel", "quantizer", "head"))


@contextmanager
def new_folder(folder: Path, overwrite: bool, graphs: Iterable[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` whose files take their places there when the block ends well.

    graphs: all that an export of this kind may hold; those of an older one that are not written again are removed, and
    nothing else. When the block raises, nothing is left, new parents of `folder` neither. Raises MimoError when
    `folder` holds anything and `overwrite` is False.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise MimoError(f"{folder} already exists; pass overwrite=True (--overwrite)")
    # Inside a folder that exists: it may be a place of its own, such as a mounted one, into which nothing can be moved.
    temporary = temporary_name(folder if folder.is_dir() else folder.parent)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        temporary.mkdir(parents=True)
        yield temporary
        folder.mkdir(exist_ok=True)
        names = {path.name for path in temporary.iterdir()}
        for name in names:
            os.replace(temporary / name, folder / name)
        for old in {f"{graph}.onnx{suffix}" for graph in graphs for suffix in ("", ".data")} - names:
            (folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise MimoError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for path in created:
            with suppress(OSError):  # it holds something
                path.rmdir()
