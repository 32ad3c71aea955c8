"""Images to train, to choose and to report on: sets with a name and folders of images."""

from __future__ import annotations

from pathlib import Path

from apq_tune.data.named import DATA, Place
from apq_tune.data.split import Data, Split, pooled
from apq_tune.errors import RunError
from apq_tune.space import SearchSpace

__all__ = ["DATA", "Data", "Split", "load_data"]


def load_data(space: SearchSpace, root: str | Path | None = None) -> Data:
    """The data set that a search space names, checked against its input and its classes.

    Images of a multiple of the space's size are pooled down to it.

    Args:
        space: whose ``data`` names it.
        root: folder with the files of data sets; by default ``~/.cache/apq_tune/data``.

    Raises:
        RunError: if the space names none, an unknown one (lists the known ones), or one that does not fit, and if its
            files are neither there nor can be downloaded.
    """
    if space.data not in DATA:
        raise RunError(f"{space.name}: data is {space.data!r}; known data sets: {', '.join(DATA)}")
    data = DATA[space.data](Place.of(root))
    channels, size, _ = data.train.shape
    wanted = space.resolutions[-1]
    if channels != space.input.channels or size % wanted:
        raise RunError(
            f"{space.name}: input is {space.input.channels} x {wanted} x {wanted}, images of {space.data} are "
            f"{channels} x {size} x {size}; give the same channels and a size that divides {size}"
        )
    classes = int(data.train.labels.max()) + 1
    if classes != space.classes:
        raise RunError(f"{space.name}: classes is {space.classes}, {space.data} has {classes}")
    return Data(*(pooled(split, wanted) for split in data))
