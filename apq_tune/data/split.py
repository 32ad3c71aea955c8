"""Data sets in three splits: ``train`` fits weights, ``search`` makes every selection, ``test`` is only reported."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.space.network_space import Normalisation

SEARCH_SHARE = 1 / 6
"""Share of the official training images that becomes ``search``: 10,000 of the 60,000 of Fashion-MNIST."""

SPLIT_SEED = 0
"""Seed of all splits; it never changes, so that runs with different seeds report on the same images."""


class Split(NamedTuple):
    """Labelled images in memory."""

    images: NDArray[np.float32] | NDArray[np.uint8]  # (n, channels, size, size), from 0 to 1 or from 0 to 255
    labels: NDArray[np.int64]  # (n,)
    normalisation: Normalisation | None = None  # the default of the package if there is none

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, size, size)`` of an image."""
        return self.images.shape[1:]

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Select rows in the given order."""
        return self._replace(images=self.images[rows], labels=self.labels[rows])

    def first(self, n: int) -> Split:
        """First ``n`` images, or all if there are fewer; a view, not a copy."""
        return self._replace(images=self.images[:n], labels=self.labels[:n])


class FileSplit(NamedTuple):
    """Labelled images in files, decoded on access."""

    files: tuple[str, ...]
    labels: NDArray[np.int64]  # (n,)
    channels: int  # 1 or 3
    size: int
    white: float | None = None  # white level of float and 32-bit integer images
    normalisation: Normalisation | None = None  # the default of the package if there is none

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, size, size)`` of an image."""
        return (self.channels, self.size, self.size)

    def take(self, rows: NDArray[np.int64]) -> FileSplit:
        """Select rows in the given order."""
        return self._replace(files=tuple(self.files[row] for row in rows), labels=self.labels[rows])

    def first(self, n: int) -> FileSplit:
        """First ``n`` images, or all if there are fewer."""
        return self._replace(files=self.files[:n], labels=self.labels[:n])


AnySplit = Split | FileSplit


class Data(NamedTuple):
    """Disjoint splits of a data set."""

    train: AnySplit
    search: AnySplit
    test: AnySplit


def stratified(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows in two, stratified by class; both parts are shuffled and identical in every run.

    Args:
        labels: Labels, shape ``(n,)``; at least two of each class.
        share: Share of the second part, between 0 and 1.

    Returns:
        Rows of the first and of the second part. Each part has every class, and each row is in one of them.
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
    """Stratified split for few images: counts per class are rounded so that both parts get at least one image."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    is_second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        is_second[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return order[~is_second[order]], order[is_second[order]]


def pooled(split: AnySplit, size: int) -> AnySplit:
    """Average-pool images to a size that divides theirs; pooled pixels are floats from 0 to 1.

    Raises:
        RunError: If ``size`` does not divide the size of the images.
    """
    channels, own, _ = split.shape
    if own == size:
        return split
    if own % size:
        raise RunError(f"images of {own} pixels cannot be pooled to {size}: give a size that divides {own}")
    assert isinstance(split, Split)  # files are decoded at the requested size
    factor = own // size
    whole = split.images.reshape(-1, channels, size, factor, size, factor).mean(axis=(3, 5), dtype=np.float32)
    return split._replace(images=whole / np.float32(255) if split.images.dtype == np.uint8 else whole)
