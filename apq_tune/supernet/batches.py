"""How images get from a split to a network: as floats, batch by batch, on its device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.data import Split


def as_floats(images: Tensor) -> Tensor:
    """``(n, channels, size, size)`` bytes as fractions of 1; floats stay what they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def first_images(split: Split, n: int) -> Tensor:
    """The first images, to calibrate with: splits are shuffled."""
    return as_floats(torch.from_numpy(split.images[:n]))


def batches(
    split: Split,
    order: NDArray[np.int64],
    size: int,
    device: torch.device | str = "cpu",
    *,
    first: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels in a given order.

    Args:
        split: where from.
        order: ``(n,)`` rows of it.
        size: images in a batch; the last one may have fewer.
        device: where to.
        first: number of the batch to begin with.

    Yields:
        ``(size, channels, size, size)`` floats and ``(size,)`` labels.
    """
    images, labels = torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)
    rows = torch.from_numpy(order).to(device)
    for start in range(first * size, len(order), size):
        own = rows[start : start + size]
        yield as_floats(images[own]), labels[own]
