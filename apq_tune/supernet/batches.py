"""Batches of images: decoding, augmentation, normalization and transfer to the device.

For a GPU, files are decoded in worker processes, so that it does not wait; for a CPU, whose cores are busy training, in
the same process. A batch depends only on the seed and its number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from apq_tune.data.image import decode
from apq_tune.data.split import AnySplit, Split
from apq_tune.errors import RunError
from apq_tune.space.network_space import Normalisation

Augment = Literal["none", "crop", "crop_flip"]
"""Augmentation: none, random crops (resized crops of files, shifts by up to an eighth of images in memory), or random
crops and horizontal flips."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colour channels, from 0 to 1 (torchvision)."""

MOST_WORKERS = 8


def as_inputs(images: Tensor, normalisation: Normalisation | None = None) -> Tensor:
    """Network inputs of shape ``(n, channels, size, size)``.

    Args:
        images: Bytes, which are scaled to [0, 1], or floats in this range.
        normalisation: Normalisation of the values; by default that of ImageNet for colour images, none for others.
    """
    floats = images.float().div_(255) if images.dtype == torch.uint8 else images
    if normalisation is None and images.shape[1] != len(MEAN):
        return floats
    mean, std = (torch.tensor(own, device=images.device)[:, None, None] for own in normalisation or (MEAN, STD))
    return (floats - mean) / std


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Network inputs of another size, by antialiased bilinear interpolation.

    All that makes images of the size of a candidate's input does it here: training, simulation and exported files.

    Args:
        images: Network inputs, shape ``(n, channels, h, w)``.
        height: New height in pixels.
        width: New width.
    """
    if tuple(images.shape[2:]) == (height, width):
        return images
    return functional.interpolate(images, size=(height, width), mode="bilinear", antialias=True)


def numpy_resized(images: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """``resized`` of arrays."""
    return np.asarray(resized(torch.tensor(images), height, width).numpy(), np.float32)


def first_images(split: AnySplit, n: int) -> Tensor:
    """First ``n`` images of a split as network inputs, for calibration; they are random, as splits are shuffled."""
    first = split.first(n)
    return as_inputs(_Batches(first, np.arange(len(first.labels)), n, "none", ())[0][0], split.normalisation)


def images_of(split: AnySplit, n: int) -> NDArray[np.float32]:
    """First ``n`` images of a split as network inputs, shape ``(n, channels, size, size)``."""
    return np.asarray(first_images(split, min(n, len(split.labels))).numpy(), np.float32)


def numpy_batches(split: AnySplit, size: int = 250) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Iterate over all images of a split in order, as network inputs, with their labels."""
    for images, labels in batches(split, np.arange(len(split.labels)), size):
        yield np.asarray(images.numpy(), np.float32), np.asarray(labels.numpy(), np.int64)


def batches(
    split: AnySplit,
    order: NDArray[np.int64],
    size: int,
    device: torch.device | str = "cpu",
    *,
    first: int = 0,
    augment: Augment = "none",
    seed: tuple[int, ...] = (),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over batches of images and labels in a given order.

    Args:
        split: Split that provides the images.
        order: Rows of the split, shape ``(n,)``.
        size: Batch size; the last batch may be smaller.
        device: Device of the batches.
        first: Number of the first batch.
        augment: Augmentation of the images.
        seed: Seed of the augmentation.

    Yields:
        Images as floats, shape ``(batch, channels, size, size)``, and labels, shape ``(batch,)``.

    Raises:
        RunError: If an image cannot be read; the message names it.
    """
    source = _Batches(split, order, size, augment, seed)
    device = torch.device(device)
    numbers = range(first, len(source))
    loaded: Iterable[tuple[Tensor, Tensor]]
    if device.type == "cuda" and not isinstance(split, Split):
        workers = min(MOST_WORKERS, os.cpu_count() or 1)
        loaded = DataLoader(source, batch_size=None, sampler=numbers, num_workers=workers, pin_memory=True)
    else:
        loaded = map(source.__getitem__, numbers)
    try:
        for images, labels in loaded:
            inputs = as_inputs(images.to(device, non_blocking=True), split.normalisation)
            yield inputs, labels.to(device, non_blocking=True)
    except RunError as error:  # errors of workers contain their traceback
        raise RunError(str(error).strip().splitlines()[-1].removeprefix("apq_tune.errors.RunError: ")) from None


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Map-style data set whose items are whole batches."""

    def __init__(
        self, split: AnySplit, order: NDArray[np.int64], size: int, augment: Augment, seed: tuple[int, ...]
    ) -> None:
        self._split, self._order, self._size, self._augment, self._seed = split, order, size, augment, seed

    def __len__(self) -> int:
        return -(-len(self._order) // self._size)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rows = self._order[number * self._size : (number + 1) * self._size]
        labels = torch.from_numpy(self._split.labels[rows])
        if self._augment == "none":
            return self._images(rows), labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((*self._seed, number)).generate_state(1)[0]))
            return self._augmented(self._images(rows)), labels

    def _images(self, rows: NDArray[np.int64]) -> Tensor:
        split = self._split
        if isinstance(split, Split):
            return torch.from_numpy(split.images[rows])  # a copy: what workers share is read-only
        crop = self._augment != "none"
        images = [decode(split.files[i], split.channels, split.size, crop=crop, white=split.white) for i in rows]
        return torch.from_numpy(np.stack(images))

    def _augmented(self, images: Tensor) -> Tensor:
        from torchvision.transforms import v2

        size = images.shape[-1]
        steps: list[Any] = []
        if isinstance(self._split, Split):
            steps.append(v2.RandomCrop(size, padding=max(1, size // 8), padding_mode="edge"))
        if self._augment == "crop_flip":
            steps.append(v2.RandomHorizontalFlip())
        return torch.stack([v2.Compose(steps)(image) for image in images]) if steps else images
