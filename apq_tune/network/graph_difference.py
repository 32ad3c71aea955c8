"""What tells two graphs of models apart, in words."""

from __future__ import annotations

from apq_tune.inputs.ranges import shown
from apq_tune.network.graph import Graph, Node


def first_difference(own: Graph, other: Graph) -> str:
    """The first thing in which two graphs differ.

    Args:
        own: Graph that is known, "there" in the text.
        other: Graph that is given, "here" in the text.

    Returns:
        Part of a sentence.
    """
    if own.image != other.image:
        return f"it has images of shape {own.image}, this one {other.image}"
    for one, another in zip(own.nodes, other.nodes, strict=False):
        for field in Node._fields[:-1]:
            mine, yours = getattr(one, field), getattr(another, field)
            if field in ("settings", "parameters"):
                mine, yours = dict(mine), dict(yours)
            if mine != yours:
                return f"{field} of {one.name!r} is {shown(mine)} there, {shown(yours)} here"
    if len(own.nodes) != len(other.nodes):
        return f"it has {len(own.nodes)} operations, this one {len(other.nodes)}"
    name = next((name for name, shape in own.shapes.items() if other.shapes.get(name) != shape), "?")
    return f"{name!r} has the shape {own.shapes.get(name)} there, {other.shapes.get(name)} here"
