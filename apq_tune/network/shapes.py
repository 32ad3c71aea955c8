"""Shapes of a traced model at another image size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from apq_tune.errors import SpaceError
from apq_tune.network.graph import Graph, Node, NodeKind
from apq_tune.network.layer import IMAGE
from apq_tune.network.ties import GROUP_NORM, INSTANCE_NORM, at

Shape = tuple[int, ...]


class _ImpossibleError(Exception):
    """A node that cannot have such inputs; the message says why."""


def resized(graph: Graph, size: int | tuple[int, int]) -> Graph:
    """Graph of the same model for images of another size.

    Args:
        graph: Traced model.
        size: Height and width in pixels, or both.

    Raises:
        SpaceError: If a node cannot have such inputs; the message names it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image = (graph.image[0], height, width)
    if image == graph.image:
        return graph
    shapes: dict[str, Shape] = {IMAGE: image}
    nodes = []
    for node in graph.nodes:
        inputs = [shapes[name] for name in node.inputs]
        before = [graph.shape_of(name) for name in node.inputs]
        try:
            node = _refitted(graph, node, inputs)
            shape = node.shape if inputs == before else SHAPES[node.kind](graph, node, inputs)
            if min(shape, default=1) < 1:
                raise _ImpossibleError("no pixel is left")
            if node is graph.nodes[-1] and len(shape) == 1 and shape != node.shape:
                raise _ImpossibleError(f"the model would have {shape[0]} outputs instead of {node.shape[0]}")
        except _ImpossibleError as error:
            raise SpaceError(
                f"{at(node)}: the model cannot have images of {height}x{width} pixels, as {error}; leave this size out"
            ) from None
        shapes[node.name] = shape
        nodes.append(node._replace(shape=shape))
    return Graph(image, tuple(nodes), graph.shapes)


