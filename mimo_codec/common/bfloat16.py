"""Whether a device multiplies matrices in bfloat16 at the speed that one chooses it for."""

from __future__ import annotations

import functools
from typing import Any

import torch


def bfloat16_is_slow(device: torch.device) -> bool:
    """Whether products in bfloat16 take many times as long as those in float32.

    So it is on x86 CPUs without AVX-512: PyTorch multiplies there without vector instructions, 40 times slower.
    """
    return device.type == "cpu" and not _has_instructions()


@functools.cache
def _has_instructions() -> bool:
    find: Any = getattr(torch.cpu, "get_capabilities", None)  # not in versions before 2.13
    known: dict[str, Any] = {} if find is None else find()
    if known.get("architecture") == "x86_64":
        return bool(known.get("avx512_f") or known.get("amx_bf16"))
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2", "NO AVX")
