"""Sessions of ONNX Runtime: which provider runs a graph, what the graph is of, and tensors that stay on the device."""

from __future__ import annotations

import copyreg
import importlib.metadata
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mimo_codec.common.checks import check_integer
from mimo_codec.common.errors import MimoError
from mimo_codec.onnx.cuda_graphs import Recordings, Tensors
from mimo_codec.onnx.initializers import check_weights

logger = logging.getLogger("mimo_codec.onnx")
CUDA = "CUDAExecutionProvider"
PROVIDERS = ("TensorrtExecutionProvider", CUDA, "CPUExecutionProvider")
"""Tried in this order."""
Provider = str | tuple[str, Mapping[str, Any]]
"""A name, or with it options, as ONNX Runtime takes them: ("cuda", {"device_id": 1})."""
METADATA = "mimo_codec"
"""Key of the JSON object inside every exported file."""
NEW = "new."
"""Prefix of outputs that are a state's next value."""
PAST = "past"
"""Size of a state that begins empty and grows."""
RECORDED = ("encoder_step", "decoder_step", "patch_step")
"""Graphs that `cuda_graphs` records: their sizes come again and again, those of a patch's steps with every patch. Not
the backbone: its past grows with every position, so that hardly a run has the sizes of another."""
OLDEST_RECORDING = (1, 31)
"""Before this version of onnxruntime, at the latest, replays may join (Concat) with lengths from host memory that other
runs have taken: https://github.com/microsoft/onnxruntime/pull/32121"""


def import_runtime() -> ModuleType:
    """Import the module onnxruntime; MimoError without it, and where two builds of it overwrite each other."""
    builds = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(builds) == 2:
        raise MimoError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall -y onnxruntime"
            " onnxruntime-gpu, then install the one for this machine"
        )
    try:
        import onnxruntime
    except ImportError:
        raise MimoError("ONNX Runtime is needed: pip install onnxruntime, or onnxruntime-gpu") from None
    copyreg.pickle(onnxruntime.OrtValue, _as_array)  # it has no way of its own, and states hold such values
    return onnxruntime


