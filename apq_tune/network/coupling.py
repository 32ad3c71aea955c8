"""Coupled channels of a traced model: which can only be kept or removed together, and which always stay.

A residual stream ties the output channels of all layers that add to it; depthwise convolutions tie their output to
their input; channels that are concatenated, split or shuffled are followed one by one. ``ties`` has the rules.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from apq_tune.errors import SpaceError
from apq_tune.network.graph import WEIGHTED, Graph, Node
from apq_tune.network.layer import IMAGE
from apq_tune.network.ties import Elements, Ties, at

LOGITS = "they are the outputs of the model"
"""Reason of channels that are the outputs of the model."""

ATTENTION = ("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")
"""Operations of ATen that multiply activations by activations."""


class ChannelMap(NamedTuple):
    """Groups and units of the channels along an axis.

    Attributes:
        group: int32 array with the index of each channel's group; -1 for channels that always stay.
        unit: int32 array with the index of its unit in the group; -1 for channels that always stay.
    """

    group: NDArray[np.int32]
    unit: NDArray[np.int32]


class Places(NamedTuple):
    """Units of the channels along all distinct axes of a model, one after the other.

    Attributes:
        units: Number of each channel's unit among those of all groups; -1 for channels that always stay.
        starts: First channel of each axis in ``units``, and their number at the end.
        outputs: Number of the axis of each node's output.
        parameters: Number of each axis of parameters and buffers; ``None`` for axes that are not cut.
    """

    units: NDArray[np.int64]
    starts: NDArray[np.int64]
    outputs: Mapping[str, int]
    parameters: Mapping[str, tuple[int | None, ...]]


class ChannelGroup(NamedTuple):
    """Units that the shapes of a network depend on in the same way, so that only their number matters for its costs.

    Attributes:
        name: Name of its first maker, with ``.part1``, ``.part2``, ... if that makes the units of several groups.
        n_units: Number of units; a unit is a set of channels that can only be kept or removed together.
        unit_channels: Number of output channels of the first maker in a unit.
        makers: Convolutions and linear layers whose output channels the units are, in order.
        readers: Convolutions and linear layers whose weights have an input axis with the units, in order.
        locked: Reason why all units are always kept; empty if they can be removed.
    """

    name: str
    n_units: int
    unit_channels: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    locked: str


@dataclass(frozen=True, eq=False)
class Coupling:
    """Coupled channels of a graph.

    Attributes:
        groups: Groups of units, in the order of their first channels.
        outputs: Channels of the output of each node, along the axis ``axes[node]``.
        inputs: Entries of the input axis of the weights of convolutions and linear layers; axis 1 of the parameter.
        axes: Axis of the channels of each node's output, without the batch.
        parameters: Channels of each axis of parameters and buffers, by name in the user's state dict; ``None`` for axes
            that are not cut.
        frozen: Names of the nodes that are kept as they are.
    """

    groups: tuple[ChannelGroup, ...]
    outputs: Mapping[str, ChannelMap]
    inputs: Mapping[str, ChannelMap]
    axes: Mapping[str, int]
    parameters: Mapping[str, tuple[ChannelMap | None, ...]]
    frozen: frozenset[str] = frozenset()

    @functools.cached_property
    def first_units(self) -> NDArray[np.int64]:
        """Number of units in the groups before each group; the last entry is the number of all units."""
        return np.cumsum([0, *(group.n_units for group in self.groups)])

    @functools.cached_property
    def places(self) -> Places:
        """Where the units of all channels are, each distinct axis once, for fast slicing."""
        numbers: dict[int, int] = {}
        own: list[ChannelMap] = []

        def number_of(axis: ChannelMap) -> int:
            if (number := numbers.setdefault(id(axis), len(own))) == len(own):
                own.append(axis)
            return number

        outputs = {name: number_of(axis) for name, axis in self.outputs.items()}
        parameters = {
            name: tuple(None if axis is None else number_of(axis) for axis in axes)
            for name, axes in self.parameters.items()
        }
        units = [np.where(axis.group < 0, -1, self.first_units[axis.group] + axis.unit) for axis in own]
        starts = np.cumsum([0, *(axis.size for axis in units)])
        return Places(np.concatenate(units), starts, outputs, parameters)

    @property
    def shrinkable(self) -> tuple[int, ...]:
        """Indices of the groups that can shrink."""
        return tuple(index for index, group in enumerate(self.groups) if not group.locked)


def couple(graph: Graph, keep: Sequence[str] = ()) -> Coupling:
    """Find the coupled channels of a graph.

    Args:
        graph: Traced model.
        keep: Globs over names of nodes, such as ``"layer4.*"``, whose inputs, outputs and weights stay as they are.

    Raises:
        SpaceError: If a glob matches no node, or the model multiplies activations by activations as attention does.
    """
    _refuse_attention(graph, keep)
    ties = Ties(graph)
    frozen = _frozen(graph, ties, keep)
    ties.lock(ties.outputs[graph.nodes[-1].name].elements, LOGITS)
    labels, reasons = _classes(ties)
    arrays = {id(own): own for own in _axes(ties)}
    group_of, unit_of, groups = _groups(graph, ties, labels, reasons, list(arrays.values()))
    maps: dict[int, ChannelMap] = {}
    distinct: dict[bytes, ChannelMap] = {}
    for key, elements in arrays.items():
        units = np.where(elements < 0, -1, labels[elements])
        maps[key] = distinct.setdefault(units.tobytes(), ChannelMap(group_of[units], unit_of[units]))
    return Coupling(
        groups,
        {name: maps[id(own.elements)] for name, own in ties.outputs.items()},
        {name: maps[id(own)] for name, own in ties.inputs.items()},
        {name: own.axis for name, own in ties.outputs.items()},
        {name: tuple(None if own is None else maps[id(own)] for own in axes) for name, axes in ties.parameters.items()},
        frozen,
    )


def _refuse_attention(graph: Graph, keep: Sequence[str]) -> None:
    """Refuse models with attention, whose channels are in sums over channels and in heads, unless it is kept."""
    for node in graph.nodes:
        operation = str(node.settings.get("target", "")).split(".")[1:2]
        kept = any(fnmatchcase(node.name, glob) for glob in keep)
        if node.kind == "opaque" and operation and operation[0] in ATTENTION and len(node.inputs) > 1 and not kept:
            glob = re.sub(r"(?<=\.)\d+(?=\.)", "*", node.name)
            raise SpaceError(
                f"{at(node)} multiplies activations by activations ({node.settings['target']}): models with attention "
                f"cannot be searched, only convolutional networks; keep that part as it is by keep=[{glob!r}]"
            )


def _frozen(graph: Graph, ties: Ties, keep: Sequence[str]) -> frozenset[str]:
    """Lock what nodes whose names match a glob read and write; their names."""
    names: set[str] = set()
    for glob in keep:
        found = [node for node in graph.nodes if fnmatchcase(node.name, glob)]
        if not found:
            names_there = ", ".join(repr(node.name) for node in graph.weighted[:3])
            if any(fnmatchcase(node.name, f"{glob}.*") for node in graph.nodes):
                raise SpaceError(f"keep: {glob!r} is the name of no layer, but of a module; write '{glob}.*'")
            raise SpaceError(f"keep: {glob!r} is the name of no layer; names are {names_there}, ...")
        for node in found:
            for own in (node.name, *node.inputs):
                if own != IMAGE:
                    ties.lock(ties.outputs[own].elements, f"{node.name!r} is kept as it is by keep=[{glob!r}]")
        names |= {node.name for node in found}
    return frozenset(names)


def _classes(ties: Ties) -> tuple[NDArray[np.int64], Mapping[int, str]]:
    """Class of tied elements of each element, numbered by first element, and the reasons of those that stay."""
    pairs = np.concatenate([*ties.pairs, np.empty((2, 0), np.int64)], axis=1)
    matrix = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(ties.n_elements,) * 2)
    _, found = connected_components(matrix, directed=False)
    _, first, labels = np.unique(found, return_index=True, return_inverse=True)
    labels = np.argsort(np.argsort(first))[labels]
    reasons: dict[int, str] = {}
    for elements, reason in ties.locks:
        for label in np.unique(labels[elements]).tolist():
            reasons.setdefault(label, reason)
    return labels, reasons


def _axes(ties: Ties) -> Iterable[Elements]:
    """Elements of all axes of channels of outputs, weights and parameters."""
    yield from (own.elements for own in ties.outputs.values())
    yield from ties.inputs.values()
    yield from (own for axes in ties.parameters.values() for own in axes if own is not None)


def _groups(
    graph: Graph, ties: Ties, labels: NDArray[np.int64], reasons: Mapping[int, str], arrays: Sequence[Elements]
) -> tuple[NDArray[np.int32], NDArray[np.int32], tuple[ChannelGroup, ...]]:
    """Group and unit of each class (with -1 at the end, for entries -1), and the groups."""
    n_classes = int(labels.max(initial=-1)) + 1
    group_of, unit_of = (np.full(n_classes + 1, -1, np.int32) for _ in range(2))
    members: dict[tuple[bytes, str], list[int]] = {}
    for label, occurrences in enumerate(_occurrences(labels, n_classes, arrays)):
        members.setdefault((occurrences, reasons.get(label, "")), []).append(label)
    makers = {node.name: labels[ties.outputs[node.name].elements] for node in graph.weighted if _makes(ties, node)}
    readers = {name: np.unique(labels[own[own >= 0]]) for name, own in ties.inputs.items()}
    found: list[ChannelGroup] = []
    for (_, reason), classes in members.items():
        first = classes[0]
        own_makers = tuple(name for name, own in makers.items() if (own == first).any())
        own_readers = tuple(name for name, own in readers.items() if (own == first).any())
        if not own_makers or (reason == LOGITS and len(own_makers) == 1):
            continue
        n_channels = int((makers[own_makers[0]] == first).sum())
        group_of[classes] = len(found)
        unit_of[classes] = np.arange(len(classes))
        if len(classes) == 1 and not reason:
            together = f"its {n_channels} channels can only be kept or removed together"
            reason = together if n_channels > 1 else "it has a single channel"
        found.append(ChannelGroup(own_makers[0], len(classes), n_channels, own_makers, own_readers, reason))
    return group_of, unit_of, _named(found)


def _makes(ties: Ties, node: Node) -> bool:
    """Whether the output channels of a convolution or linear layer are elements."""
    return node.kind in WEIGHTED and bool((ties.outputs[node.name].elements >= 0).any())


def _occurrences(labels: NDArray[np.int64], n_classes: int, arrays: Sequence[Elements]) -> Iterable[bytes]:
    """For each class, how often it occurs in each of the arrays, as bytes."""
    seen = [labels[own[own >= 0]] for own in arrays]
    places = np.repeat(np.arange(len(seen)), [own.size for own in seen])
    keys = np.concatenate([*seen, np.empty(0, np.int64)]) * len(seen) + places
    unique, counts = np.unique(keys, return_counts=True)
    rows = np.stack([unique % max(len(seen), 1), counts], axis=1)
    bounds = np.searchsorted(unique // max(len(seen), 1), np.arange(n_classes + 1))
    return (rows[start:stop].tobytes() for start, stop in itertools.pairwise(bounds))


def _named(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Number the groups that have the same first maker."""
    names = [group.name for group in groups]
    seen: dict[str, int] = {}
    renamed = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        if names.count(group.name) > 1:
            part = f"{group.name}.part{seen[group.name]}"
            group = group._replace(name=f"{part}_" if part in names else part)
        renamed.append(group)
    return tuple(renamed)
