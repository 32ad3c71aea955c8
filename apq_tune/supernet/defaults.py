"""Torch's global defaults, which a user's notebook may have changed: our networks do not depend on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Create and run networks in single precision, on the CPU unless said otherwise, with gradients; also a decorator.

    What ``torch.set_default_dtype``, ``set_default_device`` and ``set_grad_enabled`` had said is as before afterwards.
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
