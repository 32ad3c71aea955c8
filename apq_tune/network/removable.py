"""Residual blocks of a traced model that can be left out: sums of a tensor and of a branch that reads nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from apq_tune.network.coupling import Coupling
from apq_tune.network.graph import MOVING, WEIGHTED, Graph, Node
from apq_tune.network.layer import IMAGE

IDEMPOTENT = ("relu", "relu6")
"""Functions that leave their own outputs as they are."""


class Removable(NamedTuple):
    """Residual block that can be left out.

    Attributes:
        name: Path of the block in the user's model, ``"layer1.1"``.
        source: Node whose output the block adds to; it takes the place of the block's output.
        output: Node whose output is the block's.
        nodes: Names of all nodes that go with the block, in order: the branch, the sum and possibly the activation
            function after it, where that would leave the source as it is.
    """

    name: str
    source: str
    output: str
    nodes: tuple[str, ...]


def removable_blocks(graph: Graph, coupling: Coupling | None = None) -> tuple[Removable, ...]:
    """Find the residual blocks that can be left out, the innermost ones if they are nested.

    Args:
        graph: Traced model.
        coupling: Its coupled channels; blocks with a frozen node stay.
    """
    frozen = frozenset() if coupling is None else coupling.frozen
    found: list[Removable] = []
    for total in graph.nodes:
        if total.kind != "add":
            continue
        for source, end in (total.inputs, total.inputs[::-1]):
            if branch := _branch(graph, source, end, total):
                output = _output(graph, source, total)
                own = branch | {total.name, output}
                nodes = tuple(node.name for node in graph.nodes if node.name in own)
                found.append(Removable(_path(nodes) or total.name, source, output, nodes))
                break
    inner = [own for own in found if not any(set(other.nodes) < set(own.nodes) for other in found)]
    names = [block.name for block in inner]
    sums = [next(name for name in block.nodes[::-1] if graph.by_name[name].kind == "add") for block in inner]
    return tuple(
        block if names.count(block.name) == 1 else block._replace(name=total)
        for block, total in zip(inner, sums, strict=True)
        if frozen.isdisjoint(block.nodes)
    )


def without(graph: Graph, blocks: Iterable[Removable]) -> Graph:
    """Leave residual blocks out of a graph.

    Args:
        graph: Traced model.
        blocks: Some of its ``removable_blocks``.
    """
    instead: dict[str, str] = {}
    gone: set[str] = set()
    for block in blocks:
        instead[block.output] = block.source
        gone.update(block.nodes)
    if not gone:
        return graph

    def resolved(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    nodes = tuple(
        node._replace(inputs=tuple(resolved(name) for name in node.inputs)) if instead.keys() & node.inputs else node
        for node in graph.nodes
        if node.name not in gone
    )
    named = {name for node in nodes for name in node.parameters.values()}
    return Graph(graph.image, nodes, {name: shape for name, shape in graph.shapes.items() if name in named})


def _branch(graph: Graph, source: str, end: str, total: Node) -> frozenset[str]:
    """Nodes from one input of a sum to the other, with weights, that read nothing else and that nothing else reads."""
    nodes: set[str] = set()
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name == source or name in nodes:
            continue
        if name == IMAGE:
            return frozenset()
        nodes.add(name)
        waiting += graph.by_name[name].inputs
    inside = nodes | {total.name}
    closed = all(reader.name in inside for name in nodes for reader in graph.readers[name])
    weighted = any(graph.by_name[name].kind in WEIGHTED for name in nodes)
    return frozenset(nodes) if closed and weighted else frozenset()


def _output(graph: Graph, source: str, total: Node) -> str:
    """Output of a block: its sum, or the function after it if the source has been through the same one already."""
    after = graph.readers[total.name]
    if total is graph.nodes[-1] or len(after) != 1 or after[0].kind != "function" or source == IMAGE:
        return total.name
    before = graph.by_name[source]
    while before.kind in MOVING and before.kind != "pad" and before.inputs[0] != IMAGE:
        before = graph.by_name[before.inputs[0]]
    same = before.kind == "function" and before.settings == after[0].settings
    return after[0].name if same and after[0].settings["name"] in IDEMPOTENT else total.name


def _path(names: Iterable[str]) -> str:
    """Longest path of modules that all names begin with."""
    parts = [name.split(".")[:-1] for name in names]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)
