"""Lightning callbacks."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning
from lightning.pytorch.utilities import rank_zero_info

from mimo_codec.codec import MimoCodec, check_dtype


class ExportCodec(lightning.Callback):
    """Writes the trained codec to `trainer.default_root_dir`/export after every validation and when training ends.

    Args:
        dtype: of the stored encoder and decoder: float32, float16 or bfloat16; codebooks stay float32.
    """

    def __init__(self, dtype: str = "float32"):
        self.dtype = check_dtype(dtype)

    def _export(self, trainer: lightning.Trainer, stage: lightning.LightningModule) -> Path | None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return None
        folder = Path(trainer.default_root_dir) / "export"
        codec = stage.codec
        assert isinstance(codec, MimoCodec)
        copy.deepcopy(codec).to(self.dtype).save_pretrained(folder)
        return folder

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._export(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        folder = self._export(trainer, pl_module)
        rank_zero_info(f"codec written to {folder}: MimoCodec.from_pretrained('{folder}')")
