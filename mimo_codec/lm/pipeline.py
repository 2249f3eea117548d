"""MimoAudioLM: a language model of speech with a codec attached; what users call.

The only file of the language model that knows the codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimo_codec.codec.model import check_device, check_dtype
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.adapters import load_adapter, merge_adapter
from mimo_codec.lm.audio import SpeechCodec
from mimo_codec.lm.backend import TorchBackend
from mimo_codec.lm.base import AudioLM, GridLike
from mimo_codec.lm.checkpoint import (
    DeviceMap,
    cast_weights,
    find_language_model,
    load_language_model,
    save_language_model,
)
from mimo_codec.lm.generate import Position
from mimo_codec.lm.instructions import INSTRUCTIONS, PROMPTS, Instructions
from mimo_codec.lm.model import Output, SpeechLanguageModel
from mimo_codec.lm.request import Request
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.loading import is_export, load_codec


class MimoAudioLM(AudioLM[Tensor]):
    """Speech and text in, speech and text out (arXiv 2512.23808). `from_pretrained` loads one."""

    backend: TorchBackend
    attach_codec = "from_pretrained(..., codec=NAME)"

    def __init__(
        self,
        model: SpeechLanguageModel,
        tokenizer: TextTokenizer,
        *,
        codec: SpeechCodec | None = None,
        instructions: Instructions | None = None,
        compile: bool | None = None,
    ):
        """Put the parts together.

        Args:
            model: the networks, in evaluation mode.
            tokenizer: of the text.
            codec: listens and speaks; without one audio goes in and comes out as codes.
            instructions: of the prompts; English ones when None.
            compile: torch.compile for the steps of generation, CUDA graphs included; None for on CUDA only.
        """
        super().__init__(model.config, tokenizer, codec, instructions or INSTRUCTIONS["en"])
        self.model = model
        self.backend = TorchBackend(model, model.device.type == "cuda" if compile is None else compile)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        codec: SpeechCodec | str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        quantize: str | None = None,
        device_map: DeviceMap | None = None,
        instructions: Instructions | str | None = None,
        compile: bool | None = None,
        adapter: str | Path | None = None,
    ) -> MimoAudioLM:
        """Load a model, in evaluation mode.

        Args:
            name_or_path: a folder with config.json, safetensors and a text tokenizer, or a Hugging Face hub id.
            codec: the codec to listen and speak with, or its name (see `load_codec`); without it audio goes in and
                comes out as codes.
            device: None for CUDA where there is one, else the CPU.
            dtype: of the weights, and of a codec that is loaded here; None or "auto" keeps that of the files, and loads
                a codec in float32.
            revision: branch, tag or commit of a hub model.
            quantize: "int8" or "int4" weights (by torchao), for little memory.
            device_map: "auto", or a device for each module, to spread the layers of the backbone over several devices
                (by accelerate).
            instructions: of the prompts, or a language ("en", "zh"); None for the prompts.json of the checkpoint, or
                English.
            compile: torch.compile for the steps of generation; None for on CUDA only.
            adapter: folder of an adapter that was trained for this model (LoRA, by peft).

        Raises:
            MimoError: for what cannot be found, read or used, and when memory does not suffice.
        """
        place = check_device(device)
        wanted = None if dtype is None or dtype == "auto" else check_dtype(dtype)
        folder = find_language_model(name_or_path, revision)
        chosen = Instructions.choose(instructions, folder)
        if isinstance(codec, (str, Path)):
            codec = load_speech_codec(codec, device, wanted)
        spread = device_map is not None
        alone = adapter is None or (quantize is None and not spread)
        require(alone, "adapter: merge it into the model first (mimo-codec merge) to quantize or spread that")
        # float16 does not hold all that bfloat16 does, so by its weights the model would not be known for the adapter's
        later = wanted if adapter is not None and wanted == torch.float16 else None
        model, tokenizer = load_language_model(folder, place, None if later else wanted, quantize, device_map)
        if adapter is not None:
            load_adapter(adapter, model, str(name_or_path))
        if later:
            cast_weights(model, later, folder)
        return cls(model, tokenizer, codec=codec, instructions=chosen, compile=False if spread else compile)

    def merge_adapter(self) -> None:
        """Make the adapter a part of the weights; MimoError when there is none."""
        merge_adapter(self.model)
        self.backend = TorchBackend(self.model, self.backend.compiled)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, safetensors and tokenizer.json in the released layout, and prompts.json if needed."""
        save_language_model(folder, self.model, self.tokenizer)
        if self.instructions != INSTRUCTIONS["en"]:
            self.instructions.save(Path(folder) / PROMPTS)
        else:
            (Path(folder) / PROMPTS).unlink(missing_ok=True)

    @property
    def device(self) -> torch.device:
        """Where the networks are, or the first layers of a model that is spread over several devices."""
        return self.model.device

    def to(self, device: str | torch.device) -> MimoAudioLM:
        """Move the networks and the codec to a device and return the model, as modules of PyTorch do.

        Raises MimoError for devices that cannot be used, and for models that are spread over several.
        """
        place = check_device(device)
        require(not hasattr(self.model, "hf_device_map"), "to: this model is spread over several devices")
        self.model.to(place)
        self.backend = TorchBackend(self.model, self.backend.compiled)
        if isinstance(self.codec, torch.nn.Module):
            self.codec.to(place)
        return self

    def __repr__(self) -> str:
        """Say which networks these are, where they are, and with which codec."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"{super().__repr__()[:-1]}, {count:,} parameters, {dtype} on {self.device})"

    # ---- for those who build their own ---------------------------------------------------------------------------

    @torch.no_grad()
    def forward(self, ids: GridLike | Sequence[GridLike]) -> Output:
        """Predict every next position of one grid [1 + C, G P], or of a list of them, from the true ones before it.

        Shorter grids of a list are padded at their ends, where what comes out means nothing.
        """
        grids = [grid for _, grid in self._grids(ids)]
        lengths = [self.layout.num_positions(grid) for grid in grids]
        longest, context = max(lengths), self.config.max_position_embeddings
        require(longest <= context, f"ids: {longest} positions; the context has {context}")
        group = self.layout.group_size
        padded = np.stack([np.pad(grid, ((0, 0), (0, longest * group - grid.shape[1]))) for grid in grids])
        device = self.model.device
        output: Output = self.model(torch.from_numpy(padded).to(device), torch.tensor(lengths, device=device))
        return output

    __call__ = forward

    # ---- what computes -------------------------------------------------------------------------------------------

    def _positions(self, requests: Sequence[Request]) -> Iterator[list[Position | None]]:
        try:
            yield from super()._positions(requests)
        except torch.OutOfMemoryError:
            longest = max(self.layout.num_positions(request.grid) + request.max_new for request in requests)
            raise MimoError(
                f"not enough memory on {self.model.device} to generate: {len(requests)} at once, up to {longest}"
                " positions each; ask for fewer or shorter ones, or load the model with a narrower dtype"
            ) from None

    def from_numpy(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor of the same memory."""
        return torch.from_numpy(array)


def load_speech_codec(
    name: str | Path, device: str | torch.device | None, dtype: torch.dtype | None = None
) -> SpeechCodec:
    """Load the codec of a language model; an exported one keeps its own precision."""
    try:
        return load_codec(name, device=device, dtype=None if is_export(name) else dtype)
    except torch.OutOfMemoryError:
        raise MimoError(
            f"codec: not enough memory on {check_device(device)} for {name}: give load_codec(...) another device or"
            " dtype, and its codec to this model"
        ) from None
