"""Forward pass of traced models, layer by layer as their outputs are stored.

The layers with weights and the parameters of all others, which come from different sources, are passed as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, cast

import torch
from torch import Tensor

from apq_tune.network.fused import FusedLayer, fused
from apq_tune.network.graph import MOVING, WEIGHTED, Graph
from apq_tune.network.layer import IMAGE, Layer
from apq_tune.space.model_plan import ModelPlan
from apq_tune.supernet.batches import resized
from apq_tune.supernet.elastic import Conv
from apq_tune.supernet.graph_quantizers import SATURATING, GraphQuantizers, unquantized
from apq_tune.supernet.quantize import ActivationQuantizer
from apq_tune.tracing.functions import compute


class GraphLayers(NamedTuple):
    """Where the layers of a network get their parameters.

    Attributes:
        weighted: Function from a convolution or linear layer, its batch norm included, to what computes it.
        others: Function from any other layer and its inputs to the output of its first node.
    """

    weighted: Callable[[FusedLayer], Conv]
    others: Callable[[FusedLayer, Sequence[Tensor]], Tensor]


class GraphNetwork(NamedTuple):
    """Network of a candidate.

    Attributes:
        graph: Its graph.
        fused: Layers of the graph, in order.
        layers: The same layers with their bits.
        sparse: Layers with sparse weights: their sparsity, and the inputs in a group of N:M sparsity (1 for none).
    """

    graph: Graph
    fused: tuple[FusedLayer, ...]
    layers: tuple[Layer, ...]
    sparse: Mapping[str, tuple[float, int]] = MappingProxyType({})

    @classmethod
    def of(cls, plan: ModelPlan) -> GraphNetwork:
        """Network of the plan of a candidate."""
        weighted = ((layer.name, layer.op) for layer in plan.layers if layer.op is not None)
        sparse = {name: (op.sparsity, op.sparse_group) for name, op in weighted if op.is_sparse}
        return cls(plan.graph, fused(plan.graph), plan.layers, sparse)


class _Kept(NamedTuple):
    """How a tensor is stored: with a quantizer, at some bits; ``None`` if it is in floating point, as images are."""

    quantizer: ActivationQuantizer
    bits: int | None


class LayerMemory:
    """Outputs of the layers of a network on the same images, for runs that differ in the bits of some layers.

    The first run is kept. Later ones compute a layer only if its bits, or anything that it depends on, differ.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}  # of layers in all that they depend on
        self._outputs: dict[int, Tensor] = {}
        self._complete = False

    def number(self, layer: FusedLayer, bits: Layer, inputs: Sequence[int]) -> int:
        """Number of a layer with its bits and inputs; equal numbers mean equal outputs."""
        own = (None, None) if bits.op is None else (bits.op.w_bits, bits.op.a_bits)
        return self._numbers.setdefault((layer.name, *own, bits.output.bits, *inputs), len(self._numbers) + 1)

    def get(self, number: int) -> Tensor | None:
        """Output that the first run had; ``None`` if it had another one."""
        return self._outputs.get(number)

    def keep(self, number: int, output: Tensor) -> None:
        """Keep an output of the first run."""
        if not self._complete:
            self._outputs[number] = output

    def close(self) -> None:
        """Keep nothing from now on."""
        self._complete = True


def run_layers(
    x: Tensor,
    network: GraphNetwork,
    own: GraphLayers,
    quantizers: GraphQuantizers,
    layers: Sequence[Layer] | None,
    memory: LayerMemory | None = None,
    after: Callable[[FusedLayer, Tensor, Sequence[Tensor]], Tensor] | None = None,
) -> Tensor:
    """Run a network.

    Args:
        x: Images, shape ``(n, channels, h, w)``; they are resized to those of the network.
        network: Network to run.
        own: Parameters of its layers.
        quantizers: Quantizers of stored tensors.
        layers: Its layers with the bits to run at; ``None`` for full precision.
        memory: Memory of runs on the same images with the same parameters; only for given bits.
        after: Function from a layer, its output as it is stored and its inputs to the output that others read.

    Returns:
        Logits, shape ``(n, classes)``.
    """
    x = resized(x, *network.graph.image[1:])
    run = _LayerRun(own, quantizers, unquantized(network.fused), layers)
    last_reader = {name: layer.name for layer in network.fused for name in layer.inputs}
    tensors = {IMAGE: x}
    numbers = {IMAGE: 0}
    for layer in network.fused:
        known = None
        if memory is not None:
            numbers[layer.name] = memory.number(layer, run.bits(layer), [numbers[name] for name in layer.inputs])
            known = memory.get(numbers[layer.name])
        if known is None:
            inputs = [tensors[name] for name in layer.inputs]
            output = run.output(layer, inputs)
            tensors[layer.name] = output if after is None else after(layer, output, inputs)
        else:
            tensors[layer.name] = run.skipped(layer, known)
        if memory is not None:
            memory.keep(numbers[layer.name], tensors[layer.name])
        for name in set(layer.inputs):
            if last_reader[name] == layer.name:
                del tensors[name]
    if memory is not None:
        memory.close()
    return tensors[network.fused[-1].name]


