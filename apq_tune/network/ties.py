"""Which channels of a graph can only be kept or removed together: one rule for each kind of node.

Every output channel of a convolution or linear layer is an element with a number of its own. Each tensor has an axis of
channels whose entries are elements, or -1 for channels that always stay (those of the image). Rules say which elements
the output of a node has, and tie elements to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.network.graph import Graph, Node, NodeKind
from apq_tune.network.layer import IMAGE

Elements = NDArray[np.int64]

GROUP_NORM, INSTANCE_NORM = "aten.group_norm.default", "aten.instance_norm.default"
"""Operations without a kind of their own whose channels are understood; the first has its number of groups as second
argument."""


class ChannelAxis(NamedTuple):
    """Channels of a tensor.

    Attributes:
        axis: Axis of the channels.
        elements: Element of each entry along that axis; -1 for those that always stay.
        fixed: What the channels that always stay belong to, for messages.
    """

    axis: int
    elements: Elements
    fixed: str = ""


class Ties:
    """Ties between the channels of a graph, found node by node.

    Attributes:
        n_elements: Number of elements.
        pairs: Arrays of shape (2, n): elements that are tied.
        locks: Elements that always stay, with the reason.
        outputs: Channels of each node's output.
        inputs: Element of each entry of the input axis of weights, by the name of the node.
        parameters: Elements of each axis of parameters and buffers, by their name; ``None`` for axes that are no
            channels.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.n_elements = 0
        self.pairs: list[NDArray[np.int64]] = []
        self.locks: list[tuple[Elements, str]] = []
        self.outputs: dict[str, ChannelAxis] = {}
        self.inputs: dict[str, Elements] = {}
        self.parameters: dict[str, tuple[Elements | None, ...]] = {}
        image = ChannelAxis(0, np.full(graph.image[0], -1), "the image")
        for node in graph.nodes:
            inputs = [image if name == IMAGE else self.outputs[name] for name in node.inputs]
            self.outputs[node.name] = RULES[node.kind](self, node, inputs)

    def fresh(self, count: int) -> Elements:
        """Make elements that are tied to nothing."""
        self.n_elements += count
        return np.arange(self.n_elements - count, self.n_elements)

    def lock(self, elements: Elements, reason: str) -> None:
        """Let elements always stay."""
        if (elements := elements[elements >= 0]).size:
            self.locks.append((elements, reason))

    def tie(self, one: Elements, other: Elements, reason: str) -> None:
        """Tie elements one by one; those whose partner always stays are locked with the reason."""
        both = (one >= 0) & (other >= 0)
        self.pairs.append(np.stack([one[both], other[both]]))
        self.lock(one[other < 0], reason)
        self.lock(other[one < 0], reason)

    def has(self, name: str, axes: Sequence[Elements | None]) -> None:
        """Note the elements of the axes of a parameter; if several nodes share it, their channels are tied."""
        if (before := self.parameters.get(name)) is None:
            self.parameters[name] = tuple(axes)
            return
        reason = f"the parameter {name!r} is shared with a layer whose channels always stay"
        for one, other in zip(before, axes, strict=True):
            if one is not None and other is not None:
                self.tie(one, other, reason)
            elif one is not None or other is not None:
                self.lock(one if one is not None else other, reason)  # type: ignore[arg-type]

    def has_vectors(self, node: Node, elements: Elements) -> None:
        """Note that all parameters of a node have one value for each of these elements, whatever their shape."""
        for name in node.parameters.values():
            shape = self.graph.shapes[name]
            axes: list[Elements | None] = [None] * len(shape)
            if elements.size in shape:
                axes[shape.index(elements.size)] = elements
            self.has(name, axes)


Rule = Callable[[Ties, Node, Sequence[ChannelAxis]], ChannelAxis]


def at(node: Node) -> str:
    """Name of a node and its place in the user's source."""
    return f"{node.name!r} ({node.place})" if node.place else repr(node.name)


def _stay(node: Node, fixed: str) -> ChannelAxis:
    """Output channels that always stay."""
    return ChannelAxis(0, np.full(node.shape[0] if node.shape else 1, -1), fixed)


