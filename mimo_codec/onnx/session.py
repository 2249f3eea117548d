"""Sessions of ONNX Runtime: which provider runs a graph, what the graph is of, and tensors that stay on the device."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimo_codec.checks import check_integer
from mimo_codec.errors import MimoError

logger = logging.getLogger("mimo_codec.onnx")
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
"""Tried in this order."""
METADATA = "mimo_codec"
"""Key of the JSON object inside every exported file."""
NEW = "new."
"""Prefix of outputs that are a state's next value."""
PAST = "past"
"""Size of a state that begins empty and grows."""

Tensors = Mapping[str, Any]
"""Name -> numpy array or OrtValue."""


def import_runtime() -> Any:
    """The module onnxruntime; MimoError without it, and where two builds of it overwrite each other."""
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
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def choose_providers(wanted: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Providers to try, in order: those asked for ("cuda" or "CUDAExecutionProvider"), or all known that are there."""
    if wanted is None:
        return [name for name in PROVIDERS if name in available]
    if isinstance(wanted, str):
        raise MimoError(f"providers: a list is needed, not {wanted!r}")
    chosen = []
    for name in wanted:
        found = [a for a in available if name.lower() in (a.lower(), a.lower().removesuffix("executionprovider"))]
        if not found:
            raise MimoError(f"providers: {name} is not in this onnxruntime; it has {', '.join(available)}")
        chosen += found
    return chosen


class Session:
    """One exported graph, loaded."""

    def __init__(self, path: Path, providers: Sequence[str] | None = None, num_threads: int | None = None):
        """num_threads: on the CPU; None for as many as there are cores.

        Raises MimoError for files that are missing, are no graph of this project, or that this runtime cannot load.
        """
        if not path.is_file():
            raise MimoError(f"{path}: there is no such file; mimo-codec export writes it")
        runtime = import_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            options.intra_op_num_threads = check_integer("num_threads", num_threads, 1, 1024)
        chosen = choose_providers(providers, runtime.get_available_providers())
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # its own exceptions share no base class
            raise MimoError(f"{path}: {_reason(error)}") from None
        self.path, self._runtime = path, runtime
        self.provider = self._session.get_providers()[0]
        if self.provider != chosen[0]:  # onnxruntime has it, this machine lacks what it needs
            if providers is not None:
                raise MimoError(f"{path}: {chosen[0]} does not work on this machine; onnxruntime took {self.provider}")
            logger.warning("%s does not work on this machine", chosen[0])
        self.metadata = _metadata(path, self._session.get_modelmeta().custom_metadata_map)
        self.device = "cuda" if self.provider in PROVIDERS[:2] else "cpu"
        self.inputs = {i.name: i for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]
        logger.info("%s runs on %s", path, self.provider)

    def initial_state(self, batch: int = 1) -> dict[str, np.ndarray]:
        """Zeros for every input that some output `new.*` is the next value of; nothing where a size is PAST."""
        state = {}
        for name, given in self.inputs.items():
            if NEW + name in self.outputs:
                shape = [size if isinstance(size, int) else 0 if size == PAST else batch for size in given.shape]
                state[name] = np.zeros(shape, _DTYPES[given.type])
        return state

    def run(self, inputs: Tensors) -> dict[str, Any]:
        """All outputs by name: numpy arrays, and states (`new.*`, without that prefix) as values on the device."""
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self.device if name.startswith(NEW) else "cpu")
        self._session.run_with_iobinding(binding)
        values = zip(self.outputs, binding.get_outputs(), strict=True)
        return {name.removeprefix(NEW): value if name.startswith(NEW) else value.numpy() for name, value in values}


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def _metadata(path: Path, found: Mapping[str, str]) -> dict[str, Any]:
    try:
        return dict(json.loads(found[METADATA]))
    except (KeyError, ValueError):
        raise MimoError(f"{path}: was not exported by mimo-codec: it does not say of which model it is") from None


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0]
    if "opset" in text.lower() or "ir version" in text.lower():
        return f"is too new for this onnxruntime, upgrade it or export with an older --opset ({text})"
    return f"cannot be loaded ({text})"
