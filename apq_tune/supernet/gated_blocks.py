"""Supernets of blocks with gates: all values of the searched genes in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor
from torch.nn import functional

from apq_tune.network.layer import Layer
from apq_tune.searchers.gates.draws import Gates
from apq_tune.searchers.gates.kinds import check_kinds
from apq_tune.space.encodings import encoding_of
from apq_tune.space.slot import Slot
from apq_tune.supernet.blocks import (
    STREAM,
    BlockQuantizers,
    ElasticBlock,
    Quantizes,
    at_all_choices,
    is_stored_apart,
    run_block,
    weighted_layers,
)
from apq_tune.supernet.elastic import Conv, ElasticConv, ElasticLinear, InputStep, Norms
from apq_tune.supernet.gated import (
    Quantity,
    at_sizes,
    channel_mask,
    masked,
    mixed,
    mixed_weight,
    total_gate,
)
from apq_tune.supernet.network import Supernet

GATED = 0
"""Bits of what gates quantize, in descriptions of layers."""


class _GatedLayer(NamedTuple):
    """Layer with weights.

    Attributes:
        kernel: Kernel size.
        inputs: Input channels.
        outputs: Output channels.
        w_bits: Bits of the weights.
        a_bits: Bits of the input.
        read: Bits at which the tensor that it reads is stored; ``None`` if it is not.
        stride: Stride.
        depthwise: Whether each channel has a kernel of its own.
    """

    kernel: Quantity
    inputs: Quantity
    outputs: Quantity
    w_bits: Quantity
    a_bits: Quantity
    read: Quantity | None
    stride: int
    depthwise: bool


class _GatedBlock(NamedTuple):
    """Block of the deepest network.

    Attributes:
        slot: Its place.
        layers: Its layers, without bits.
        weighted: Its layers with weights, by role.
        stored: Bits of the outputs that have their own quantizer, by role.
    """

    slot: Slot
    layers: tuple[Layer, ...]
    weighted: Mapping[str, _GatedLayer]
    stored: Mapping[str, Quantity]


class GatedBlocks:
    """Supernet of blocks as a function of gates.

    Attributes:
        supernet: Supernet.
    """

    def __init__(self, supernet: Supernet) -> None:
        """Find out what depends on which gene.

        Raises:
            SpaceError: If the space has genes that gates cannot run.
        """
        self.supernet, space = supernet, supernet.space
        encoding = encoding_of(space)
        check_kinds(encoding)
        column = {name: place for place, name in enumerate(encoding.names)}
        self._blocks = []
        for slot in space.slots:
            genes = [column[f"{slot.name} {field.name}"] for field in space.fields(slot)]
            self._blocks.append(_gated_block(slot, at_all_choices(space, slot), genes, space.fixed_bits))
        self._depths = [int(place) for place in encoding.places_of(["depth"])]
        sizes = encoding.places_of(["resolution"])
        self._size = Quantity(tuple(encoding.choices[sizes[0]]), int(sizes[0])) if len(sizes) else None

    def __call__(self, x: Tensor, gates: Gates, *, quantize: bool = True) -> Tensor:
        """Logits of shape ``(n, classes)`` of images of shape ``(n, channels, size, size)``."""

        def at(size: int | None) -> Tensor:
            norms = Norms(None, None)
            blocks = partial(self._run_blocks, gates=gates, norms=norms, quantize=quantize)
            return self.supernet.run_around(x, blocks, size, norms, quantize=quantize)

        return at(None) if self._size is None else at_sizes(at, self._size.gated(gates))

    def passes(self, gates: Gates) -> int:
        """Number of passes that gates take, one for each image size."""
        return 1 if self._size is None else len(self._size.gated(gates))

    def _run_blocks(self, x: Tensor, gates: Gates, norms: Norms, *, quantize: bool) -> Tensor:
        space = self.supernet.space
        for module, own in zip(self.supernet.blocks, self._blocks, strict=True):
            block, stage = cast(ElasticBlock, module), space.stages[own.slot.stage]
            there = np.array([depth > own.slot.position for depth in stage.depth])
            on = total_gate(gates, self._depths[own.slot.stage], there)
            if on is False:
                continue
            convs = {
                role: _conv(block.get_submodule(role), layer, gates, norms) for role, layer in own.weighted.items()
            }
            quantizers = _GatedQuantizers(block.quantizers, own, gates)
            y = run_block(x, own.layers, convs, quantizers, space.fixed_bits if quantize else None)
            if on is True:
                x = y
            else:
                off = total_gate(gates, self._depths[own.slot.stage], ~there)
                assert not isinstance(off, bool)
                x = mixed([(y, on), (x, off)])
        return x


def _gated_block(slot: Slot, layers: tuple[Layer, ...], genes: list[int], fixed_bits: int) -> _GatedBlock:
    stored = {layer.role: Quantity.of(layer.output.bits, genes) for layer in layers if is_stored_apart(layer, layers)}
    made = {layer.name: stored.get(layer.role) for layer in layers}
    weighted = {}
    for layer, op in weighted_layers(layers):
        source = layer.inputs[0]
        weighted[layer.role] = _GatedLayer(
            Quantity.of(op.kernel_size, genes),
            Quantity.of(op.in_channels, genes),
            Quantity.of(op.out_channels, genes),
            Quantity.of(op.w_bits, genes),
            Quantity.of(op.a_bits, genes),
            Quantity((fixed_bits,)) if source == STREAM else made[source],
            op.stride,
            depthwise=bool(np.max(op.groups) > 1),
        )
    plain = tuple(
        layer._replace(
            op=None if layer.op is None else layer.op._replace(w_bits=GATED, a_bits=GATED),
            output=layer.output._replace(bits=-1),  # unlike all bits that a layer reads
        )
        for layer in layers
    )
    return _GatedBlock(slot, plain, weighted, stored)


def _conv(own: Any, layer: _GatedLayer, gates: Gates, norms: Norms) -> Conv:
    """A layer with weights, its batch norm included, as a function of its input."""
    n_in, n_out = layer.inputs.largest(gates), layer.outputs.largest(gates)

    def weight_at(kernel: int, like: Tensor) -> Tensor:
        if isinstance(own, ElasticConv):
            return own.weights(n_in, n_out, kernel)
        assert isinstance(own, ElasticLinear)
        return own.weight[:n_out, :n_in].to(like)

    def run(x: Tensor, w_bits: int | None, *, input_step: InputStep | None = None) -> Tensor:  # noqa: ARG001
        kernels, largest = layer.kernel.gated(gates), layer.kernel.largest(gates)
        there = None if layer.depthwise else channel_mask(n_in, layer.inputs.gated(gates), x)
        parts = []
        for kernel, gate in kernels:
            weight = weight_at(kernel, x)
            if w_bits is not None:
                weight = mixed_weight(weight, layer.w_bits.gated(gates), there)
            if (margin := (largest - kernel) // 2) > 0:
                weight = functional.pad(weight, [margin] * 4)
            parts.append((weight, gate))
        mask = channel_mask(n_out, layer.outputs.gated(gates), x)
        if isinstance(own, ElasticLinear):
            return masked(functional.linear(x, mixed(parts), own.bias[:n_out]), mask)
        groups = n_out if layer.depthwise else 1
        y = functional.conv2d(x, mixed(parts), None, layer.stride, largest // 2, 1, groups)
        return masked(norms(y, own.gamma[:n_out], own.beta[:n_out]), mask)

    return run


class _GatedQuantizer:
    """Quantizer to several bit-widths by their gates."""

    def __init__(self, own: Quantizes, bits: Quantity, stored: Quantity | None, gates: Gates) -> None:
        self._own, self._bits, self._stored, self._gates = own, bits, stored, gates

    def __call__(self, x: Tensor, bits: int | None) -> Tensor:
        """Quantize a tensor, which may be stored at some of the bits already."""
        if bits is None:
            return self._own(x, None)
        if self._stored == self._bits:
            return x
        same = None if self._stored is None or self._stored.gene is not None else self._stored.values[0]
        widths = self._bits.gated(self._gates)
        return mixed([(x if width == same else self._own(x, width), gate) for width, gate in widths])

    def step(self, bits: int) -> Tensor:
        """Real value of one level; elastic layers do not round their biases and never ask for it."""
        return self._own.step(bits)


class _GatedQuantizers:
    """Quantizers of a block by gates; see ``BlockQuantizers``."""

    def __init__(self, own: BlockQuantizers, block: _GatedBlock, gates: Gates) -> None:
        self._own, self._block, self._gates = own, block, gates
        self.stream = own.stream

    def of_input(self, role: str) -> _GatedQuantizer:
        """Quantizer of the input of a layer with weights."""
        layer = self._block.weighted[role]
        return _GatedQuantizer(self._own.of_input(role), layer.a_bits, layer.read, self._gates)

    def of_output(self, role: str) -> _GatedQuantizer | None:
        """Quantizer of the output of a layer; ``None`` if the layer that reads it quantizes it."""
        own = self._own.of_output(role)
        return None if own is None else _GatedQuantizer(own, self._block.stored[role], None, self._gates)
