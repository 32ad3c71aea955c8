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

    def first(self, n: int) -> Split:
        """The first ``n`` images, or all if there are fewer; the same memory."""
        return Split(self.images[:n], self.labels[:n])


class FileSplit(NamedTuple):
    """Labelled images in files, decoded when they are asked for."""

    files: tuple[str, ...]
    labels: NDArray[np.int64]  # (n,)
    channels: int  # 1 or 3
    size: int

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


def decode(file: str, channels: int, size: int, *, crop: bool = False) -> NDArray[np.uint8]:
    """Read an image: shorter side resized, then the square in the middle.

    Args:
        file: its path.
        channels: 1 for grey, 3 for colour; it is converted.
        size: pixels of the square.
        crop: take a random part of the image instead, as training on ImageNet does (Szegedy 2015), from torch's
            generator.

    Returns:
        ``(channels, size, size)``, 0 to 255.

    Raises:
        RunError: if it cannot be read, naming it.
    """
    from PIL import Image
    from torchvision.transforms import v2

    try:
        with Image.open(file) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{file}: is no readable image ({reason}); mend or remove it") from None
    if crop:
        image = v2.RandomResizedCrop(size)(image)
    else:
        image = v2.functional.center_crop(v2.functional.resize(image, [size]), [size, size])
    return np.asarray(image, np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


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
