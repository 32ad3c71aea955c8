"""Quantizers of the stored tensors of a traced model, one for each, whatever candidate it belongs to.

A tensor is stored at the most bits that a reader needs, and readers that need fewer quantize it again; the quantizer of
the tensor has a clip value for each bit-width and serves both. Layers that only move values have none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from apq_tune.network.fused import FusedLayer
from apq_tune.network.graph import MOVING, Graph, Node
from apq_tune.network.layer import IMAGE, Function
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.quantize import ActivationQuantizer

POSITIVE: tuple[Function, ...] = ("relu", "relu6", "sigmoid", "h_sigmoid")
"""Functions whose values are never negative."""

KEEPS_SIGN = (*MOVING, "add", "multiply", "concat", "mean", "avg_pool", "upsample")
"""Kinds whose output is not negative if no input is."""

SATURATING: tuple[Function, ...] = ("relu", "relu6")
"""Functions of which quantization to ``[0, clip]`` does all."""


def module_key(name: str) -> str:
    """Name of a node as a key of torch's module dictionaries, which allow no dots and none of their own attributes."""
    return "/" + name.replace(".", "/")


def sources_of(space: ModelSpace) -> dict[str, str]:
    """For the output node of each removable block of a space, the node that takes its place."""
    return {block.output: block.source for block in space.blocks}


def bits_of(space: ModelSpace) -> tuple[int, ...]:
    """All bit-widths of a space, ascending."""
    chosen = [*space.choices.w_bits.values(), *space.choices.a_bits.values()]
    return tuple(sorted({space.fixed_bits, *(bits for choice in chosen for bits in choice.values)}))


def not_negative(graph: Graph, sources: Mapping[str, str]) -> frozenset[str]:
    """Names of the nodes whose outputs are negative in no candidate.

    Args:
        graph: Whole model.
        sources: For the output node of each removable block, the node that takes its place.
    """
    own: set[str] = set()
    seen: set[str] = set()  # the same, as readers see it, who read the source if the block is removed
    for node in graph.nodes:
        if _is_positive(node, seen):
            own.add(node.name)
            if node.name not in sources or sources[node.name] in seen:
                seen.add(node.name)
    return frozenset(own)


def _is_positive(node: Node, positive: Collection[str]) -> bool:
    inputs = all(name in positive for name in node.inputs)
    if node.kind != "function":
        return node.kind in KEEPS_SIGN and inputs and node.settings.get("value", 0) >= 0
    if node.settings["name"] == "scale":
        return inputs and node.settings["factor"] >= 0 and node.settings["offset"] >= 0
    return node.settings["name"] in POSITIVE or inputs


def is_stored(layer: FusedLayer) -> bool:
    """Whether the output of a layer is quantized by a quantizer of its own, unless it is the output of the model."""
    return layer.main.kind not in MOVING


def unquantized(layers: Sequence[FusedLayer]) -> frozenset[str]:
    """Names of the layers whose outputs are not quantized: the logits, and what is only moved to become them."""
    readers: dict[str, list[FusedLayer]] = {}
    for layer in layers:
        for name in layer.inputs:
            readers.setdefault(name, []).append(layer)
    found = {layers[-1].name}
    for layer in reversed(layers[:-1]):
        if all(own.name in found and _moves(own) for own in readers.get(layer.name, ())):
            found.add(layer.name)
    return frozenset(found)


def _moves(layer: FusedLayer) -> bool:
    nearest = layer.main.kind == "upsample" and layer.main.settings["mode"] == "nearest" and layer.function is None
    return nearest or layer.main.kind in MOVING


class GraphQuantizers(nn.ModuleDict):
    """Quantizers by ``module_key`` of the node whose output they quantize, and of ``IMAGE``."""

    def __init__(self, graph: Graph, sources: Mapping[str, str], bits: Sequence[int]) -> None:
        """Make a quantizer for each node whose output a candidate may store.

        Args:
            graph: Whole model.
            sources: For the output node of each removable block, the node that takes its place.
            bits: All bit-widths of the space, ascending.
        """
        super().__init__()
        positive = not_negative(graph, sources)
        self[module_key(IMAGE)] = ActivationQuantizer(tuple(bits), None)
        for node in graph.nodes:
            if node.kind in MOVING:
                continue
            name = node.settings["name"] if node.kind == "function" else None
            activation: Function | None = "relu" if node.name in positive else None
            self[module_key(node.name)] = ActivationQuantizer(tuple(bits), name if name in SATURATING else activation)

    def of(self, name: str) -> ActivationQuantizer:
        """Quantizer of the output of a node, or of ``IMAGE``."""
        quantizer = self[module_key(name)]
        assert isinstance(quantizer, ActivationQuantizer)
        return quantizer
