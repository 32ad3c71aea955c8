"""Images to train, to choose and to report on: sets with a name and folders of images."""

from __future__ import annotations

import math
from pathlib import Path

from apq_tune.data.folder import read_folder
from apq_tune.data.named import DATA, SHAPES, Place, Shape, imagenet
from apq_tune.data.split import AnySplit, Data, FileSplit, Split, pooled
from apq_tune.errors import RunError
from apq_tune.space import SearchSpace, known_spaces

__all__ = ["DATA", "AnySplit", "Data", "FileSplit", "Split", "data_digest", "load_data", "space_for"]

BY_SIZE = ("digits", "mobilenet_fashion_mnist_14", "mobilenet_fashion_mnist", "mobilenet_cifar", "apq_mobilenet")
"""Shipped spaces that a folder of images may get; the one whose size is nearest by ratio."""


def load_data(space: SearchSpace, root: str | Path | None = None) -> Data:
    """The data that a search space names, checked against its input and its classes.

    Images of a named set that are a multiple of the space's size are pooled down to it; those of a folder are resized.

    Args:
        space: whose ``data`` is the name of a set or the absolute path of a folder.
        root: folder with the files of named sets; by default ``~/.cache/apq_tune/data``.

    Raises:
        RunError: if the space names none, an unknown one (lists the known ones), or one that does not fit, and if its
            files are neither there nor can be downloaded.
    """
    size, channels = space.resolutions[-1], space.input.channels
    if is_folder(space.data):
        folder = read_folder(str(space.data))
        _check_classes(space, len(folder.classes))
        return folder.data(size, channels)
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
    place = Place.of(root)
    data = imagenet(place, size) if space.data == "imagenet" else DATA[space.data](place)
    return Data(*(pooled(split, size) for split in data))


def is_folder(data: str | None) -> bool:
    """Whether a space's ``data`` is a path."""
    return data is not None and Path(data).is_absolute()


def data_digest(space: SearchSpace) -> str | None:
    """Hash of names and sizes of a folder's images; ``None`` for a set with a name, which never changes."""
    return read_folder(str(space.data)).digest if is_folder(space.data) else None


def space_for(data: str, space: SearchSpace | None = None) -> SearchSpace:
    """A search space for a data set or a folder: channels, classes and data are replaced.

    Args:
        data: name of a set, or path of a folder.
        space: to take; by default the shipped one whose size is nearest to that of the images, by ratio.

    Raises:
        RunError: if the folder cannot be used.
    """
    if data in SHAPES:
        shape = SHAPES[data]
    else:
        folder = read_folder(data)
        data, shape = str(folder.path), Shape(folder.channels, folder.size, len(folder.classes))
    if space is None:
        spaces = [SearchSpace.load(name) for name in BY_SIZE if name in known_spaces()]
        space = min(spaces, key=lambda one: abs(math.log(one.resolutions[-1] / shape.size)))
    plain = space.model_dump(mode="json", exclude_none=True)
    plain |= {"data": data, "classes": shape.classes, "input": plain["input"] | {"channels": shape.channels}}
    return SearchSpace.from_dict(plain, f"{space.name} for {data}")


def _check_classes(space: SearchSpace, classes: int) -> None:
    if classes != space.classes:
        raise RunError(f"{space.name}: classes is {space.classes}, {space.data} has {classes}; write {classes}")
