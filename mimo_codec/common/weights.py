"""Files of weights that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_codec.common.checks import wrap_errors
from mimo_codec.common.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape, type and device, by name, as safetensors; MimoError when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        mode = temporary.stat().st_mode  # safetensors replaces the file by one that only its owner may read
        with wrap_errors(f"{path}: cannot be written", SafetensorError):
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, {"format": "pt"})
        temporary.chmod(mode)
