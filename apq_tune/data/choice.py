"""Which search space a data set gets, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from apq_tune.data.folder import Folder, read_folder
from apq_tune.data.named import SHAPES, Shape
from apq_tune.errors import ProblemError
from apq_tune.space import SearchSpace, known_spaces

BY_SIZE = ("digits", "mobilenet_fashion_mnist_14", "mobilenet_fashion_mnist", "mobilenet_cifar", "apq_mobilenet")
"""Shipped spaces that a data set may get by itself."""

Complaint = Callable[[SearchSpace], str | None]
"""What a space cannot keep of the limits that are asked for; ``None`` if it keeps them all."""


class Choice(NamedTuple):
    """A space for a data set.

    Attributes:
        space: with the data set's channels, classes and name.
        reason: why it was taken, a full phrase.
    """

    space: SearchSpace
    reason: str


def choose_space(data: str, space: SearchSpace | None = None, complaint: Complaint | None = None) -> Choice:
    """A search space for a data set or a folder: channels, classes and data are replaced.

    Args:
        data: name of a set, or path of a folder.
        space: to take; by default, among the shipped ones that can keep all limits, the one whose size is nearest to
            that of the images, by ratio.
        complaint: what a space cannot keep of the limits.

    Raises:
        RunError: if the folder cannot be used.
        ProblemError: if no shipped space keeps the limits.
    """
    if data in SHAPES:
        shape = SHAPES[data]
    else:
        folder: Folder = read_folder(data)
        data, shape = str(folder.path), Shape(folder.channels, folder.size, len(folder.classes))
    if space is not None:
        return Choice(_fitted(space, data, shape), "it was asked for")
    spaces = sorted(
        (SearchSpace.load(name) for name in BY_SIZE if name in known_spaces()),
        key=lambda one: abs(math.log(one.resolutions[-1] / shape.size)),
    )
    passed_over: list[str] = []
    for one in spaces:
        fitted = _fitted(one, data, shape)
        said = complaint(fitted) if complaint is not None else None
        if said is None:
            reason = f"its {_sizes(one)} pixels are nearest to the images' {shape.size}"
            if passed_over:
                reason += f", of those shipped that can keep the limits ({passed_over[0]})"
            return Choice(fitted, reason)
        passed_over.append(f"{one.name} cannot: {said}")
    raise ProblemError(f"no shipped space keeps all limits for {data}: {passed_over[0]}")


def space_for(data: str, space: SearchSpace | None = None, complaint: Complaint | None = None) -> SearchSpace:
    """The space of ``choose_space``."""
    return choose_space(data, space, complaint).space


def spaces_that_keep(space: SearchSpace, complaint: Complaint) -> list[str]:
    """Names of the shipped spaces that keep all limits with the input and the classes of a space."""
    shape = Shape(space.input.channels, space.resolutions[-1], space.classes)
    return [
        name
        for name in BY_SIZE
        if name in known_spaces() and complaint(_fitted(SearchSpace.load(name), space.data, shape)) is None
    ]


def _sizes(space: SearchSpace) -> str:
    least, most = space.resolutions[0], space.resolutions[-1]
    return str(most) if least == most else f"{least} to {most}"


def _fitted(space: SearchSpace, data: str | None, shape: Shape) -> SearchSpace:
    plain = space.model_dump(mode="json", exclude_none=True)
    plain |= {"classes": shape.classes, "input": plain["input"] | {"channels": shape.channels}}
    plain |= {"data": data} if data is not None else {}
    return SearchSpace.from_dict(plain, f"{space.name} for {data}")
