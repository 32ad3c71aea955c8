"""Layers of traced models with their numbers: shapes, bits of multiplications, and bits at which outputs are stored.

Each stored tensor has the most bits that a reader needs: a layer with weights needs its ``a_bits``, ``concat`` and
layers that only move values need what their own readers need, and all other layers need the fixed bits. What is moved
keeps the bits that it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from apq_tune.network.fused import FusedLayer, fused
from apq_tune.network.graph import MOVING, WEIGHTED, Graph, NodeKind
from apq_tune.network.layer import IMAGE, Layer, LayerKind, Numbers, Op, Tensor

PASSING: tuple[NodeKind, ...] = (*MOVING, "concat")
"""Kinds whose inputs need the bits that their output needs."""

IN_PLACE: tuple[NodeKind, ...] = ("add", "multiply", "mean", "function", "norm", "affine", "layer_norm", "flatten")
"""Kinds that can write their output over their first input."""


class LayerSize(NamedTuple):
    """Numbers of a layer.

    Attributes:
        output: Shape of its output, with numbers along the axis of the channels.
        input: Shape of its first input, likewise.
        weight: Shape of its weights, of layers that have some, likewise.
        groups: Groups of its convolution.
    """

    output: tuple[Numbers, ...]
    input: tuple[Numbers, ...]
    weight: tuple[Numbers, ...] = ()
    groups: Numbers = 1


class LayerBits(NamedTuple):
    """Bits of a layer.

    Attributes:
        stored: Bits at which its output is stored.
        weights: Bits of its weights, of layers that have some.
        inputs: Bits of their input.
        sparsity: Share of zeros among its weights.
        sparse_group: Inputs in a group of N:M sparsity; 1 for unstructured sparsity.
    """

    stored: Numbers
    weights: Numbers = 0
    inputs: Numbers = 0
    sparsity: Any = 0
    sparse_group: int = 1


Sparse = Mapping[str, tuple[Any, int]]
"""Share of zeros of the weights of layers by name, and the inputs in a group of N:M sparsity."""


def graph_layers(
    graph: Graph,
    axes: Mapping[str, int],
    w_bits: Mapping[str, int],
    a_bits: Mapping[str, int],
    fixed_bits: int,
    sparse: Sparse = MappingProxyType({}),
) -> tuple[Layer, ...]:
    """Layers of a graph in the order of the forward pass.

    Args:
        graph: Traced model, or a part of one.
        axes: Axis of the channels of each node's output.
        w_bits: Bits of the weights of each convolution and linear layer, by name.
        a_bits: Bits of their inputs, by name.
        fixed_bits: Bits of the inputs of all other layers, and of the logits.
        sparse: Layers with sparse weights.
    """
    layers = fused(graph)
    stored = stored_bits(layers, a_bits, fixed_bits)
    return tuple(
        layer_of(
            layer,
            axes[layer.last.name],
            _size(graph, layer),
            LayerBits(
                stored[layer.name], w_bits.get(layer.name, 0), a_bits.get(layer.name, 0), *sparse.get(layer.name, ())
            ),
        )
        for layer in layers
    )


def stored_bits(layers: Sequence[FusedLayer], a_bits: Mapping[str, int], fixed_bits: int) -> dict[str, int]:
    """Bits at which the output of each layer is stored, and the image.

    Args:
        layers: Layers in the order of the forward pass.
        a_bits: Bits of the input of each layer with weights, by name.
        fixed_bits: Bits of the inputs of all other layers, and of the logits.
    """
    needs: dict[str, int] = {layers[-1].name: fixed_bits}
    for layer in reversed(layers):
        own = a_bits.get(layer.name, fixed_bits)
        if layer.main.kind in PASSING:
            own = needs[layer.name]
        for name in layer.inputs:
            needs[name] = max(needs.get(name, 0), own)
    stored = {IMAGE: fixed_bits}
    for layer in layers:
        moved = layer.main.kind in MOVING
        stored[layer.name] = stored[layer.inputs[0]] if moved else needs.get(layer.name, fixed_bits)
    return stored


def layer_of(layer: FusedLayer, axis: int, size: LayerSize, bits: LayerBits) -> Layer:
    """Layer with its numbers, which may be arrays along the axis of the channels.

    Args:
        layer: Nodes of the layer.
        axis: Axis of the channels of its output.
        size: Shapes.
        bits: Bits.
    """
    node = layer.main
    rest = [length for place, length in enumerate(size.output) if place != axis % max(1, len(size.output))]
    channels = size.output[axis] if size.output else 1
    height, width = _plane(rest)
    output = Tensor(channels, height, bits.stored, width)
    kind: LayerKind = "pool" if node.kind == "mean" else node.kind
    activation = None if layer.function is None else layer.function.settings["name"]
    settings: Mapping[str, Any] = node.settings
    op = None
    if node.kind in WEIGHTED:
        op = _conv(layer, size, bits) if node.kind == "conv" else _linear(size, bits)
        op = op._replace(sparsity=bits.sparsity, sparse_group=bits.sparse_group)
        settings = settings if node.kind == "conv" and not _even(layer) else {}
    if layer.function is not None and len(layer.function.settings) > 1:  # such as the slope of a leaky ReLU
        settings = {**settings, **{k: v for k, v in layer.function.settings.items() if k != "name"}}
    in_place, floats = node.kind in IN_PLACE, _float_parameters(layer, axis, size)
    return Layer(node.name, kind, layer.inputs, output, op, activation, in_place, settings, floats)


def _float_parameters(layer: FusedLayer, axis: int, size: LayerSize) -> Numbers:
    """Number of parameters that stay in floating point: one for each channel and role, two of a batch norm."""
    node = layer.main
    if node.kind in WEIGHTED or not node.parameters or not size.output:
        return 0
    if node.kind == "norm":
        return 2 * size.output[0]  # a factor and an offset for each channel
    along = {"affine": int(node.settings.get("axis", axis)), "layer_norm": len(size.output) - 1}.get(node.kind, axis)
    channels: Numbers = size.output[along]
    return len(node.parameters) * channels


def _even(layer: FusedLayer) -> bool:
    """Whether a convolution has the same stride and dilation in both directions, as ``Op`` says it."""
    settings = layer.main.settings
    return len(set(settings["stride"])) == len(set(settings["dilation"])) == 1


def _conv(layer: FusedLayer, size: LayerSize, bits: LayerBits) -> Op:
    settings, (outputs, _, height, width) = layer.main.settings, size.weight
    (inputs, in_size, in_width), (_, out_size, out_width) = size.input, size.output
    return Op(
        inputs,
        outputs,
        height,
        size.groups,
        int(in_size),
        int(out_size),
        bits.weights,
        bits.inputs,
        settings["stride"][0],
        None if width == height else int(width),
        None if in_width == in_size else int(in_width),
        None if out_width == out_size else int(out_width),
        tuple(settings["padding"]),
        settings["dilation"][0],
    )


def _linear(size: LayerSize, bits: LayerBits) -> Op:
    """Linear layer on the last axis, as a 1x1 convolution of all other entries."""
    height, width = _plane(size.output[:-1])
    op = Op(size.input[-1], size.output[-1], 1, 1, height, height, bits.weights, bits.inputs)
    return op._replace(in_width=width, out_width=width)


def _plane(lengths: Sequence[Numbers]) -> tuple[int, int | None]:
    """Axes other than that of the channels as height and width; ``None`` if these are equal."""
    height = int(lengths[0]) if lengths else 1
    width = math.prod(int(length) for length in lengths[1:])
    return height, None if width == height else width


def _size(graph: Graph, layer: FusedLayer) -> LayerSize:
    node = layer.main
    weight = graph.shapes[node.parameters["weight"]] if node.kind in WEIGHTED else ()
    groups = node.settings["groups"] if node.kind == "conv" else 1
    return LayerSize(layer.last.shape, graph.shape_of(node.inputs[0]), weight, groups)


def at_most(*numbers: Numbers) -> Numbers:
    """The largest of several numbers or broadcastable arrays."""
    largest = numbers[0]
    for number in numbers[1:]:
        plain = isinstance(largest, int) and isinstance(number, int)
        largest = max(largest, number) if plain else np.maximum(largest, number)
    return largest
