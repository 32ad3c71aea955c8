"""Stand-alone networks of candidates of traced models, batch norm folded where it follows a layer with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apq_tune.network.fused import FusedLayer
from apq_tune.network.graph import WEIGHTED, Graph, Node
from apq_tune.network.layer import IMAGE, Layer
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.elastic import Conv, InputStep
from apq_tune.supernet.folded import quantized
from apq_tune.supernet.graph_forward import GraphLayers, GraphNetwork, LayerMemory, run_layers
from apq_tune.supernet.graph_quantizers import GraphQuantizers, bits_of, is_stored, module_key, sources_of, unquantized
from apq_tune.supernet.graph_ranks import ChannelRanks
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.masks import held
from apq_tune.supernet.quantize import ActivationQuantizer
from apq_tune.tracing.functions import compute


class FoldedWeights(nn.Module):
    """Weight and bias of a convolution or linear layer, batch norm folded, quantized on the way in.

    Attributes:
        weight: Weight, shape ``(out, in / groups, h, w)`` or ``(out, in)``.
        bias: Bias, shape ``(out,)``.
        bits: Bit-widths.
        factors: Factors of the quantization steps of output channels, shape ``(len(bits), out)``.
        sparse: Whether weights that are zero stay zero in training.
    """

    factors: Tensor

    def __init__(self, shape: Sequence[int], bits: Sequence[int], *, sparse: bool = False) -> None:
        super().__init__()
        self.bits, self.sparse = tuple(bits), sparse
        self.register_buffer("factors", torch.ones(len(self.bits), shape[0]))
        self.weight = nn.Parameter(torch.zeros(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0]))

    def factor(self, bits: int | None) -> Tensor | None:
        """Factors of the steps of output channels at a bit-width, shape ``(out,)``."""
        return None if bits is None else self.factors[self.bits.index(bits)]

    def at(self, node: Node) -> Conv:
        """The layer as a function of its input, with stride, padding and groups of a node."""

        def run(x: Tensor, w_bits: int | None, *, input_step: InputStep | None = None) -> Tensor:
            own = held(self.weight) if self.sparse else self.weight
            weight, bias = quantized(own, self.bias, w_bits, input_step, self.factor(w_bits))
            assert bias is not None
            return compute(node, [x], {"weight": weight, "bias": bias})

        return run


class NodeTensors(nn.Module):
    """Parameters of any other node by role; statistics of batch norm are buffers."""

    def __init__(self, node: Node, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        for role, name in node.parameters.items():
            tensor = torch.zeros(tuple(shapes[name]))
            if role in ("mean", "variance"):
                self.register_buffer(role, tensor)
            else:
                self.register_parameter(role, nn.Parameter(tensor))

    def get(self, role: str) -> Tensor:
        """Parameter or statistic by role."""
        return cast(Tensor, getattr(self, role))


class GraphSubnet(AnySubnet):
    """Stand-alone network of a candidate of a traced model.

    Attributes:
        ranks: Ranks of the channels of the model, which say what channels the network has.
    """

    def __init__(self, space: ModelSpace, candidate: ModelCandidate) -> None:
        super().__init__(space, candidate)
        self.ranks = ChannelRanks(space.coupling)
        self.parts = nn.ModuleDict()
        self.quantizers = GraphQuantizers(space.graph, sources_of(space), bits_of(space))
        self._network: tuple[Mapping[int, NDArray[np.int64]], GraphNetwork] | None = None
        graph = self.network.graph
        for layer in self.network.fused:
            node = layer.main
            if node.kind in WEIGHTED:
                self.parts[module_key(node.name)] = FoldedWeights(
                    graph.shapes[node.parameters["weight"]], bits_of(space), sparse=layer.name in self.network.sparse
                )
            elif node.parameters:
                self.parts[module_key(node.name)] = NodeTensors(node, graph.shapes)

    @property
    def network(self) -> GraphNetwork:
        """Graph and layers of the network; they are made again when other ranks have been loaded."""
        ranks = self.ranks.by_group
        if self._network is None or self._network[0] is not ranks:
            self._network = ranks, GraphNetwork.of(self.space.plan(self.candidate, ranks))
        return self._network[1]

    def forward(self, x: Tensor, *, quantize: bool = True, bits: ModelCandidate | None = None) -> Tensor:
        """Run the network at its bits, those of another candidate, or in full precision."""
        return self._run(x, quantize=quantize, bits=bits)

    def on(self, x: Tensor) -> Callable[[ModelCandidate], Tensor]:
        """The network on the same images at different bits; layers that are as in the first run are not repeated."""
        memory = LayerMemory()
        return lambda bits: self._run(x, quantize=True, bits=bits, memory=memory)

    def _run(
        self, x: Tensor, *, quantize: bool, bits: ModelCandidate | None, memory: LayerMemory | None = None
    ) -> Tensor:
        network = self.network
        layers = None
        if quantize:
            layers = network.layers if bits is None else self.space.plan(bits, self.ranks.by_group).layers
        own = GraphLayers(lambda layer: self._weights(layer.name).at(layer.main), self._others)
        return run_layers(x, network, own, self.quantizers, layers, memory)

    def _weights(self, name: str) -> FoldedWeights:
        return cast(FoldedWeights, self.parts[module_key(name)])

    def _others(self, layer: FusedLayer, inputs: Sequence[Tensor]) -> Tensor:
        return compute(layer.main, inputs, self.constants(layer.name))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the network in the order of the forward pass, at the bits of its candidate."""
        return self.network.layers

    @property
    def graph(self) -> Graph:
        """Graph of the network."""
        return self.network.graph

    def constants(self, name: str) -> dict[str, Tensor]:
        """Parameters and batch norm statistics of a layer by role; of layers with weights their folded ones."""
        key = module_key(name)
        part = self.parts[key] if key in self.parts else nn.Module()
        return {**dict(part.named_parameters()), **dict(part.named_buffers())}

    def weighted(self) -> dict[str, FoldedWeights]:
        """Layers with weights, by the name of the layer."""
        return {layer.name: self._weights(layer.name) for layer in self.network.fused if layer.main.kind in WEIGHTED}

    def input_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Quantizers of the inputs of layers with weights, which are those of the stored tensors that they read."""
        own = self._read_quantizers()
        return {layer.name: own[layer.inputs[0]] for layer in self.network.fused if layer.main.kind in WEIGHTED}

    def stored_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Quantizers of stored tensors, by the name of the layer that makes the tensor."""
        logits = unquantized(self.network.fused)
        stored = [layer for layer in self.network.fused if is_stored(layer) and layer.name not in logits]
        return {layer.name: self.quantizers.of(layer.last.name) for layer in stored}

    def _read_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Quantizer of the output of each layer; layers that only move values have that of what they read."""
        found = {IMAGE: self.quantizers.of(IMAGE)}
        for layer in self.network.fused:
            own = is_stored(layer)
            found[layer.name] = self.quantizers.of(layer.last.name) if own else found[layer.inputs[0]]
        return found