class _LayerRun:
    """State of one forward pass: how the tensors so far are stored."""

    def __init__(
        self,
        own: GraphLayers,
        quantizers: GraphQuantizers,
        logits: Collection[str],
        layers: Sequence[Layer] | None,
    ) -> None:
        self._own, self._quantizers, self._logits = own, quantizers, logits
        self._layers = None if layers is None else {layer.name: layer for layer in layers}
        self._kept = {IMAGE: _Kept(quantizers.of(IMAGE), None)}
        self._plain_format = True

    def bits(self, layer: FusedLayer) -> Layer:
        """Layer with its bits."""
        assert self._layers is not None
        return self._layers[layer.name]

    def skipped(self, layer: FusedLayer, output: Tensor) -> Tensor:
        """Output of a layer that is known already."""
        self._keep(layer)
        self._plain_format = self._plain_format and not (layer.main.kind in WEIGHTED and output.ndim == 4)
        return output

    def _keep(self, layer: FusedLayer) -> _Kept | None:
        """Note how the output of a layer is stored; returns its quantizer unless it has none of its own."""
        if layer.main.kind in MOVING:
            if layer.inputs[0] in self._kept:
                self._kept[layer.name] = self._kept[layer.inputs[0]]
            return None
        if layer.name in self._logits:
            return None
        bits = None if self._layers is None else cast(int, self._layers[layer.name].output.bits)
        self._kept[layer.name] = _Kept(self._quantizers.of(layer.last.name), bits)
        return self._kept[layer.name]

    def output(self, layer: FusedLayer, inputs: Sequence[Tensor]) -> Tensor:
        """Output of a layer as it is stored."""
        bits = None if self._layers is None else self._layers[layer.name]
        if layer.main.kind in MOVING:
            self._keep(layer)
            return self._own.others(layer, inputs)
        last = layer.last
        late = last.kind == "function" and last.settings["name"] in SATURATING and layer.name not in self._logits
        if layer.main.kind in WEIGHTED:
            x = self._weighted(layer, inputs[0], bits)
        elif late and last is layer.main:
            x = inputs[0]
        else:
            x = self._own.others(layer, inputs)
        if layer.function is not None and not late:
            x = compute(layer.function, [x], {})
        kept = self._keep(layer)
        if kept is None:
            return x
        stored: Tensor = kept.quantizer(x, kept.bits)
        return stored

    def _weighted(self, layer: FusedLayer, x: Tensor, bits: Layer | None) -> Tensor:
        """Run a layer with weights on its input, quantized again if it is stored at more bits than the layer needs."""
        conv = self._own.weighted(layer)
        if bits is None:
            y = conv(self._quantizers.of(IMAGE)(x, None) if layer.inputs[0] == IMAGE else x, None)
        else:
            assert bits.op is not None
            kept, a_bits = self._kept[layer.inputs[0]], cast(int, bits.op.a_bits)
            if kept.bits != a_bits:
                x = kept.quantizer(x, a_bits)
            y = conv(x, cast(int, bits.op.w_bits), input_step=partial(kept.quantizer.step, a_bits))
        if self._plain_format and y.ndim == 4:
            # After the stem, since a one-channel image has no memory format. Training is 1.3 times faster on CPUs.
            y, self._plain_format = y.contiguous(memory_format=torch.channels_last), False
        return y
