"""Patterns of several operations as the one node that they are, and nodes that nothing reads removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from apq_tune.network.graph import Graph, Node

RESHAPE = "aten.reshape.default"
"""Target of opaque nodes that change the shape of each image and keep the order of its values."""


def simplified(graph: Graph) -> Graph:
    """Graph with every pattern replaced; names of the last node of each stay.

    Args:
        graph: Graph as it was traced.
    """
    before = None
    while before != graph.nodes:
        before = graph.nodes
        for rule in RULES:
            graph = _rewritten(graph, rule)
        graph = _needed(graph)
    return graph


Rule = Callable[[Graph, Node], "Node | str | None"]


def _rewritten(graph: Graph, rule: Rule) -> Graph:
    """Apply a rule to each node: another node in its place, the name of the node that it equals, or ``None``."""
    nodes: list[Node] = []
    same: dict[str, str] = {}
    for node in graph.nodes:
        node = node._replace(inputs=tuple(same.get(name, name) for name in node.inputs))
        found = rule(graph, node)
        if isinstance(found, str):
            same[node.name] = same.get(found, found)
        else:
            nodes.append(node if found is None else found)
    if (last := graph.nodes[-1].name) in same:  # the output of the model has to be the last node
        return graph
    assert nodes[-1].name == last
    return Graph(graph.image, tuple(nodes), graph.shapes)


def _needed(graph: Graph) -> Graph:
    """Graph without nodes that the output does not depend on, and without their parameters."""
    needed = {graph.nodes[-1].name}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed |= set(node.inputs)
    nodes = tuple(node for node in graph.nodes if node.name in needed)
    named = {name for node in nodes for name in node.parameters.values()}
    return Graph(graph.image, nodes, {name: shape for name, shape in graph.shapes.items() if name in named})


def _source(graph: Graph, node: Node, index: int = 0) -> Node | None:
    """Node that another one reads; ``None`` if it is the image, or there is none."""
    return graph.by_name.get(node.inputs[index]) if node.inputs else None


def _is_reshape(node: Node | None) -> bool:
    return node is not None and (
        node.kind == "flatten" or (node.kind == "opaque" and node.settings["target"] == RESHAPE)
    )


def reshape(shape: tuple[int, ...]) -> Mapping[str, object]:
    """Settings of an opaque node that gives each image another shape."""
    return {"target": RESHAPE, "arguments": [{"input": 0}, [{"size": [0, 1]}, *shape]]}


def _join_reshapes(graph: Graph, node: Node) -> Node | str | None:
    """A reshape of a reshape is one of the first input, or nothing at all."""
    if not _is_reshape(node) or not _is_reshape(before := _source(graph, node)):
        return None
    assert before is not None
    inner = graph.shape_of(before.inputs[0])
    if inner == node.shape:
        return before.inputs[0]
    flat = (math.prod(inner),)
    if node.shape == flat or (inner == flat and node.shape == (*flat, 1, 1)):
        return node._replace(kind="flatten", inputs=before.inputs, settings={})
    return node._replace(kind="opaque", inputs=before.inputs, settings=reshape(node.shape))


def _join_shuffle(graph: Graph, node: Node) -> Node | None:
    """``view(n, groups, c, h, w)``, ``transpose(1, 2)``, ``view(n, channels, h, w)`` is a channel shuffle."""
    if not _is_reshape(node) or (swap := _source(graph, node)) is None or swap.kind != "permute":
        return None
    split = _source(graph, swap)
    if not _is_reshape(split) or split is None or len(split.shape) < 2:
        return None
    inner, order = graph.shape_of(split.inputs[0]), list(swap.settings["order"])
    groups, channels, *rest = split.shape
    if order != [1, 0, *range(2, len(order))] or inner != node.shape or inner[:1] != (groups * channels,):
        return None
    if math.prod(inner[1:]) != math.prod(rest):
        return None
    return node._replace(kind="shuffle", inputs=split.inputs, settings={"groups": groups})


def _join_expand(graph: Graph, node: Node) -> Node | None:
    """A factor for each channel that is expanded to all pixels before it multiplies."""
    if node.kind != "multiply":
        return None
    for index in (1, 0):
        before = _source(graph, node, index)
        if before is None or before.kind != "opaque" or not before.settings["target"].startswith("aten.expand"):
            continue
        if graph.shape_of(before.inputs[0]) == (node.shape[0], 1, 1):
            return node._replace(inputs=(node.inputs[1 - index], before.inputs[0]))
    return None


def _join_means(graph: Graph, node: Node) -> Node | None:
    """``mean(3).mean(2)`` and ``flatten(2).mean(2)`` are means over all pixels."""
    if (dims := _mean_dims(node)) is None or (before := _source(graph, node)) is None:
        return None
    inner = graph.shape_of(before.inputs[0]) if before.inputs else ()
    if len(inner) != 3:
        return None
    keep = len(node.shape) == 3
    if dims == [2] and _mean_dims(before) == [3] and len(node.shape) in (1, 3) and node.shape[0] == inner[0]:
        return node._replace(kind="mean", inputs=before.inputs, settings={"keep": keep})
    flat = (inner[0], math.prod(inner[1:]))
    if dims == [2] and _is_reshape(before) and before.shape == flat and node.shape == inner[:1]:
        return node._replace(kind="mean", inputs=before.inputs, settings={"keep": False})
    return None


def _mean_dims(node: Node) -> list[int] | None:
    if node.kind != "opaque" or node.settings["target"] != "aten.mean.dim":
        return None
    dims = node.settings["arguments"][1]
    source = len(node.shape) + (0 if node.settings["arguments"][2:3] == [True] else len(dims)) + 1
    return sorted(dim % source for dim in dims)


def _fold_pad(graph: Graph, node: Node) -> Node | None:
    """Padding before a convolution or a pool that alone reads it is padding of that."""
    if node.kind not in ("conv", "max_pool") or (before := _source(graph, node)) is None or before.kind != "pad":
        return None
    value = -math.inf if node.kind == "max_pool" else 0
    alone = len(graph.readers[before.name]) == 1
    if before.settings["value"] != value or "channels" in before.settings or not alone:
        return None
    both = zip(node.settings["padding"], before.settings["padding"], strict=True)
    return node._replace(
        inputs=before.inputs, settings={**node.settings, "padding": [own + more for own, more in both]}
    )


def _join_swish(graph: Graph, node: Node) -> Node | None:
    """``x * sigmoid(x)`` and ``x * hardsigmoid(x)``."""
    names = {"sigmoid": "silu", "h_sigmoid": "h_swish"}
    if node.kind != "multiply":
        return None
    for index in (0, 1):
        gate = _source(graph, node, index)
        if gate is None or gate.kind != "function" or gate.inputs != (node.inputs[1 - index],):
            continue
        if (name := names.get(gate.settings["name"])) is not None:
            return node._replace(kind="function", inputs=gate.inputs, settings={"name": name})
    return None


def _join_hard_sigmoid(graph: Graph, node: Node) -> Node | None:
    """``relu6(x + 3) / 6``."""
    if not _is_scale(node, 1 / 6, 0) or (clip := _source(graph, node)) is None:
        return None
    if clip.kind != "function" or clip.settings["name"] != "relu6" or (shift := _source(graph, clip)) is None:
        return None
    if not _is_scale(shift, 1, 3):
        return None
    return node._replace(inputs=shift.inputs, settings={"name": "h_sigmoid"})


def _is_scale(node: Node, factor: float, offset: float) -> bool:
    if node.kind != "function" or node.settings["name"] != "scale":
        return False
    return math.isclose(node.settings["factor"], factor) and node.settings["offset"] == offset


RULES: tuple[Rule, ...] = (
    _join_reshapes,
    _join_shuffle,
    _join_expand,
    _join_means,
    _fold_pad,
    _join_hard_sigmoid,
    _join_swish,
)
