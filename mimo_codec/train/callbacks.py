"""Lightning callbacks."""

from __future__ import annotations

from pathlib import Path

import lightning
from lightning.pytorch.utilities import rank_zero_info


class ExportCodec(lightning.Callback):
    """Writes the trained codec to `trainer.default_root_dir`/export whenever training ends, and after validation."""

    def _export(self, trainer: lightning.Trainer, stage: lightning.LightningModule) -> Path | None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return None
        folder = Path(trainer.default_root_dir) / "export"
        stage.codec.save_pretrained(folder)  # type: ignore[operator,union-attr]
        return folder

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._export(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        folder = self._export(trainer, pl_module)
        rank_zero_info(f"codec written to {folder}: MimoCodec.from_pretrained('{folder}')")
