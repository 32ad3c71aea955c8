"""What a data set is: images in three parts. ``train`` fits weights, ``search`` makes every choice, ``test`` tells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError

SEARCH_SHARE = 1 / 6
"""Of the official training images, where a set has an official test part: 10,000 of Fashion-MNIST's 60,000."""

SPLIT_SEED = 0
"""The same in every run, so that runs of different seeds report on the same images."""


class Split(NamedTuple):
    """Labelled images in memory."""

    images: NDArray[np.float32] | NDArray[np.uint8]  # (n, channels, size, size), 0 to 1, or 0 to 255
    labels: NDArray[np.int64]  # (n,)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, size, size)`` of an image."""
        return self.images.shape[1:]

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Some of the images, in this order."""
        return Split(self.images[rows], self.labels[rows])


class Data(NamedTuple):
    """The three parts of a data set; no image is in two of them."""

    train: Split
    search: Split
    test: Split


def stratified(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a share off, every class by its own share; both parts come shuffled, the same in every run.

    Args:
        labels: ``(n,)``.
        share: of the second part, 0 to 1.

    Returns:
        Rows of the first part and of the second one; together they are all rows, once.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    first, second = train_test_split(rows, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    return first, second


def pooled(split: Split, size: int) -> Split:
    """The images at a size that divides theirs, every pixel the mean of those that it covers, as fractions of 1.

    Raises:
        RunError: if it does not divide theirs.
    """
    n, channels, own, _ = split.images.shape
    if own == size:
        return split
    if own % size:
        raise RunError(f"images of {own} pixels cannot be pooled to {size}: give a size that divides {own}")
    factor = own // size
    whole = split.images.reshape(n, channels, size, factor, size, factor).mean(axis=(3, 5), dtype=np.float32)
    return Split(whole / np.float32(255) if split.images.dtype == np.uint8 else whole, split.labels)