def _lock_inputs(ties: Ties, node: Node, inputs: Sequence[ChannelAxis], reason: str) -> ChannelAxis:
    """Lock the inputs of a node and its output."""
    for source in inputs:
        ties.lock(source.elements, reason)
    for name in node.parameters.values():
        ties.has(name, [None] * len(ties.graph.shapes[name]))
    operation = f", the operation {node.settings['target']}" if node.kind == "opaque" else ""
    return _stay(node, f"the output of {at(node)}{operation}")


def _along(ties: Ties, node: Node, inputs: Sequence[ChannelAxis], axis: int) -> list[ChannelAxis] | None:
    """Channels of the inputs of a node along an axis; ``None`` if some that could go are along another one."""
    found = []
    for name, source in zip(node.inputs, inputs, strict=True):
        if source.axis != axis and (source.elements >= 0).any():
            return None
        size = ties.graph.shape_of(name)[axis]
        found.append(source if source.axis == axis else ChannelAxis(axis, np.full(size, -1), source.fixed))
    return found


def _passes(_ties: Ties, _node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    """Operations on each value by itself."""
    return inputs[0]


def _passes_images(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    """Operations on each channel of an image by itself."""
    if (found := _along(ties, node, inputs, 0)) is None:
        return _lock_inputs(ties, node, inputs, f"{at(node)} is a {node.kind} along the channels")
    return found[0]


def _norm(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    if (found := _along(ties, node, inputs, 0)) is None:
        return _lock_inputs(ties, node, inputs, f"{at(node)} is a batch norm along another axis than the channels")
    ties.has_vectors(node, found[0].elements)
    return found[0]


def _affine(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    source, axis = inputs[0], node.settings["axis"]
    own = source.elements if source.axis == axis else np.full(node.shape[axis], -1)
    ties.has_vectors(node, own)
    return source


def _layer_norm(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    source = inputs[0]
    if source.axis == len(node.shape) - 1:
        ties.lock(source.elements, f"{at(node)} is a layer norm, whose mean and variance are over all channels")
    ties.has_vectors(node, np.full(node.shape[-1], -1))
    return source


def _weighted(ties: Ties, node: Node, output: Elements, entering: Elements) -> None:
    """Note the channels of the parameters of a convolution or linear layer."""
    n_axes = len(ties.graph.shapes[node.parameters["weight"]])
    ties.has(node.parameters["weight"], [output, entering, *[None] * (n_axes - 2)])
    if "bias" in node.parameters:
        ties.has(node.parameters["bias"], [output])
    ties.inputs[node.name] = entering


def _conv(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    if (found := _along(ties, node, inputs, 0)) is None:
        ties.inputs[node.name] = np.full(ties.graph.shapes[node.parameters["weight"]][1], -1)
        return _lock_inputs(ties, node, inputs, f"{at(node)} is a convolution along another axis than the channels")
    source, output, groups = found[0], ties.fresh(node.shape[0]), node.settings["groups"]
    if groups == 1:
        _weighted(ties, node, output, source.elements)
        return ChannelAxis(0, output)
    entering, leaving = source.elements.reshape(groups, -1), output.reshape(groups, -1)
    reason = f"{at(node)} is a grouped convolution of {source.fixed}"
    for members in (leaving[:, 1:], entering):
        ties.tie(np.repeat(leaving[:, 0], members.shape[1]), members.ravel(), reason)
    _weighted(ties, node, output, np.full(entering.shape[1], -1))
    return ChannelAxis(0, output)


def _linear(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    axis = len(node.shape) - 1
    if (found := _along(ties, node, inputs, axis)) is None:
        ties.inputs[node.name] = np.full(ties.graph.shapes[node.parameters["weight"]][1], -1)
        return _lock_inputs(ties, node, inputs, f"{at(node)} is a linear layer along another axis than the channels")
    output = ties.fresh(node.shape[axis])
    _weighted(ties, node, output, found[0].elements)
    return ChannelAxis(axis, output)


def _elementwise(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    """Sums, products and the like of tensors; the second factor of a product may have one pixel."""
    verb = {"add": "adds", "multiply": "multiplies"}.get(node.kind, "combines")
    axis = max(inputs, key=lambda source: bool((source.elements >= 0).any())).axis
    found = _along(ties, node, inputs, axis)
    if found is None or len({source.elements.size for source in found}) > 1:
        return _lock_inputs(ties, node, inputs, f"{at(node)} {verb} tensors whose channels are on different axes")
    fixed = next((source.fixed for source in found if source.fixed), "")
    elements = found[0].elements
    for source in found[1:]:
        ties.tie(elements, source.elements, f"{at(node)} {verb} {fixed}")
        elements = np.maximum(elements, source.elements)
    return ChannelAxis(axis, elements, fixed)


def _concat(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    if (found := _along(ties, node, inputs, 0)) is None:
        return _lock_inputs(ties, node, inputs, f"{at(node)} concatenates along another axis than the channels")
    fixed = next((source.fixed for source in found if source.fixed), "")
    return ChannelAxis(0, np.concatenate([source.elements for source in found]), fixed)


def _pad(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    """Padding of pixels, and of channels of zeros, which no layer makes: they go with what they are added to."""
    source = _passes_images(ties, node, inputs)
    before, after = node.settings.get("channels", (0, 0))
    if not before and not after:
        return source
    if node.settings["value"] != 0:
        return _lock_inputs(ties, node, inputs, f"{at(node)} pads channels with other values than zero")
    own = np.concatenate([ties.fresh(before), source.elements, ties.fresh(after)])
    return source._replace(elements=own)


def moved(node: Node, size: int) -> NDArray[np.int64]:
    """Entry of the input's axis 0 that each entry of the output is, for a slice, select or shuffle.

    Args:
        node: Node of one of these kinds.
        size: Number of entries of the input.
    """
    settings, entries = node.settings, np.arange(size)
    if node.kind == "slice":
        return entries[int(settings["start"]) : int(settings["stop"])]
    if node.kind == "select":
        return entries[list(settings["indices"])]
    return entries.reshape(int(settings["groups"]), -1).T.ravel()


def _moves(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    if (found := _along(ties, node, inputs, 0)) is None:
        return _lock_inputs(ties, node, inputs, f"{at(node)} is a {node.kind} of another axis than the channels")
    source = found[0]
    return source._replace(elements=source.elements[moved(node, source.elements.size)])


def _flatten(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    source, shape = inputs[0], ties.graph.shape_of(node.inputs[0])
    along = [source.elements.size if axis == source.axis else 1 for axis in range(len(shape))]
    return ChannelAxis(0, np.broadcast_to(source.elements.reshape(along), shape).ravel(), source.fixed)


def _permute(_ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    return inputs[0]._replace(axis=list(node.settings["order"]).index(inputs[0].axis))


def _group_norm(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    """Group norm, whose groups stay or go whole, or instance norm, which has one for each channel."""
    if (found := _along(ties, node, inputs, 0)) is None:
        return _lock_inputs(ties, node, inputs, f"{at(node)} is a norm along another axis than the channels")
    source = found[0]
    if node.settings["target"] == GROUP_NORM:
        members = source.elements.reshape(int(node.settings["arguments"][1]), -1)
        first = np.repeat(members[:, 0], members.shape[1])
        ties.tie(first, members.ravel(), f"{at(node)} is a group norm of {source.fixed} and others")
    ties.has_vectors(node, source.elements)
    return source


def _opaque(ties: Ties, node: Node, inputs: Sequence[ChannelAxis]) -> ChannelAxis:
    if node.settings["target"] in (GROUP_NORM, INSTANCE_NORM):
        return _group_norm(ties, node, inputs)
    if node.settings.get("pointwise"):
        output = _elementwise(ties, node, inputs)
        ties.has_vectors(node, output.elements if output.axis == 0 else np.full(node.shape[0], -1))
        return output
    target = node.settings["target"]
    return _lock_inputs(ties, node, inputs, f"{at(node)} is the operation {target}, whose channels are not understood")


RULES: Mapping[NodeKind, Rule] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "affine": _affine,
    "layer_norm": _layer_norm,
    "function": _passes,
    "add": _elementwise,
    "multiply": _elementwise,
    "concat": _concat,
    "slice": _moves,
    "select": _moves,
    "shuffle": _moves,
    "mean": _passes_images,
    "max_pool": _passes_images,
    "avg_pool": _passes_images,
    "flatten": _flatten,
    "pad": _pad,
    "upsample": _passes_images,
    "permute": _permute,
    "opaque": _opaque,
}
