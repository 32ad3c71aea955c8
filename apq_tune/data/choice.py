"""Choice of a shipped search space for a data set, with the reason for it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

from apq_tune.data.folder import Folder, read_folder
from apq_tune.data.named import SHAPES, Shape
from apq_tune.errors import ReachError, SpaceError
from apq_tune.space.network_space import NetworkSpace
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.shipped import known_spaces

BY_SIZE = ("digits", "mobilenet_fashion_mnist_14", "mobilenet_fashion_mnist", "mobilenet_cifar", "apq_mobilenet")
"""Shipped search spaces that may be chosen automatically."""

FOR_LIMITS = (*BY_SIZE, "mcu_color")
"""Shipped search spaces that may be chosen when constraints are given; some suit only tight constraints."""

ROOM = 1.5
"""Factor by which the smallest network of a suitable space must undercut a limit, so that there is a choice left."""

LARGER = 1.5
"""Resolutions above this multiple of the images' own size are dropped, as upscaling adds no information."""

Complaint = Callable[[NetworkSpace, float], str | None]
"""Function from a search space and a margin (a factor of at least 1) to a message about a constraint that the space
cannot satisfy with that margin; ``None`` if it can satisfy all of them."""


class SuitedSpace(NamedTuple):
    """Search space chosen for a data set.

    Attributes:
        space: Search space with the channels, classes and name of the data set.
        reason: One line that names the space and says why it was chosen.
    """

    space: NetworkSpace
    reason: str


def choose_space(data: str, space: NetworkSpace | None = None, complain: Complaint | None = None) -> SuitedSpace:
    """Choose a search space for a data set or a folder, and set its channels, classes and data accordingly.

    Args:
        data: Name of a data set or path of a folder.
        space: Search space to adapt. By default the shipped space that can satisfy all constraints and whose input
            size is nearest, by ratio, to that of the images.
        complain: Check of a space against the constraints, if there are any.

    Raises:
        RunError: If the folder cannot be used.
        ReachError: If no shipped space can satisfy the constraints.
    """
    data, shape = data_shape(data)
    if space is not None:
        return SuitedSpace(_fitted(space, data, shape), f"space: {space.name}, as asked for")
    spaces = [
        _fitted(_not_above(SearchSpace.load(name), LARGER * shape.size), data, shape)
        for name in (BY_SIZE if complain is None else FOR_LIMITS)
        if name in known_spaces()
    ]
    if data in SHAPES:  # images of named data sets are pooled, not resized
        spaces = [one for one in spaces if data == "imagenet" or shape.size % one.resolutions[-1] == 0]
    spaces.sort(key=lambda one: _distance(one, shape.size))
    said = ""
    for whole, room in ((False, ROOM), (False, 1.0), (True, 1.0)):
        for one in spaces:
            judged = one if whole else _at_full_size(one)
            complaint = complain(judged, room) if complain is not None else None
            if complaint is None:
                return SuitedSpace(
                    one, f"space: {one.name}, {_reason(one, shape.size, said)}; another one: apq-tune run SPACE"
                )
            where = "" if judged is one else f" at {judged.resolutions[-1]} pixels"
            said = said or f"{one.name}{where}: {complaint}"
    raise ReachError(f"no shipped space keeps all limits; {said}")


def data_shape(data: str) -> tuple[str, Shape]:
    """Name of a data set or absolute path of a folder, and the shape of its images.

    Raises:
        RunError: If the folder cannot be used.
    """
    if data in SHAPES:
        return data, SHAPES[data]
    folder: Folder = read_folder(data)
    return str(folder.path), Shape(folder.channels, folder.size, len(folder.classes))


def _reason(space: NetworkSpace, size: int, passed_over: str) -> str:
    reason = f"{_sizes(space)} pixels, nearest to the images' {size}"
    return reason + (
        f" among the shipped ones that satisfy the limits with a margin (unlike {passed_over})" if passed_over else ""
    )


def _distance(space: NetworkSpace, size: int) -> float:
    """Absolute log ratio of an image size and the nearest resolution of the space."""
    return min(abs(math.log(resolution / size)) for resolution in space.resolutions)


def _not_above(space: SearchSpace, size: float) -> SearchSpace:
    """Drop the resolutions above ``size``, keeping at least two, and those that the largest kernels need."""
    sizes = list(space.resolutions)
    for n in range(max(2, sum(one <= size for one in sizes)), len(sizes)):
        plain = space.to_dict()
        plain["input"]["size"] = sizes[:n]
        with contextlib.suppress(SpaceError):  # feature maps that are smaller than a kernel
            return SearchSpace.from_dict(plain, space.name)
    return space


def _at_full_size(space: NetworkSpace) -> NetworkSpace:
    """The space at its largest input alone, at which it is judged, since smaller inputs cost accuracy first.

    Spaces that are chosen for limits only are judged as they are.
    """
    if space.name not in BY_SIZE or len(space.resolutions) == 1:
        return space
    plain = space.to_dict()
    plain["input"]["size"] = space.resolutions[-1]
    return SearchSpace.from_dict(plain, space.name)


def space_for(data: str, space: NetworkSpace | None = None, complain: Complaint | None = None) -> NetworkSpace:
    """Search space that ``choose_space`` chooses, without the reason."""
    return choose_space(data, space, complain).space


def spaces_that_keep(space: NetworkSpace, complain: Complaint) -> list[str]:
    """Names of the shipped spaces that satisfy all constraints with the channels and classes of the given space."""
    shape = Shape(space.input.channels, space.resolutions[-1], space.classes)
    return [
        name
        for name in FOR_LIMITS
        if name in known_spaces() and complain(_fitted(SearchSpace.load(name), space.data, shape), 1.0) is None
    ]


def _sizes(space: NetworkSpace) -> str:
    least, most = space.resolutions[0], space.resolutions[-1]
    return str(most) if least == most else f"{least} to {most}"


def _fitted(space: NetworkSpace, data: str | None, shape: Shape) -> NetworkSpace:
    return space.fitted(space.data if data is None else data, shape.channels, shape.classes)
