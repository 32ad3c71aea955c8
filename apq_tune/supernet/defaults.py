"""Independence of PyTorch's global defaults, which a user may have changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Context manager and decorator that sets float32, the CPU and enabled gradients as PyTorch's defaults.

    Previous defaults of dtype, device and gradient mode are restored on exit.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if torch.get_default_device().type != "cpu":  # entering a device costs time in every call
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(before)
