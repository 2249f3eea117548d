"""Runs of a graph in buffers that stay where they are: what a CUDA graph needs to replay them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, Any]
"""Name -> numpy array or OrtValue."""
Key = tuple[tuple[int, ...], ...]
MAX_RECORDINGS = 64
"""Of one session; each keeps its buffers, and on CUDA a graph, until the session ends."""
NOT_RECORDED = -1
"""The graph id of runs that are neither captured nor replayed."""


class Recordings:
    """All of one session: one for every combination of input sizes.

    Sizes that are new, and those that are more than MAX_RECORDINGS, run as without recordings. The provider makes no
    difference here: CUDA with its option `enable_cuda_graph` captures the first run of a graph id and replays it after
    that, and others run the graph in the same buffers.
    """

    def __init__(self, runtime: Any, session: Any, device: str, run: Callable[[Tensors, Any], list[Any]]):
        """Prepare a session for recording; the first call records.

        Args:
            runtime: the module onnxruntime.
            session: its InferenceSession.
            device: where the buffers are.
            run: inputs and RunOptions -> outputs, wherever the runtime puts them.
        """
        self._runtime, self._session, self._device, self._run = runtime, session, device, run
        self._lock = threading.Lock()
        self.made: dict[Key, _Recording] = {}

    def run(self, inputs: Tensors) -> list[Any]:
        """Outputs as OrtValues that belong to the caller."""
        key = tuple(tuple(_shape(value)) for _, value in sorted(inputs.items()))
        with self._lock:
            if key in self.made:
                outputs = self.made[key].run(inputs)
            else:
                self._session.io_binding().synchronize_inputs()  # states may be copies that are still on their way
                outputs = self._run(inputs, self._options(NOT_RECORDED))
                if len(self.made) < MAX_RECORDINGS:
                    self.made[key] = self._record(inputs, outputs)
            # Outputs of unrecorded runs too: replays write to memory that the session's allocator believes to be free
            # since they were captured, and may have given to these outputs. Copies have another allocator.
            return [self._copy(value) for value in outputs]

    def _options(self, graph_id: int) -> Any:
        options = self._runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        return options

    def _record(self, inputs: Tensors, outputs: list[Any]) -> _Recording:
        """For inputs and outputs of these sizes."""
        binding, names = self._session.io_binding(), [output.name for output in self._session.get_outputs()]
        buffers = {name: self._buffer(value, self._device) for name, value in inputs.items()}
        results = [self._buffer(value, self._device) for value in outputs]
        for name, buffer in buffers.items():
            binding.bind_ortvalue_input(name, buffer)
        for name, buffer in zip(names, results, strict=True):
            binding.bind_ortvalue_output(name, buffer)
        return _Recording(self._session, binding, self._options(1 + len(self.made)), buffers, results)

    def _buffer(self, value: Any, device: str) -> Any:
        kind = value.dtype.type if isinstance(value, np.ndarray) else value.element_type()
        return self._runtime.OrtValue.ortvalue_from_shape_and_type(_shape(value), kind, device)

    def _copy(self, value: Any) -> Any:
        copy = self._buffer(value, value.device_name())
        copy.update_inplace(value)
        return copy


class _Recording:
    """A run with everything it reads and writes."""

    def __init__(self, session: Any, binding: Any, options: Any, inputs: dict[str, Any], outputs: list[Any]):
        self._session, self._binding, self._options = session, binding, options
        self._inputs, self._outputs = inputs, outputs

    def run(self, inputs: Tensors) -> list[Any]:
        """Outputs that the next run overwrites."""
        for name, value in inputs.items():
            self._inputs[name].update_inplace(value)
        self._binding.synchronize_inputs()  # copies, of the last outputs too, are on another stream than the graph
        self._session.run_with_iobinding(self._binding, self._options)
        return self._outputs


def _shape(value: Any) -> list[int]:
    return list(value.shape if isinstance(value, np.ndarray) else value.shape())
