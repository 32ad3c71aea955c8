"""Graph of a traced model: its operations in order, each of one of few kinds, with the names that the user gave.

Graphs hold no tensors and need no torch: a node names its parameters as the state dict of the user's model does.
``apq_tune.tracing`` makes graphs of torch modules and runs them; ``apq_tune.network.coupling`` finds which channels are
tied; ``apq_tune.network.fused`` joins nodes to layers whose outputs are stored.

Kinds of nodes, their parameters and their settings (shapes and axes without the batch):

- ``conv``: parameters ``weight`` and possibly ``bias``; settings ``stride`` ``[h, w]``, ``padding`` ``[top, left,
  bottom, right]``, ``dilation`` ``[h, w]``, ``groups``.
- ``linear``: ``weight`` and possibly ``bias``; on the last axis.
- ``norm``: batch norm over axis 0: ``mean``, ``variance``, possibly ``weight`` and ``bias``; setting ``eps``.
- ``affine``: ``weight`` and/or ``bias`` with one value for each channel, in a tensor whose other axes have size 1;
  setting ``axis`` of the channels.
- ``layer_norm``: possibly ``weight`` and ``bias``; over the last axis; setting ``eps``.
- ``function``: setting ``name``, a ``Function``; ``slope`` of ``leaky_relu``; ``factor`` and ``offset`` of ``scale``.
- ``add``: two inputs of equal shape.
- ``multiply``: two inputs, the second of equal shape or ``(channels, 1, 1)``.
- ``concat``: two or more inputs, along axis 0.
- ``slice``: settings ``start``, ``stop`` along axis 0.
- ``select``: setting ``indices`` along axis 0, ascending or not.
- ``shuffle``: setting ``groups``; channel ``g * n + i`` becomes channel ``i * groups + g``, with n channels in a group.
- ``mean``: over all pixels; setting ``keep``: whether the output is ``(channels, 1, 1)`` rather than ``(channels,)``.
- ``max_pool``: settings ``kernel``, ``stride``, ``dilation`` ``[h, w]``, ``padding`` as of ``conv``.
- ``avg_pool``: settings ``kernel``, ``stride`` ``[h, w]``, ``padding`` as of ``conv``, ``count_padding``: whether
  padding counts. Both pools have ``ceil``, where the last of their padding follows from rounding up, and ``adaptive``,
  where the kernel follows from the size of the output; these two matter only at other image sizes.
- ``flatten``: ``(channels, h, w)`` to ``(channels * h * w,)``, and back from ``(channels,)`` to ``(channels, 1, 1)``.
- ``pad``: settings ``padding`` as of ``conv``, ``value``; ``channels``, where there are any, the numbers of channels of
  that value ``[before, after]`` the others.
- ``upsample``: settings ``factor``, an integer, ``mode`` ``"nearest"`` or ``"bilinear"`` (half-pixel centres).
- ``permute``: setting ``order`` of the axes.
- ``opaque``: any other operation; parameters ``"0"``, ``"1"``, ...; settings ``target`` (``"aten.softmax.int"``),
  ``arguments`` and possibly ``keywords``: plain values, ``{"input": 0}`` for the first input, ``{"parameter": "0"}``,
  ``{"size": [0, 2]}`` for twice the batch of the first input, ``{"constant": ..., "dtype": ...}``, ``{"dtype": ...}``,
  ``{"torch": "strided"}``, ``{"device": "image"}``, ``{"float": "inf"}``; ``output``: which one is meant, of operations
  that have several; ``pointwise``, where each value depends on the values at the same place of inputs of its shape
  alone, and on a parameter for each channel. It may have no inputs, and its output no batch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from apq_tune.errors import SpaceError
from apq_tune.network.layer import IMAGE

NodeKind = Literal[
    "conv",
    "linear",
    "norm",
    "affine",
    "layer_norm",
    "function",
    "add",
    "multiply",
    "concat",
    "slice",
    "select",
    "shuffle",
    "mean",
    "max_pool",
    "avg_pool",
    "flatten",
    "pad",
    "upsample",
    "permute",
    "opaque",
]

WEIGHTED: tuple[NodeKind, ...] = ("conv", "linear")
"""Kinds whose weights are quantized and counted."""

MOVING: tuple[NodeKind, ...] = ("slice", "select", "shuffle", "max_pool", "flatten", "pad", "permute")
"""Kinds that move or select values without arithmetic: their output keeps the scale and bits of their input."""


class Node(NamedTuple):
    """Operation of a traced model.

    Attributes:
        name: Unique name: of layers with parameters their path in the user's module (``"layer1.0.conv1"``), of others
            the path of the module that computes them and the kind (``"layer1.0.add"``), numbered if it is not unique.
        kind: Operation.
        inputs: Names of the nodes that it reads, in order; ``IMAGE`` for the input of the model.
        shape: Shape of the output without the batch: ``(channels, h, w)``, ``(channels,)``, or that of an opaque node.
        settings: Settings by name, plain values.
        parameters: Names of parameters and buffers in the user's state dict, by their role.
        place: Place in the user's source, ``"net.py:12"``; empty if it is not known.
    """

    name: str
    kind: NodeKind
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = MappingProxyType({})
    parameters: Mapping[str, str] = MappingProxyType({})
    place: str = ""


@dataclass(frozen=True)
class Graph:
    """Traced model with one image as input and one tensor as output.

    Attributes:
        image: Shape of the image, ``(channels, h, w)``.
        nodes: Nodes in an order in which each reads earlier ones; the last one is the output of the model.
        shapes: Shapes of the parameters and buffers by name in the user's state dict, of those that nodes name.
    """

    image: tuple[int, int, int]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @functools.cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @functools.cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """Nodes that read the output of each node, and of ``IMAGE``, in order."""
        found: dict[str, list[Node]] = {name: [] for name in (IMAGE, *self.by_name)}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(own) for name, own in found.items()}

    @property
    def weighted(self) -> tuple[Node, ...]:
        """Convolutions and linear layers in order."""
        return tuple(node for node in self.nodes if node.kind in WEIGHTED)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of the output of a node, or of ``IMAGE``."""
        return self.image if name == IMAGE else self.by_name[name].shape

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the places in the source."""
        plain = self.to_plain()
        for node in plain["nodes"]:
            node.pop("place", None)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON and YAML."""
        nodes = []
        for node in self.nodes:
            plain: dict[str, Any] = {"name": node.name, "kind": node.kind, "inputs": list(node.inputs)}
            plain["shape"] = list(node.shape)
            for key, value in (("settings", node.settings), ("parameters", node.parameters)):
                if value:
                    plain[key] = dict(value)
            if node.place:
                plain["place"] = node.place
            nodes.append(plain)
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"image": list(self.image), "nodes": nodes, "shapes": shapes}

    @classmethod
    def from_plain(cls, plain: Any, source: str = "graph") -> Graph:
        """Inverse of ``to_plain``.

        Args:
            plain: Plain data.
            source: Name of the file, for messages.

        Raises:
            SpaceError: If it is not a graph; the message names the file, the node and the fault.
        """
        try:
            nodes = tuple(
                Node(
                    node["name"],
                    node["kind"],
                    tuple(node["inputs"]),
                    tuple(node["shape"]),
                    node.get("settings", {}),
                    node.get("parameters", {}),
                    node.get("place", ""),
                )
                for node in plain["nodes"]
            )
            shapes = {name: tuple(shape) for name, shape in plain["shapes"].items()}
            graph = cls(tuple(plain["image"]), nodes, shapes)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SpaceError(f"{source}: is not a graph of a model ({error}); trace the model again") from None
        _check(graph, source)
        return graph


def _check(graph: Graph, source: str) -> None:
    """Refuse graphs whose nodes read later ones, repeat names or have unknown kinds or parameters."""
    known = {IMAGE}
    again = "trace the model again"
    if not graph.nodes:
        raise SpaceError(f"{source}: has no nodes; {again}")
    for node in graph.nodes:
        if node.name in known:
            raise SpaceError(f"{source}: two nodes have the name {node.name!r}; {again}")
        if node.kind not in get_args(NodeKind):
            raise SpaceError(f"{source}: node {node.name!r} is of the unknown kind {node.kind!r}; {again}")
        if missing := [name for name in node.inputs if name not in known]:
            raise SpaceError(f"{source}: node {node.name!r} reads {missing[0]!r}, which comes later; {again}")
        if missing := [name for name in node.parameters.values() if name not in graph.shapes]:
            raise SpaceError(f"{source}: node {node.name!r} has the parameter {missing[0]!r} of no shape; {again}")
        known.add(node.name)
