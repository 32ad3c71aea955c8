"""Networks with fewer channels: the graph of kept units, and where their parameters are in those of the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import CandidateError
from apq_tune.network.coupling import ChannelMap, Coupling
from apq_tune.network.graph import Graph, Node
from apq_tune.network.ties import moved

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
    cut = _Cut(coupling, _unit_mask(coupling, kept))
    nodes = tuple(_sliced(node, coupling, cut) for node in graph.nodes)
    takes: dict[str, tuple[Indices | None, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in graph.shapes.items():
        takes[name] = own = tuple(cut.indices(axis) for axis in coupling.parameters[name])
        shapes[name] = tuple(size if taken is None else taken.size for size, taken in zip(shape, own, strict=True))
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
    """Kept entries of each axis, computed once for each distinct one."""

    def __init__(self, coupling: Coupling, units: NDArray[np.bool_]) -> None:
        self._places = coupling.places
        self._units = units
        self._masks: dict[int, NDArray[np.bool_]] = {}
        self._indices: dict[int, Indices | None] = {}

    def mask(self, axis: ChannelMap) -> NDArray[np.bool_]:
        """Whether each entry is kept."""
        if (own := self._masks.get(id(axis))) is None:
            own = self._masks[id(axis)] = self._units[self._places[id(axis)]]
        return own

    def indices(self, axis: ChannelMap | None) -> Indices | None:
        """Kept entries; ``None`` if all are."""
        if axis is None:
            return None
        if id(axis) not in self._indices:
            mask = self.mask(axis)
            self._indices[id(axis)] = None if mask.all() else np.flatnonzero(mask)
        return self._indices[id(axis)]


def _sliced(node: Node, coupling: Coupling, cut: _Cut) -> Node:
    """Node with the kept channels of its inputs and its output."""
    output = coupling.outputs[node.name]
    source = coupling.outputs.get(node.inputs[0]) if node.kind in ("slice", "select", "shuffle") else None
    left = cut.indices(output)
    if source is not None and cut.indices(source) is not None:
        node = _moved(node, cut.mask(source))
    if left is None:
        return node
    axis, settings = coupling.axes[node.name], node.settings
    if node.kind == "conv" and settings["groups"] > 1:
        settings = {**settings, "groups": settings["groups"] * left.size // node.shape[0]}
    return node._replace(shape=(*node.shape[:axis], left.size, *node.shape[axis + 1 :]), settings=settings)


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
