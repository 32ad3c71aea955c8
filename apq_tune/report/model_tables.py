"""Tables of what can be chosen in a model of a user, and of what is locked and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from apq_tune.network.coupling import ChannelGroup
from apq_tune.network.graph import Graph
from apq_tune.report.tables import STYLE
from apq_tune.space.model_choices import Choice
from apq_tune.space.model_space import ModelSpace

LISTED = 6
"""Values up to which each is printed."""


def summary(space: ModelSpace) -> str:
    """Line about the whole model and the size of its space."""
    channels, height, width = space.graph.image
    macs, values = n_macs(space.graph), n_parameters(space.graph)
    return (
        f"{space.name}: {len(space.graph.weighted)} layers, {values:,} parameters, {macs:,} MACs; input "
        f"{channels}x{height}x{width}, {space.classes} classes; {len(space.genes)} genes, "
        f"10^{space.log10_size(bits=False):.1f} networks, 10^{space.log10_size():.1f} with bits"
    )


def n_macs(graph: Graph) -> int:
    """Multiply-accumulates of the convolutions and linear layers of a graph for one image."""
    counted = 0
    for node in graph.weighted:
        counted += math.prod(graph.shapes[node.parameters["weight"]][1:]) * math.prod(node.shape)
    return counted


def n_parameters(graph: Graph) -> int:
    """Trained values of a graph, without the statistics of batch norm."""
    statistics = {node.parameters[role] for node in graph.nodes if node.kind == "norm" for role in ("mean", "variance")}
    return sum(math.prod(shape) for name, shape in graph.shapes.items() if name not in statistics)


def groups_table(space: ModelSpace) -> Table:
    """Groups of coupled channels that can shrink, with the layers that make them and the widths to choose from."""
    widths = space.choices.widths
    table = Table(title="Coupled channels", caption=_rest("group", len(space.coupling.groups), len(widths)), **STYLE)
    for column in ("group", "made by", "channels", "widths"):
        table.add_column(column, justify="right" if column == "channels" else "left")
    for index, choice in widths.items():
        group = space.coupling.groups[index]
        table.add_row(group.name, _others(group), str(_channels(group)), _values(choice, space.options.step))
    return table


def blocks_table(space: ModelSpace) -> Table:
    """Residual blocks that can be left out, with what they have."""
    table = Table(title="Blocks that can be left out", **STYLE)
    for column in ("block", "layers", "parameters", "MACs"):
        table.add_column(column, justify="left" if column == "block" else "right")
    graph = space.graph
    for block in space.blocks:
        nodes = tuple(graph.by_name[name] for name in block.nodes)
        shapes = {name: graph.shapes[name] for node in nodes for name in node.parameters.values()}
        own = Graph(graph.image, nodes, shapes)
        depth = space.choices.depths.get(block.name)
        fixed = "" if depth is None or len(depth.values) > 1 else f" (depth {depth.values[0]})"
        table.add_row(block.name + fixed, str(len(own.weighted)), f"{n_parameters(own):,}", f"{n_macs(own):,}")
    return table


def locked_table(space: ModelSpace) -> Table:
    """Groups whose channels always stay, with the reason."""
    table = Table(title="Locked channels", **STYLE)
    for column in ("group", "channels", "reason"):
        table.add_column(column, justify="right" if column == "channels" else "left")
    for index, group in enumerate(space.coupling.groups):
        if index not in space.choices.widths:
            table.add_row(group.name, str(_channels(group)), group.locked or "a width is fixed by genes")
    return table


def opaque_table(graph: Graph) -> Table:
    """Operations that are computed as they are, in floating point."""
    table = Table(title="Operations of no known kind", **STYLE)
    for column in ("operation", "name", "place"):
        table.add_column(column)
    for node in graph.nodes:
        if node.kind == "opaque":
            table.add_row(node.settings["target"], node.name, node.place)
    return table


def _channels(group: ChannelGroup) -> int:
    return group.n_units * group.unit_channels


def _others(group: ChannelGroup) -> str:
    """Layers that make the channels of a group."""
    shown = group.makers[:3]
    more = len(group.makers) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _values(choice: Choice, step: int) -> str:
    """Values of a choice of widths."""
    values: Sequence[int] = choice.values
    if len(values) == 1:
        return f"{values[0]} (no smaller multiple of {step})"
    if len(values) <= LISTED:
        return ", ".join(map(str, values))
    return f"{values[0]} to {values[-1]} ({len(values)})"


def _rest(noun: str, n_all: int, n_shown: int) -> str:
    left = n_all - n_shown
    return f"{left} more {noun}{'' if left == 1 else 's'} cannot shrink, see below" if left else ""
