"""Which search space a data set gets, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from apq_tune.data.folder import Folder, read_folder
from apq_tune.data.named import SHAPES, Shape
from apq_tune.errors import ReachError
from apq_tune.space.search_space import SearchSpace, known_spaces

BY_SIZE = ("digits", "mobilenet_fashion_mnist_14", "mobilenet_fashion_mnist", "mobilenet_cifar", "apq_mobilenet")
"""Shipped spaces that a data set may get by itself."""

FOR_LIMITS = (*BY_SIZE, "mcu_color")
"""The same where limits are given: with those that nobody would take without."""

ROOM = 1.5
"""A space suits a limit if its smallest network takes that much less: else next to nothing is left to choose from."""

LARGER = 1.5
"""Resolutions above that many times the images' own show networks nothing new."""

Complaint = Callable[[SearchSpace, float], str | None]
"""What a space cannot keep of limits with some room, a factor of 1 or more; ``None`` if it keeps them all."""


class Choice(NamedTuple):
    """A space for a data set.

    Attributes:
        space: with the data set's channels, classes and name.
        reason: a line that says which it is, and why.
    """

    space: SearchSpace
    reason: str


def choose_space(data: str, space: SearchSpace | None = None, complain: Complaint | None = None) -> Choice:
    """A search space for a data set or a folder: channels, classes and data are replaced.

    Args:
        data: name of a set, or path of a folder.
        space: to take; by default, among the shipped ones that can keep all limits, the one whose size is nearest to
            that of the images, by ratio.
        complain: tells what a space cannot keep of the limits, if there are any.

    Raises:
        RunError: if the folder cannot be used.
        ReachError: if no shipped space keeps the limits.
    """
    if data in SHAPES:
        shape = SHAPES[data]
    else:
        folder: Folder = read_folder(data)
        data, shape = str(folder.path), Shape(folder.channels, folder.size, len(folder.classes))
    if space is not None:
        return Choice(_fitted(space, data, shape), f"space: {space.name}, as asked for")
    spaces = [
        _fitted(_not_above(SearchSpace.load(name), LARGER * shape.size), data, shape)
        for name in (BY_SIZE if complain is None else FOR_LIMITS)
        if name in known_spaces()
    ]
    if data in SHAPES:  # whose images are pooled, not resized
        spaces = [one for one in spaces if data == "imagenet" or shape.size % one.resolutions[-1] == 0]
    spaces.sort(key=lambda one: _distance(one, shape.size))
    said = ""
    for room in (ROOM, 1.0):
        for one in spaces:
            complaint = complain(one, room) if complain is not None else None
            if complaint is None:
                return Choice(
                    one, f"space: {one.name}, {_reason(one, shape.size, said)}; another one: apq-tune run SPACE"
                )
            said = said or f"{one.name}: {complaint}"
    raise ReachError(f"no shipped space keeps all limits; {said}")


def _reason(space: SearchSpace, size: int, passed_over: str) -> str:
    reason = f"{_sizes(space)} pixels, nearest to the images' {size}"
    return reason + (f" among the shipped ones that keep the limits well (not so {passed_over})" if passed_over else "")


def _distance(space: SearchSpace, size: int) -> float:
    """Between an image's size and the nearest one that the space can take, as the logarithm of their ratio."""
    return min(abs(math.log(resolution / size)) for resolution in space.resolutions)


def _not_above(space: SearchSpace, size: float) -> SearchSpace:
    """The space without the resolutions above a size, but with two at least."""
    kept = list(space.resolutions[: max(2, sum(one <= size for one in space.resolutions))])
    if len(kept) == len(space.resolutions):
        return space
    plain = space.model_dump(mode="json", exclude_none=True)
    plain["input"]["size"] = kept
    return SearchSpace.from_dict(plain, space.name)


def space_for(data: str, space: SearchSpace | None = None, complain: Complaint | None = None) -> SearchSpace:
    """The space of ``choose_space``."""
    return choose_space(data, space, complain).space


def spaces_that_keep(space: SearchSpace, complain: Complaint) -> list[str]:
    """Names of the shipped spaces that can keep all limits, given the channels and the classes of a space."""
    shape = Shape(space.input.channels, space.resolutions[-1], space.classes)
    return [
        name
        for name in FOR_LIMITS
        if name in known_spaces() and complain(_fitted(SearchSpace.load(name), space.data, shape), 1.0) is None
    ]


def _sizes(space: SearchSpace) -> str:
    least, most = space.resolutions[0], space.resolutions[-1]
    return str(most) if least == most else f"{least} to {most}"


def _fitted(space: SearchSpace, data: str | None, shape: Shape) -> SearchSpace:
    plain = space.model_dump(mode="json", exclude_none=True)
    plain |= {"classes": shape.classes, "input": plain["input"] | {"channels": shape.channels}}
    plain |= {"data": data} if data is not None else {}
    return SearchSpace.from_dict(plain, f"{space.name} for {data}")
