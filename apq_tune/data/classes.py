"""Names of the classes of data sets, in the order of their labels."""

from __future__ import annotations

from pathlib import Path

from apq_tune.data.folder import read_folder
from apq_tune.space.network_space import NetworkSpace

NAMES: dict[str, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""Class names of named data sets; classes of the others are named by their numbers."""


def class_names(space: NetworkSpace) -> tuple[str, ...]:
    """Class names of the data set that a search space names.

    Raises:
        RunError: If the data set is a folder of images that cannot be read.
    """
    if space.data is not None and Path(space.data).is_absolute():
        return read_folder(space.data).classes
    return NAMES.get(str(space.data), numbered(space.classes))


def numbered(n: int) -> tuple[str, ...]:
    """Numbers as names of ``n`` classes."""
    return tuple(map(str, range(n)))
