"""Layers of a traced model as they are stored: convolutions with their batch norm, operations with their activation."""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.network.graph import MOVING, WEIGHTED, Graph, Node
from apq_tune.network.layer import IMAGE

PLAIN = (*MOVING, "concat", "mean", "function", "opaque", "layer_norm")
"""Kinds that no activation function is joined to: they have no arithmetic of their own, or keep to floating point."""


class FusedLayer(NamedTuple):
    """Nodes that are computed together, of which only the last one's output is stored.

    Attributes:
        main: First node, whose name is that of the layer.
        inputs: Names of the layers that it reads; ``IMAGE`` for the input of the model.
        norm: Batch norm right behind a convolution or a linear layer that nothing else reads.
        function: Activation function at the end.
    """

    main: Node
    inputs: tuple[str, ...]
    norm: Node | None = None
    function: Node | None = None

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.main.name

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its nodes in order."""
        return tuple(node for node in (self.main, self.norm, self.function) if node is not None)

    @property
    def last(self) -> Node:
        """Node whose output is stored."""
        return self.nodes[-1]


def fused(graph: Graph) -> tuple[FusedLayer, ...]:
    """Join the nodes of a graph to layers, in order.

    A batch norm is joined to the convolution or linear layer before it, and an activation function to the operation
    before it, where nothing else reads what is between them.
    """
    taken: dict[str, str] = {IMAGE: IMAGE}  # layer of each node
    layers: list[FusedLayer] = []
    for node in graph.nodes:
        if node.name in taken:
            continue
        norm = function = None
        last = node
        if node.kind in WEIGHTED and (after := _only_reader(graph, last)) is not None and after.kind == "norm":
            norm = last = after
        if node.kind not in PLAIN and (after := _only_reader(graph, last)) is not None and after.kind == "function":
            function = last = after
        layer = FusedLayer(node, tuple(taken[name] for name in node.inputs), norm, function)
        taken |= {own.name: layer.name for own in layer.nodes}
        layers.append(layer)
    return tuple(layers)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    """Node that alone reads the output of another one; ``None`` if there are several, or it is the model's output."""
    readers = graph.readers[node.name]
    if node is graph.nodes[-1] or len(readers) != 1 or readers[0].inputs != (node.name,):
        return None
    return readers[0]
