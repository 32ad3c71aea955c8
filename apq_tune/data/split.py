"""What a data set is: images in three parts. ``train`` fits weights, ``search`` makes every choice, ``test`` tells."""

from __future__ import annotations

import math
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

    def first(self, n: int) -> Split:
        """The first ``n`` images, or all if there are fewer; the same memory."""
        return Split(self.images[:n], self.labels[:n])


class FileSplit(NamedTuple):
    """Labelled images in files, decoded when they are asked for."""

    files: tuple[str, ...]
    labels: NDArray[np.int64]  # (n,)
    channels: int  # 1 or 3
    size: int
    white: float | None = None  # of floats and of 32-bit integers

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, size, size)`` of an image."""
        return (self.channels, self.size, self.size)

    def take(self, rows: NDArray[np.int64]) -> FileSplit:
        """Some of the images, in this order."""
        return self._replace(files=tuple(self.files[row] for row in rows), labels=self.labels[rows])

    def first(self, n: int) -> FileSplit:
        """The first ``n`` images, or all if there are fewer."""
        return self._replace(files=self.files[:n], labels=self.labels[:n])


AnySplit = Split | FileSplit


class Data(NamedTuple):
    """The three parts of a data set; no image is in two of them."""

    train: AnySplit
    search: AnySplit
    test: AnySplit


def stratified(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a share off, every class by its own share; both parts come shuffled, the same in every run.

    Args:
        labels: ``(n,)``, at least two of each class.
        share: of the second part, 0 to 1.

    Returns:
        Rows of the first part and of the second one; together they are all rows, once. Each has every class.
    """
    from sklearn.model_selection import train_test_split

    rows, classes = np.arange(len(labels)), np.unique(labels)
    second_size = math.ceil(share * len(labels))
    if min(second_size, len(labels) - second_size) >= len(classes):
        first, second = train_test_split(rows, test_size=share, stratify=labels, random_state=SPLIT_SEED)
        if all(len(np.unique(labels[part])) == len(classes) for part in (first, second)):
            return first, second
    return _one_at_least(labels, share)


def _one_at_least(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same for few images: the share of a class is rounded, but leaves an image to both parts."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    is_second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        is_second[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return order[~is_second[order]], order[is_second[order]]


def pooled(split: AnySplit, size: int) -> AnySplit:
    """The images at a size that divides theirs, every pixel the mean of those that it covers, as fractions of 1.

    Raises:
        RunError: if it does not divide theirs.
    """
    channels, own, _ = split.shape
    if own == size:
        return split
    if own % size:
        raise RunError(f"images of {own} pixels cannot be pooled to {size}: give a size that divides {own}")
    assert isinstance(split, Split)  # files are decoded at any size
    factor = own // size
    whole = split.images.reshape(-1, channels, size, factor, size, factor).mean(axis=(3, 5), dtype=np.float32)
    return Split(whole / np.float32(255) if split.images.dtype == np.uint8 else whole, split.labels)
