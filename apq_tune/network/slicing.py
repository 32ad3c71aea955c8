"""Networks with fewer channels: the graph of kept units, and where their parameters are in those of the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError
from apq_tune.network.coupling import Coupling, Places
from apq_tune.network.graph import Graph, Node
from apq_tune.network.ties import GROUP_NORM, moved

Indices = NDArray[np.int64]


class Sliced(NamedTuple):
    """Network with some of the channels of another one.

    Attributes:
        graph: Its graph; nodes and parameters have the names that they had.
        takes: For each parameter and buffer by name, the indices along each of its axes that it has of the whole
            model's, ascending; ``None`` for axes that are not cut. So ``tensor[indices]`` axis by axis is its tensor.
    """

    graph: Graph
    takes: Mapping[str, tuple[Indices | None, ...]]


def slice_graph(graph: Graph, coupling: Coupling, kept: Mapping[int, NDArray[np.bool_]]) -> Sliced:
    """Remove channels from a graph; those that stay keep their order.

    Args:
        graph: Traced model, possibly without some blocks or at another image size.
        coupling: Coupled channels of the whole model.
        kept: For each group that shrinks, by index, which of its units are kept.

    Raises:
        CandidateError: If a group would be empty, a locked one would shrink, or a mask is not one value for each unit.
    """
    places = coupling.places
    cut = _Cut(places, _unit_mask(coupling, kept))
    nodes = tuple(_sliced(node, coupling, cut) for node in graph.nodes)
    takes: dict[str, tuple[Indices | None, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in graph.shapes.items():
        axes = places.parameters[name]
        takes[name] = own = cut.takes(axes)
        if any(taken is not None for taken in own):
            shape = tuple(size if taken is None else taken.size for size, taken in zip(shape, own, strict=True))
        shapes[name] = shape
    return Sliced(Graph(graph.image, nodes, shapes), takes)


def _unit_mask(coupling: Coupling, kept: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Whether each unit of all groups is kept, with a last entry for channels that always stay."""
    first = coupling.first_units
    mask = np.ones(int(first[-1]) + 1, bool)
    for index, own in kept.items():
        group = coupling.groups[index]
        if own.shape != (group.n_units,) or own.dtype != np.bool_:
            raise CandidateError(
                f"{group.name!r}: needs a mask of {group.n_units} units, got {own.dtype} of shape {own.shape}"
            )
        if not own.any():
            raise CandidateError(f"{group.name!r}: no channel is kept; keep at least one of its {group.n_units} units")
        if group.locked and not own.all():
            raise CandidateError(
                f"{group.name!r}: {int(own.sum())} of {group.n_units} units are kept, but {group.locked}"
            )
        mask[first[index] : first[index + 1]] = own
    return mask


class _Cut:
    """Kept channels along each axis.

    Attributes:
        indices: Kept channels along each axis of ``Places``, ascending; ``None`` if all are.
    """

    def __init__(self, places: Places, units: NDArray[np.bool_]) -> None:
        self._kept = units[places.units]
        self._starts: list[int] = places.starts.tolist()
        stays = np.logical_and.reduceat(self._kept, places.starts[:-1]).tolist()
        self.indices = [None if whole else self.mask(axis).nonzero()[0] for axis, whole in enumerate(stays)]
        self._takes: dict[tuple[int | None, ...], tuple[Indices | None, ...]] = {}

    def mask(self, axis: int) -> NDArray[np.bool_]:
        """Whether each channel along an axis is kept."""
        return self._kept[self._starts[axis] : self._starts[axis + 1]]

    def takes(self, axes: tuple[int | None, ...]) -> tuple[Indices | None, ...]:
        """Indices along the axes of a parameter."""
        if (own := self._takes.get(axes)) is None:
            own = self._takes[axes] = tuple(None if axis is None else self.indices[axis] for axis in axes)
        return own


def _sliced(node: Node, coupling: Coupling, cut: _Cut) -> Node:
    """Node with the kept channels of its inputs and its output."""
    outputs = coupling.places.outputs
    left = cut.indices[outputs[node.name]]
    if node.kind in ("slice", "select", "shuffle"):
        source = outputs.get(node.inputs[0])
        if source is not None and cut.indices[source] is not None:
            node = _moved(node, cut.mask(source))
    if left is None:
        return node
    axis, settings = coupling.axes[node.name], node.settings
    if node.kind == "conv" and settings["groups"] > 1:
        settings = {**settings, "groups": settings["groups"] * left.size // node.shape[0]}
    elif node.kind == "opaque" and settings["target"] == GROUP_NORM:
        source, groups, *others = settings["arguments"]
        settings = {**settings, "arguments": [source, groups * left.size // node.shape[0], *others]}
    elif node.kind == "pad" and "channels" in settings:
        settings = {**settings, "channels": _padded(settings["channels"], cut.mask(outputs[node.name]))}
    return node._replace(shape=(*node.shape[:axis], left.size, *node.shape[axis + 1 :]), settings=settings)


def _padded(channels: Sequence[int], mask: NDArray[np.bool_]) -> list[int]:
    """Kept channels of zeros before and after the others."""
    before, after = channels
    return [int(mask[:before].sum()), int(mask[mask.size - after :].sum())]


def _moved(node: Node, mask: NDArray[np.bool_]) -> Node:
    """Slice, select or shuffle of the kept channels, as a select if it cannot be expressed otherwise.

    Args:
        node: Node of one of these kinds, with the shape that it had.
        mask: Which channels of its input are kept.
    """
    settings: Mapping[str, Any] = node.settings
    number = np.cumsum(mask)
    if node.kind == "slice":
        bounds = [0, *number.tolist()]
        return node._replace(settings={"start": bounds[settings["start"]], "stop": bounds[settings["stop"]]})
    wanted = moved(node, mask.size)
    indices = number[wanted[mask[wanted]]] - 1
    whole = node.kind == "shuffle" and indices.size % settings["groups"] == 0
    if whole and np.array_equal(indices, moved(node, indices.size)):
        return node
    return node._replace(kind="select", settings={"indices": indices.tolist()})
