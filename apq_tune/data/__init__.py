"""Image data sets for training, selection and testing: named data sets and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from apq_tune.data.choice import SuitedSpace, choose_space, space_for, spaces_that_keep
from apq_tune.data.folder import read_folder
from apq_tune.data.image import shown
from apq_tune.data.named import DATA, SHAPES, DataRoot, imagenet
from apq_tune.data.split import AnySplit, Data, FileSplit, Split, pooled
from apq_tune.data.taken import taken
from apq_tune.errors import RunError
from apq_tune.space.network_space import NetworkSpace, Normalisation

__all__ = [
    "DATA",
    "AnySplit",
    "Data",
    "DataRoot",
    "FileSplit",
    "Split",
    "SuitedSpace",
    "WantedImages",
    "check_images",
    "choose_space",
    "data_digest",
    "is_folder",
    "load_data",
    "read_images",
    "space_for",
    "spaces_that_keep",
    "taken",
]


SAME_SHAPE = "give the same channels and a size that divides {}"
"""Remedy if a search space and a named data set have other shapes."""


class WantedImages(NamedTuple):
    """Images as a network reads them.

    Attributes:
        owner: Name of the search space or of the file with the network, for messages.
        channels: Number of channels.
        size: Side length in pixels.
        classes: Number of classes.
        is_file: Whether the shape is fixed by a file, rather than by a search space that can be changed.
        normalisation: How the network wants the values of pixels; ``None`` for the default of the package.
    """

    owner: str
    channels: int
    size: int
    classes: int
    is_file: bool = False
    normalisation: Normalisation | None = None


def load_data(space: NetworkSpace, data_root: str | Path | None = None) -> Data:
    """Load the data set that a search space names and check it against the input shape and the number of classes.

    Images of a named data set are average-pooled to the input size of the space, those of a folder are resized.

    Args:
        space: Search space whose ``data`` is the name of a data set or the absolute path of a folder.
        data_root: Folder with the files of named data sets; by default ``~/.cache/apq_tune/data``.

    Raises:
        RunError: If the space names no data set, an unknown one (the message lists the known ones) or one of another
            shape, if its images are not square, or if the files are missing and cannot be downloaded.
    """
    if (width := space.network.width) is not None:
        raise RunError(
            f"{space.name}: its images have {space.resolutions[-1]}x{width} pixels, data sets are read as squares; "
            "search with metrics of your own, or trace the model with a square image"
        )
    wanted = WantedImages(
        space.name, space.input.channels, space.resolutions[-1], space.classes, normalisation=space.normalisation
    )
    return read_images(space.data, wanted, DataRoot.of(data_root))


def read_images(data: str | None, wanted: WantedImages, place: DataRoot) -> Data:
    """Read a data set in the shape that a network wants.

    Args:
        data: Name of a data set, or absolute path of a folder.
        wanted: Shape of the images and number of classes.
        place: Data root.

    Raises:
        RunError: If there is no such data set, it has another shape, or files are missing.
    """
    read = _read(data, wanted, place)
    if wanted.normalisation is None:
        return read
    return Data(*(split._replace(normalisation=wanted.normalisation) for split in read))


def _read(data: str | None, wanted: WantedImages, place: DataRoot) -> Data:
    owner, channels, size, _, is_file, _ = wanted
    if is_folder(data):
        folder = read_folder(str(data))
        _check_classes(wanted, str(data), len(folder.classes))
        return folder.data(size, channels, white=folder.white())
    if data not in SHAPES:
        raise RunError(
            f"{owner}: data is {data!r}; known data sets: {', '.join(SHAPES)}; or name a folder of images by --data DIR"
        )
    shape = SHAPES[data]
    if shape.channels != channels or (shape.size % size and data != "imagenet"):
        raise RunError(
            f"{owner}: input is {channels} x {size} x {size}, images of {data} are {shape.channels} x "
            f"{shape.size} x {shape.size}; {'give other images' if is_file else SAME_SHAPE.format(shape.size)}"
        )
    _check_classes(wanted, data, shape.classes)
    read = imagenet(place, size) if data == "imagenet" else DATA[data](place)
    return Data(*(pooled(split, size) for split in read))


def is_folder(data: str | None) -> bool:
    """Whether the ``data`` of a search space is the path of a folder rather than the name of a data set."""
    return data is not None and Path(data).is_absolute()


def data_digest(space: NetworkSpace) -> str | None:
    """Hash of the names and contents of a folder's images; ``None`` for a named data set, which never changes."""
    return read_folder(str(space.data)).digest if is_folder(space.data) else None


def _check_classes(wanted: WantedImages, data: str, classes: int) -> None:
    remedy = "give images of the same classes" if wanted.is_file else f"write {classes}"
    if classes != wanted.classes:
        raise RunError(f"{wanted.owner}: classes is {wanted.classes}, {data} has {classes}; {remedy}")


def check_images(space: NetworkSpace, data: Data) -> None:
    """Check that the training images are not all identical.

    Raises:
        RunError: If they are identical at the input size, so that there is nothing to learn.
    """
    train = data.train
    if isinstance(train, Split) and (train.images == train.images[:1]).all():
        raise RunError(
            f"{shown(str(space.data))}: all images to train on are the same, pixel by pixel, at {train.shape[-1]} "
            "pixels; look at them, and give some that differ"
        )