def _as_array(value: Any) -> tuple[Any, tuple[Any]]:
    return np.asarray, (value.numpy(),)


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def choose_providers(wanted: Sequence[Provider] | None, available: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Providers to try, in order, with their options.

    Those asked for ("cuda" or "CUDAExecutionProvider"), or all known that are there. Raises MimoError for one that this
    runtime has not, and for what is no list of providers.
    """
    if wanted is None:
        return [(name, {}) for name in PROVIDERS if name in available]
    if not isinstance(wanted, (list, tuple)) or not wanted:
        raise MimoError(f"providers: a list is needed, such as ['cuda'] or ['cpu'], not {wanted!r}")
    chosen = []
    for item in wanted:
        name, options = item if isinstance(item, tuple) and len(item) == 2 else (item, {})
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise MimoError(f"providers: {item!r} is neither a name nor a pair of a name and its options")
        found = [a for a in available if name.lower() in (a.lower(), a.lower().removesuffix("executionprovider"))]
        if not found:
            raise MimoError(f"providers: {name} is not in this onnxruntime; it has {', '.join(available)}")
        chosen += [(a, dict(options)) for a in found]
    return chosen


def _load_cuda(runtime: Any) -> None:
    """Load CUDA and cuDNN from where pip puts them, which no loader searches.

    Where they are missing it prints so, and the system's own may do all the same: nothing for standard output.
    """
    if hasattr(runtime, "preload_dlls"):  # from 1.21 on
        with redirect_stdout(StringIO()) as said:
            runtime.preload_dlls(directory="")
        logger.debug("%s", said.getvalue())


class Session:
    """One exported graph, loaded."""

    def __init__(
        self,
        path: Path,
        providers: Sequence[Provider] | None = None,
        num_threads: int | None = None,
        cuda_graphs: bool = False,
    ):
        """num_threads: on the CPU; None for as many as there are cores. cuda_graphs: replay what RECORDED names.

        Raises MimoError for files that are missing, are no graph of this project, or that this runtime cannot load, and
        for cuda_graphs without CUDA.
        """
        if not os.path.isfile(path):
            raise MimoError(f"{path}: there is no such file; mimo-codec export writes it")
        self._made_of = (path, providers, num_threads, cuda_graphs)
        runtime = import_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            options.intra_op_num_threads = check_integer("num_threads", num_threads, 1, 1024)
        available, records = runtime.get_available_providers(), cuda_graphs and path.stem in RECORDED
        if cuda_graphs:
            chosen = [_recording_provider(providers, available, runtime.__version__)]
        else:
            chosen = choose_providers(providers, available)
        first, index = chosen[0][0], chosen[0][1].get("device_id", 0)
        if any(name in PROVIDERS[:2] for name, _ in chosen):
            _load_cuda(runtime)
        tried = [(name, _cuda_options(given, records) if name == CUDA else given) for name, given in chosen]
        fallback = not cuda_graphs  # would take the CPU where CUDA refuses the graph
        try:
            self._session = runtime.InferenceSession(str(path), options, tried, enable_fallback=fallback)
        except Exception as error:  # its own exceptions share no base class
            raise MimoError(f"{path}: {_reason(error)}") from None
        check_weights(Path(path))
        self.path, self._runtime = path, runtime
        self.provider = self._session.get_providers()[0]
        if self.provider != first:  # onnxruntime has it, this machine lacks what it needs
            if providers is not None or cuda_graphs:
                raise MimoError(f"{path}: {first} does not work on this machine; onnxruntime took {self.provider}")
            logger.warning("%s does not work on this machine", first)
        self.metadata = _metadata(path, self._session.get_modelmeta().custom_metadata_map)
        self.device = "cuda" if self.provider in PROVIDERS[:2] else "cpu"
        self._place = (self.device, int(index) if self.device == "cuda" else 0)
        self.inputs = {i.name: i for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]
        self.recordings = Recordings(runtime, self._session, self.device, self._run) if records else None
        logger.info("%s runs on %s", path, self.provider)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how it was loaded: another process loads the graph for itself."""
        return Session, self._made_of

    def initial_state(self, batch: int = 1) -> dict[str, np.ndarray]:
        """Zeros for every input that some output `new.*` is the next value of; nothing where a size is PAST."""
        return {name: np.zeros(shape, _DTYPES[self.inputs[name].type]) for name, shape in self._shapes(batch).items()}

    def _shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Of a state at its start."""
        return {
            name: tuple(size if isinstance(size, int) else 0 if size == PAST else batch for size in given.shape)
            for name, given in self.inputs.items()
            if NEW + name in self.outputs
        }

    def is_state(self, state: object) -> bool:
        """Whether this is a state, of batch 1, of a graph whose states do not grow."""
        shapes = self._shapes(1)
        if not isinstance(state, Mapping) or state.keys() != shapes.keys():
            return False
        return all(self._fits(state[name], name, shape) for name, shape in shapes.items())

    def _fits(self, value: Any, name: str, shape: tuple[int, ...]) -> bool:
        if isinstance(value, np.ndarray):
            return value.shape == shape and value.dtype.kind in "fiu"
        if not isinstance(value, self._runtime.OrtValue):
            return False
        return tuple(value.shape()) == shape and bool(value.data_type() == self.inputs[name].type)

    def run(self, inputs: Tensors) -> dict[str, Any]:
        """All outputs by name: numpy arrays, and states (`new.*`, without that prefix) as values on the device."""
        inputs = {name: self._array(name, value) for name, value in inputs.items()}
        outputs = self._run(inputs) if self.recordings is None else self.recordings.run(inputs)
        values = zip(self.outputs, outputs, strict=True)
        return {name.removeprefix(NEW): value if name.startswith(NEW) else value.numpy() for name, value in values}

    def _array(self, name: str, value: Any) -> Any:
        """An array as the graph reads it; values on the device as they are."""
        if not isinstance(value, np.ndarray):
            return value
        return np.asarray(value, _DTYPES[self.inputs[name].type], order="C")

    def _run(self, inputs: Tensors, options: Any = None) -> list[Any]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, *(self._place if name.startswith(NEW) else ("cpu", 0)))
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # its own exceptions share no base class
            raise MimoError(f"{self.path}: cannot be run ({str(error).splitlines()[0]})") from None
        return list(binding.get_outputs())


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def _cuda_options(given: Mapping[str, Any], records: bool) -> dict[str, Any]:
    """TF32, the default, has 10 bits where float32 has 23: distances of the quantizer would take other codes."""
    return {"use_tf32": "0", **given, "enable_cuda_graph": "1" if records else "0"}


def _recording_provider(
    providers: Sequence[Provider] | None, available: Sequence[str], version: str
) -> tuple[str, dict[str, Any]]:
    """CUDA and its options; MimoError where CUDA graphs are asked for and it is not, or cannot be had."""
    wanted = [CUDA] if providers is None and CUDA in available else providers
    first, options = choose_providers(wanted, available)[0]
    if first != CUDA:
        raise MimoError(f"cuda_graphs: needs CUDA (onnxruntime-gpu, providers=['cuda']), not {first}")
    if str(options.get("device_id", 0)) != "0":
        raise MimoError("cuda_graphs: are for the first GPU; choose it with CUDA_VISIBLE_DEVICES, not device_id")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_RECORDING:
        raise MimoError(
            f"cuda_graphs: onnxruntime {version} may replay them wrongly, pip install 'onnxruntime-gpu>=1.31'"
        )
    return first, options


def _metadata(path: Path, found: Mapping[str, str]) -> dict[str, Any]:
    try:
        metadata = json.loads(found[METADATA])
    except (KeyError, ValueError, RecursionError):
        metadata = None
    if isinstance(metadata, dict):
        return metadata
    raise MimoError(f"{path}: was not exported by mimo-codec: it does not say of which model it is")


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0]
    if "opset" in text.lower() or "ir version" in text.lower():
        return f"is too new for this onnxruntime, upgrade it or export with an older --opset ({text})"
    return f"cannot be loaded ({text})"
