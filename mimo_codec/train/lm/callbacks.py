"""What happens around the steps that train a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from mimo_codec.lm.adapters import adapter_weights, save_adapter
from mimo_codec.lm.checkpoint import save_language_model
from mimo_codec.train.callbacks import ExportCodec


class ExportLanguageModel(ExportCodec):
    """Writes the language model to the folders `export` and `best` below trainer.default_root_dir.

    `export` is written after every validation and when training ends, `best` when a validation metric is better than
    before. Where adapters are trained, the folders have the adapter alone.

    Args:
        dtype: of the stored weights: float32, float16 or bfloat16.
        monitor: what decides over the best, such as "val/loss" or "listen/transcribe_wer"; null: "val/loss".
        mode: "max" or "min", whichever is better; null: "min".
        save_top_k: number of best models; null: 1.
    """

    def __init__(
        self,
        dtype: str = "bfloat16",
        monitor: str | None = None,
        mode: str | None = None,
        save_top_k: int | None = None,
    ):
        """See the class for the arguments; MimoError for a dtype that weights cannot have."""
        super().__init__(dtype, monitor, mode, save_top_k)

    def _is_ready(self, stage: Any) -> bool:
        return True

    def _how_to_load(self, folder: Path) -> str:
        if (folder / "base.json").exists():
            return f"adapter written to {folder}: MimoAudioLM.from_pretrained(MODEL, adapter='{folder}')"
        return f"language model written to {folder}: MimoAudioLM.from_pretrained('{folder}', codec=NAME)"

    def _export(self, trainer: lightning.Trainer, stage: Any, name: str) -> Path:
        folder, model = Path(trainer.default_root_dir) / name, stage.language_model
        adapts = bool(stage.options.lora_rank)
        state = adapter_weights(model) if adapts else model.state_dict()
        whole: dict[str, Tensor] = {}
        for key, value in state.items():
            stored = self._stored(value, True)  # shards are put together in all processes, of which one keeps it
            if trainer.is_global_zero:
                whole[key] = stored.cpu()
        if trainer.is_global_zero:
            if adapts:
                save_adapter(folder, model, str(stage.hparams["model"]), whole, stage.base)
            else:
                save_language_model(folder, stage.exported_model(), stage.tokenizer, whole)
        return folder
