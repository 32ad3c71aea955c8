"""What programs need to know of layers beside their bits: shapes, settings and those of their activation function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from apq_tune.network.fused import fused
from apq_tune.network.graph import Graph
from apq_tune.network.layer import IMAGE, Layer

Shape = tuple[int, ...]


class LayerForm(NamedTuple):
    """Form of a layer.

    Attributes:
        shape: Shape of its output without the batch.
        settings: Settings of its operation, as in ``apq_tune.network.graph``.
        function: Settings of its activation function, if that is not the whole layer.
    """

    shape: Shape
    settings: Mapping[str, Any] = MappingProxyType({})
    function: Mapping[str, Any] = MappingProxyType({})


def forms_of_graph(graph: Graph) -> dict[str, LayerForm]:
    """Forms of the fused layers of a traced model, and of ``IMAGE``, by name."""
    forms = {IMAGE: LayerForm(graph.image)}
    for layer in fused(graph):
        function = layer.function.settings if layer.function is not None else {}
        forms[layer.name] = LayerForm(layer.last.shape, layer.main.settings, function)
    return forms


def forms_of_layers(layers: Sequence[Layer], channels: int) -> dict[str, LayerForm]:
    """Forms of the layers of a network of blocks, in which pools and linear layers yield vectors, and of ``IMAGE``.

    Args:
        layers: Layers with integer numbers.
        channels: Number of channels of the image.
    """
    forms: dict[str, LayerForm] = {}
    for layer in layers:
        tensor, op = layer.output, layer.op
        width = tensor.size if tensor.width is None else tensor.width
        pixels = () if layer.kind in ("pool", "linear") else (tensor.size, width)
        settings = dict(layer.settings)
        if op is not None and layer.kind == "conv":
            height, width = int(op.kernel_size), int(op.kernel_size if op.kernel_width is None else op.kernel_width)
            half = (height // 2, width // 2, height // 2, width // 2)
            settings = {
                "stride": (op.stride, op.stride),
                "padding": half if op.padding is None else op.padding,
                "dilation": (op.dilation, op.dilation),
                "groups": int(op.groups),
            }
        forms[layer.name] = LayerForm((int(tensor.channels), *pixels), settings)
        if op is not None and IMAGE in layer.inputs:
            forms[IMAGE] = LayerForm((channels, op.in_size, op.in_size if op.in_width is None else op.in_width))
    return forms
