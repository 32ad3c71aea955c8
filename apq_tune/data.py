"""Images in memory, in three parts: ``train`` fits weights, ``search`` makes every choice, ``test`` only reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.space import SearchSpace


class Split(NamedTuple):
    """Labelled images."""

    images: NDArray[np.float32]  # (n, channels, size, size), 0 to 1
    labels: NDArray[np.int64]  # (n,)


class Data(NamedTuple):
    """The three parts of a data set; no image is in two of them."""

    train: Split
    search: Split
    test: Split


def digits() -> Data:
    """scikit-learn's handwritten digits (Alpaydin 1998): 8 x 8 pixels, split 50 / 25 / 25, classes balanced.

    The split is the same in every run, so that runs of different seeds report on the same test images.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    train, rest, y_train, y_rest = train_test_split(images, labels, test_size=0.5, stratify=labels, random_state=0)
    search, test, y_search, y_test = train_test_split(rest, y_rest, test_size=0.5, stratify=y_rest, random_state=0)
    return Data(Split(train, y_train), Split(search, y_search), Split(test, y_test))


DATA: dict[str, Callable[[], Data]] = {"digits": digits}


def load_data(space: SearchSpace) -> Data:
    """The data set that a search space names, checked against its input and its classes.

    Raises:
        RunError: if the space names none, an unknown one (lists the known ones), or one that does not fit.
    """
    if space.data not in DATA:
        raise RunError(f"{space.name}: data is {space.data!r}; known data sets: {', '.join(DATA)}")
    data = DATA[space.data]()
    expected = (space.input.channels, space.input.size, space.input.size)
    if data.train.images.shape[1:] != expected:
        raise RunError(f"{space.name}: input is {expected}, images of {space.data} are {data.train.images.shape[1:]}")
    classes = int(data.train.labels.max()) + 1
    if classes != space.classes:
        raise RunError(f"{space.name}: classes is {space.classes}, {space.data} has {classes}")
    return data
