"""Where networks are trained and run."""

from __future__ import annotations

from typing import Literal

import torch

from apq_tune.errors import RunError

Device = Literal["cpu", "cuda"]


def device_of(name: str) -> Device:
    """Resolve a device name; ``"auto"`` is the GPU if torch sees one, otherwise the CPU.

    Raises:
        RunError: If the name is unknown, or is ``"cuda"`` and torch sees no GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device is 'cuda', but torch sees no GPU here; choose 'cpu' or 'auto', or install CUDA's torch")
    if name not in ("cpu", "cuda"):
        raise RunError(f"device is {name!r}; choose 'auto', 'cpu' or 'cuda'")
    return "cpu" if name == "cpu" else "cuda"