def _refitted(graph: Graph, node: Node, inputs: Sequence[Shape]) -> Node:
    """Pool whose kernel or padding follows from the size of its input; other nodes as they are."""
    if node.kind not in ("max_pool", "avg_pool") or inputs[0] == graph.shape_of(node.inputs[0]):
        return node
    if node.settings.get("adaptive"):
        if any(size % out for size, out in zip(inputs[0][1:], node.shape[1:], strict=True)):
            raise _ImpossibleError(f"{inputs[0][1:]} pixels are no multiple of the pool's {node.shape[1:]}")
        kernel = [size // out for size, out in zip(inputs[0][1:], node.shape[1:], strict=True)]
        return node._replace(settings={**node.settings, "kernel": kernel, "stride": kernel})
    if node.settings.get("ceil"):
        first = list(node.settings["padding"][:2])
        more = [_missing(node, axis, inputs[0][1 + axis] + 2 * pad, pad) for axis, pad in enumerate(first)]
        last = [pad + extra for pad, extra in zip(first, more, strict=True)]
        settings = {**node.settings, "padding": [*first, *last]}
        if any(more) and settings.get("count_padding"):  # what rounding up adds is never counted
            if any(first):
                raise _ImpossibleError("its padding counts, but not that of rounding up")
            settings["count_padding"] = False
        return node._replace(settings=settings)
    return node


def _missing(node: Node, axis: int, size: int, pad: int) -> int:
    """Rows or columns that the last window of a pool lacks, if the number of windows is rounded up.

    Args:
        node: Pool.
        axis: 0 for rows, 1 for columns.
        size: Number of them, with padding on both sides.
        pad: Padding on each side; a window that begins in the one behind is left out.
    """
    stride = int(node.settings["stride"][axis])
    reach: int = node.settings.get("dilation", (1, 1))[axis] * (node.settings["kernel"][axis] - 1) + 1
    steps = -(-(size - reach) // stride)
    steps -= steps * stride >= size - pad
    return max(steps * stride + reach - size, 0)


def _same(_graph: Graph, _node: Node, inputs: Sequence[Shape]) -> Shape:
    return inputs[0]


def _windows(shape: Shape, node: Node, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Number of windows of a convolution or pool in each direction."""
    top, left, bottom, right = node.settings["padding"]
    sizes = shape[1] + top + bottom, shape[2] + left + right
    steps = zip(sizes, kernel, dilation, node.settings["stride"], strict=True)
    height, width = ((size - reach * (taps - 1) - 1) // stride + 1 for size, taps, reach, stride in steps)
    return height, width


def _conv(graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    kernel = graph.shapes[node.parameters["weight"]][2:]
    return node.shape[0], *_windows(inputs[0], node, kernel, node.settings["dilation"])


def _pool(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    dilation = node.settings.get("dilation", (1, 1))
    return inputs[0][0], *_windows(inputs[0], node, node.settings["kernel"], dilation)


def _linear(graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    outputs, entries = graph.shapes[node.parameters["weight"]]
    if inputs[0][-1] != entries:
        raise _ImpossibleError(f"the linear layer has {entries} inputs, not {inputs[0][-1]}")
    return *inputs[0][:-1], outputs


def _layer_norm(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    if inputs[0][-1] != node.shape[-1]:
        raise _ImpossibleError(f"the layer norm is over {node.shape[-1]} values, not {inputs[0][-1]}")
    return inputs[0]


def _norm(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    if inputs[0][0] != node.shape[0]:
        raise _ImpossibleError(f"the batch norm is of {node.shape[0]} channels, not {inputs[0][0]}")
    return inputs[0]


def _affine(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = node.settings["axis"]
    if inputs[0][axis] != node.shape[axis]:
        raise _ImpossibleError(f"its parameters are for {node.shape[axis]} values, not {inputs[0][axis]}")
    return inputs[0]


def _elementwise(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    one, other = inputs
    if one != other and not (node.kind == "multiply" and other == (one[0], 1, 1)):
        raise _ImpossibleError(f"its inputs would have the shapes {one} and {other}")
    return one


def _concat(_graph: Graph, _node: Node, inputs: Sequence[Shape]) -> Shape:
    if len({shape[1:] for shape in inputs}) > 1:
        raise _ImpossibleError(f"its inputs would have the shapes {' and '.join(map(str, inputs))}")
    return sum(shape[0] for shape in inputs), *inputs[0][1:]


def _moves(graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    if inputs[0][0] != graph.shape_of(node.inputs[0])[0]:
        raise _ImpossibleError(f"it selects from {graph.shape_of(node.inputs[0])[0]} values, not {inputs[0][0]}")
    return node.shape[0], *inputs[0][1:]


def _mean(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    return (inputs[0][0], 1, 1) if node.settings["keep"] else (inputs[0][0],)


def _flatten(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    return math.prod(inputs[0]), *node.shape[1:]


def _pad(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    top, left, bottom, right = node.settings["padding"]
    channels, height, width = inputs[0]
    return channels + sum(node.settings.get("channels", ())), height + top + bottom, width + left + right


def _upsample(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    channels, height, width = inputs[0]
    return channels, height * node.settings["factor"], width * node.settings["factor"]


def _permute(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    return tuple(inputs[0][axis] for axis in node.settings["order"])


def _opaque(_graph: Graph, node: Node, inputs: Sequence[Shape]) -> Shape:
    keeps = node.settings.get("pointwise") or node.settings["target"] in (GROUP_NORM, INSTANCE_NORM)
    if keeps and len(set(inputs)) == 1:
        return inputs[0]
    raise _ImpossibleError(f"the operation {node.settings['target']} was traced with the sizes of its inputs")


SHAPES: Mapping[NodeKind, Callable[[Graph, Node, Sequence[Shape]], Shape]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "affine": _affine,
    "layer_norm": _layer_norm,
    "function": _same,
    "add": _elementwise,
    "multiply": _elementwise,
    "concat": _concat,
    "slice": _moves,
    "select": _moves,
    "shuffle": _moves,
    "mean": _mean,
    "max_pool": _pool,
    "avg_pool": _pool,
    "flatten": _flatten,
    "pad": _pad,
    "upsample": _upsample,
    "permute": _permute,
    "opaque": _opaque,
}
"""Shape of the output of each kind of node."""
