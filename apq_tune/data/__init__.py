"""Image data sets for training, selection and testing: named data sets and folders of images."""

from __future__ import annotations

from pathlib import Path

from apq_tune.data.choice import SuitedSpace, choose_space, space_for, spaces_that_keep
from apq_tune.data.folder import read_folder
from apq_tune.data.image import shown
from apq_tune.data.named import DATA, SHAPES, DataRoot, imagenet
from apq_tune.data.split import AnySplit, Data, FileSplit, Split, pooled
from apq_tune.data.taken import taken
from apq_tune.errors import RunError
from apq_tune.space.search_space import SearchSpace

__all__ = [
    "DATA",
    "AnySplit",
    "Data",
    "FileSplit",
    "Split",
    "SuitedSpace",
    "check_images",
    "choose_space",
    "data_digest",
    "load_data",
    "space_for",
    "spaces_that_keep",
    "taken",
]


def load_data(space: SearchSpace, data_root: str | Path | None = None) -> Data:
    """Load the data set that a search space names and check it against the input shape and the number of classes.

    Images of a named data set are average-pooled to the input size of the space, those of a folder are resized.

    Args:
        space: Search space whose ``data`` is the name of a data set or the absolute path of a folder.
        data_root: Folder with the files of named data sets; by default ``~/.cache/apq_tune/data``.

    Raises:
        RunError: If the space names no data set, an unknown one (the message lists the known ones) or one of another
            shape, or if the files are missing and cannot be downloaded.
    """
    size, channels = space.resolutions[-1], space.input.channels
    if is_folder(space.data):
        folder = read_folder(str(space.data))
        _check_classes(space, len(folder.classes))
        return folder.data(size, channels, white=folder.white())
    if space.data not in SHAPES:
        raise RunError(
            f"{space.name}: data is {space.data!r}; known data sets: {', '.join(SHAPES)}; or name a folder of images "
            "by --data DIR"
        )
    shape = SHAPES[space.data]
    if shape.channels != channels or (shape.size % size and space.data != "imagenet"):
        raise RunError(
            f"{space.name}: input is {channels} x {size} x {size}, images of {space.data} are {shape.channels} x "
            f"{shape.size} x {shape.size}; give the same channels and a size that divides {shape.size}"
        )
    _check_classes(space, shape.classes)
    place = DataRoot.of(data_root)
    data = imagenet(place, size) if space.data == "imagenet" else DATA[space.data](place)
    return Data(*(pooled(split, size) for split in data))


def is_folder(data: str | None) -> bool:
    """Whether the ``data`` of a search space is the path of a folder rather than the name of a data set."""
    return data is not None and Path(data).is_absolute()


def data_digest(space: SearchSpace) -> str | None:
    """Hash of the names and contents of a folder's images; ``None`` for a named data set, which never changes."""
    return read_folder(str(space.data)).digest if is_folder(space.data) else None


def _check_classes(space: SearchSpace, classes: int) -> None:
    if classes != space.classes:
        raise RunError(f"{space.name}: classes is {space.classes}, {space.data} has {classes}; write {classes}")


def check_images(space: SearchSpace, data: Data) -> None:
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
