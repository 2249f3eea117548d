"""MimoAudioLM: a language model of speech with a codec attached; what users call.

The only file of the language model that knows the codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimo_codec.codec.base import Codec
from mimo_codec.codec.model import check_device, check_dtype
from mimo_codec.common.errors import MimoError
from mimo_codec.lm.base import AudioLM, Grids, as_array, named
from mimo_codec.lm.checkpoint import DeviceMap, find_language_model, load_language_model, save_language_model
from mimo_codec.lm.generate import Steps, generate
from mimo_codec.lm.model import Output, SpeechLanguageModel
from mimo_codec.lm.prompts import PROMPTS, WORDINGS, Wording, find_wording
from mimo_codec.lm.request import Position, Request
from mimo_codec.lm.tokenizer import TextTokenizer
from mimo_codec.loading import load_codec


class MimoAudioLM(AudioLM):
    """Speech and text in, speech and text out (arXiv 2512.23808). `from_pretrained` loads one."""

    def __init__(
        self,
        model: SpeechLanguageModel,
        tokenizer: TextTokenizer,
        *,
        codec: Codec[Any] | None = None,
        wording: Wording | None = None,
        compile: bool | None = None,
    ):
        """compile: torch.compile for the steps of generation, CUDA graphs included; None for on CUDA only."""
        self.model = model
        super().__init__(model.config, tokenizer, codec, wording)
        self._steps = Steps(model, model.device.type == "cuda" if compile is None else compile)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        codec: Codec[Any] | str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        quantize: str | None = None,
        device_map: DeviceMap | None = None,
        wording: Wording | str | None = None,
        compile: bool | None = None,
    ) -> MimoAudioLM:
        """Load a model, in evaluation mode.

        name_or_path: a folder with config.json, safetensors and a text tokenizer, or a Hugging Face hub id.
        codec: one to hear and speak with, or its name (see `load_codec`); without it audio goes in and comes out as
        codes.
        device: None for CUDA where there is one, else the CPU. dtype: None keeps that of the files. quantize: "int8" or
        "int4" weights (by torchao), for little memory. device_map: "auto", or a device for each module, to spread the
        layers of the backbone over several devices (by accelerate). wording: of the instructions, or a language ("en",
        "zh"); None for the prompts.json of the checkpoint, or English. compile: None for CUDA only.
        Raises MimoError for what cannot be found, read or used, and when memory does not suffice.
        """
        place = check_device(device)
        wanted = None if dtype is None else check_dtype(dtype)
        folder = find_language_model(name_or_path, revision)
        if isinstance(wording, str):
            wording = find_wording(wording)
        elif wording is None and (folder / PROMPTS).is_file():
            wording = Wording.load(folder / PROMPTS)
        if isinstance(codec, (str, Path)):
            codec = _load_codec(codec, device)
        spread = device_map is not None
        model, tokenizer = load_language_model(folder, place, wanted, quantize, device_map)
        return cls(model, tokenizer, codec=codec, wording=wording, compile=False if spread else compile)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, safetensors and tokenizer.json in the released layout; prompts.json for other wording."""
        save_language_model(folder, self.model, self.tokenizer)
        if self.wording != WORDINGS["en"]:
            self.wording.save(Path(folder) / PROMPTS)
        else:
            (Path(folder) / PROMPTS).unlink(missing_ok=True)

    # ---- for those who build their own ---------------------------------------------------------------------------

    @torch.no_grad()
    def forward(self, ids: Grids) -> Output:
        """One grid [1 + C, G P], or a list -> predictions of every next position from the true ones before it.

        Shorter grids of a list are padded at their ends, where what comes out means nothing.
        """
        grids = [self.layout.check_grid(as_array(item), where) for where, item in named(ids)]
        lengths = torch.tensor([grid.shape[1] // self.config.group_size for grid in grids])
        longest, context = max(grid.shape[1] for grid in grids), self.config.max_position_embeddings
        if int(lengths.max()) > context:
            raise MimoError(f"ids: {int(lengths.max())} positions; the context has {context}")
        padded = np.stack([np.pad(grid, ((0, 0), (0, longest - grid.shape[1]))) for grid in grids])
        return self.model(torch.from_numpy(padded).to(self.model.device), lengths.to(self.model.device))

    __call__ = forward

    # ---- what computes -------------------------------------------------------------------------------------------

    attach_codec = "from_pretrained(..., codec=NAME)"

    def _positions(self, requests: Sequence[Request]) -> Iterator[list[Position | None]]:
        try:
            yield from generate(self._steps, self.layout, requests)
        except torch.OutOfMemoryError:
            longest = max(request.grid.shape[1] // self.config.group_size + request.max_new for request in requests)
            raise MimoError(
                f"not enough memory on {self.model.device} to generate: {len(requests)} at once, up to {longest}"
                " positions each; ask for fewer or shorter ones, or load the model with a narrower dtype"
            ) from None

    def own(self, array: np.ndarray) -> Tensor:
        """An array as a tensor."""
        return torch.from_numpy(array)

    def _new_seeds(self, count: int) -> list[int]:
        return torch.randint(2**31, (count,)).tolist()


def _load_codec(name: str | Path, device: str | torch.device | None) -> Codec[Any]:
    try:
        return load_codec(name, device=device)
    except torch.OutOfMemoryError:
        raise MimoError(
            f"codec: not enough memory on {check_device(device)} for {name}: give load_codec(...) another device or"
            " dtype, and its codec to this model"
        ) from None
