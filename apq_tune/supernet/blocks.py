"""Elastic and folded blocks of any type, built from the layers that the type describes.

Each layer with weights has an activation quantizer for its input. A tensor that a layer without weights (pooling,
product, sum) reads, or several layers, also has its own quantizer, at the bits at which it is stored; layers with
weights then quantize it again only if their bits differ. Quantizers apply the activation of the layer before them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from apq_tune.network.layer import Function, Layer, Op
from apq_tune.space.block_type import BlockField
from apq_tune.space.block_types import ALL_TYPES
from apq_tune.space.slot import Slot
from apq_tune.space.slots import Skeleton
from apq_tune.supernet.elastic import Conv, ElasticConv, ElasticLinear, Norms
from apq_tune.supernet.folded import FoldedConv, FoldedLinear
from apq_tune.supernet.quantize import FUNCTIONS, ActivationQuantizer, again
from apq_tune.supernet.widths import SearchedWidth, WidthLayers, WidthScale

STREAM = "stream"
"""Name of the input tensor of a block."""


@functools.lru_cache(maxsize=4096)
def layers_of(slot: Slot, fixed_bits: int, block: tuple[Any, ...]) -> tuple[Layer, ...]:
    """Layers of a block at given values of its choices.

    Args:
        slot: Place of the block.
        fixed_bits: Bits of layers that are not searched.
        block: Values of the choices, in the order of the fields of the block type.
    """
    return ALL_TYPES[slot.block].layers(slot, fixed_bits, STREAM, *block)


def at_all_choices(space: Skeleton, slot: Slot) -> tuple[Layer, ...]:
    """Layers of a block whose numbers have one axis for each of its choices."""
    values = np.ix_(*space.fields(slot).values())
    return ALL_TYPES[slot.block].layers(slot, space.fixed_bits, STREAM, *values)


def weighted_layers(layers: tuple[Layer, ...]) -> list[tuple[Layer, Op]]:
    """Layers with weights in the order of their initialisation: convolutions, then linear layers."""
    kinds = ("conv", "linear")
    return [(layer, layer.op) for kind in kinds for layer in layers if layer.kind == kind and layer.op is not None]


def _values(numbers: Any) -> tuple[int, ...]:
    """Distinct values, ascending."""
    return tuple(int(value) for value in np.unique(numbers))


def is_stored_apart(layer: Layer, layers: tuple[Layer, ...]) -> bool:
    """Whether the output of a layer has its own quantizer."""
    readers = [other for other in layers if layer.name in other.inputs]
    return len(readers) > 1 or any(reader.op is None for reader in readers)


def _is_late(layer: Layer, layers: tuple[Layer, ...]) -> bool:
    """Whether the activation of a layer with weights is applied by the quantizer of its output."""
    return layer.op is not None and any(layer.name in other.inputs for other in layers)


def _activation_of(layer: Layer, layers: tuple[Layer, ...]) -> Function | None:
    """Activation that has been applied to the output of a layer."""
    if layer.kind in ("pool", "multiply"):
        return next((_activation_of(other, layers) for other in layers if other.name == layer.inputs[0]), None)
    return layer.activation


def _read_through(layer: Layer, layers: tuple[Layer, ...]) -> Function | None:
    """Activation of the input quantizer of a layer with weights."""
    made = next((other for other in layers if other.name == layer.inputs[0]), None)
    if made is None:
        return None
    activation = _activation_of(made, layers)
    return activation if _is_late(made, layers) and not is_stored_apart(made, layers) else again(activation)


class Quantizes(Protocol):
    """Quantizer of a tensor."""

    def __call__(self, x: Tensor, bits: int | None, /) -> Tensor:
        """Apply the activation and quantize; ``None`` for full precision."""
        ...

    def step(self, bits: int, /) -> Tensor:
        """Real value of one level."""
        ...


class QuantizesBlock(Protocol):
    """Quantizers of a block, as ``run_block`` uses them; see ``BlockQuantizers``."""

    @property
    def stream(self) -> Quantizes:
        """Quantizer of the input of the block."""
        ...

    def of_input(self, role: str, /) -> Quantizes:
        """Quantizer of the input of a layer with weights."""
        ...

    def of_output(self, role: str, /) -> Quantizes | None:
        """Quantizer of the output of a layer; ``None`` if the layer that reads it quantizes it."""
        ...


class BlockQuantizers(nn.Module):
    """Activation quantizers of a block: of its input, of inputs of layers with weights, and of stored outputs.

    Attributes:
        stream: Quantizer of the input of the block. In the first block it applies the activation of the stem, unless
            the space has a first block that is not searched.
    """

    def __init__(self, space: Skeleton, slot: Slot) -> None:
        super().__init__()
        layers = at_all_choices(space, slot)
        is_first = slot.stage == slot.position == 0 and space.first is None
        activation = space.stem.activation if is_first else None
        self.stream = ActivationQuantizer((space.fixed_bits,), activation)
        for layer, op in weighted_layers(layers):
            through = again(activation) if layer.inputs[0] == STREAM else _read_through(layer, layers)
            self.add_module(layer.role, ActivationQuantizer(_values(op.a_bits), through))
        for layer in layers:
            if is_stored_apart(layer, layers):
                applied = layer.activation if layer.op is not None else again(_activation_of(layer, layers))
                self.add_module(_own(layer.role), ActivationQuantizer(_values(layer.output.bits), applied))

    def of_input(self, role: str) -> ActivationQuantizer:
        """Quantizer of the input of a layer with weights."""
        return cast(ActivationQuantizer, self.get_submodule(role))

    def of_output(self, role: str) -> ActivationQuantizer | None:
        """Quantizer of the output of a layer; ``None`` if the layer that reads it quantizes it."""
        return cast("ActivationQuantizer | None", getattr(self, _own(role), None))


def _own(role: str) -> str:
    return f"{role}_output"


class ElasticBlock(nn.Module):
    """Weight-shared block with the maximum width and the largest kernels."""

    def __init__(self, space: Skeleton, slot: Slot) -> None:
        super().__init__()
        self._space, self._slot = space, slot
        for layer, op in weighted_layers(at_all_choices(space, slot)):
            n_in, n_out = _values(op.in_channels)[-1], _values(op.out_channels)[-1]
            if layer.kind == "linear":
                self.add_module(layer.role, ElasticLinear(n_in, n_out))
            else:
                depthwise = _values(op.groups)[-1] > 1
                self.add_module(layer.role, ElasticConv(n_in, n_out, _values(op.kernel_size), depthwise=depthwise))
        self.quantizers = BlockQuantizers(space, slot)

    def convs(self, layers: tuple[Layer, ...], norms: Norms) -> dict[str, Conv]:
        """Layers with weights at the shapes of a candidate, including batch norm, by role."""
        found: dict[str, Conv] = {}
        for layer, op in weighted_layers(layers):
            own: Any = self.get_submodule(layer.role)
            if layer.kind == "linear":
                found[layer.role] = own.sliced(op.in_channels, op.out_channels)
            else:
                kernel, n_in, n_out = (cast(int, n) for n in (op.kernel_size, op.in_channels, op.out_channels))
                found[layer.role] = norms.conv(own, kernel, n_in, n_out, op.stride, op.sparsity, op.sparse_group)
        return found

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Reorder searched channels by the L1 norm of the weights that read them, most important first (Cai 2020)."""
        for _, _, layers in self._widths():
            layers.reorder(layers.by_weights())

    def searched_widths(self) -> list[SearchedWidth]:
        """Channels that can be chosen; depthwise convolutions, which go on with the channels they get, come last."""
        found = []
        for field, values, layers in self._widths():
            ends = []
            for layer, own in layers.makers:
                depthwise = any(layer.name in reader.inputs for reader, _ in layers.depthwise)
                if isinstance(own, ElasticConv) and not depthwise:
                    units = torch.arange(values[-1], device=own.gamma.device)
                    ends += [WidthScale(own, name, units) for name in ("gamma", "beta")]
            if len(values) > 1:
                found.append(SearchedWidth(f"{self._slot.name} {field.name}", values[-1], tuple(ends)))
        return found

    @torch.no_grad()
    def rank_widths(self, importance: Sequence[Tensor]) -> None:
        """Reorder the channels of each searched width by importance."""
        searched = [layers for _, values, layers in self._widths() if len(values) > 1]
        for layers, own in zip(searched, importance, strict=True):
            layers.reorder(own.argsort(descending=True, stable=True))

    def _widths(self) -> list[tuple[BlockField, tuple[int, ...], WidthLayers]]:
        """Widths of the block, their values, and the layers that they affect."""
        fields = self._space.fields(self._slot)
        largest = [values[-1] for values in fields.values()]
        return [
            (field, values, self._layers_of_width(axis, largest))
            for axis, (field, values) in enumerate(fields.items())
            if field.kind == "width"
        ]

    def _layers_of_width(self, axis: int, values: list[int]) -> WidthLayers:
        """Layers that one width affects; they are found by increasing it by one."""
        more = [value + (place == axis) for place, value in enumerate(values)]
        pairs = zip(
            weighted_layers(layers_of(self._slot, self._space.fixed_bits, tuple(values))),
            weighted_layers(layers_of(self._slot, self._space.fixed_bits, tuple(more))),
            strict=True,
        )
        found = WidthLayers([], [], [])
        for (layer, small), (_, large) in pairs:
            own: Any = self.get_submodule(layer.role)
            if large.out_channels - small.out_channels == 1:
                found.makers.append((layer, own))
            if large.in_channels - small.in_channels == 1:
                (found.readers if small.groups == 1 else found.depthwise).append((layer, own))
        return found


class FoldedBlock(nn.Module):
    """Block of fixed shape with folded batch norm."""

    def __init__(self, space: Skeleton, slot: Slot, block: tuple[Any, ...]) -> None:
        super().__init__()
        for layer, op in weighted_layers(layers_of(slot, space.fixed_bits, block)):
            n_in, n_out, k, groups = (int(n) for n in (op.in_channels, op.out_channels, op.kernel_size, op.groups))
            if layer.kind == "linear":
                self.add_module(layer.role, FoldedLinear(n_in, n_out))
            else:
                conv = FoldedConv(n_in, n_out, k, op.stride, k // 2, groups=groups)
                conv.sparse = op.is_sparse
                self.add_module(layer.role, conv)
        self.quantizers = BlockQuantizers(space, slot)

    def convs(self, layers: tuple[Layer, ...]) -> dict[str, Conv]:
        """Layers with weights by role."""
        return {layer.role: cast(Conv, self.get_submodule(layer.role)) for layer, _ in weighted_layers(layers)}


def run_block(
    x: Tensor, layers: tuple[Layer, ...], convs: Mapping[str, Conv], quantizers: QuantizesBlock, fixed_bits: int | None
) -> Tensor:
    """Run one block.

    Args:
        x: Input of the block.
        layers: Layers of the block at a candidate's values.
        convs: Layers with weights by role, including batch norm.
        quantizers: Quantizers of the block.
        fixed_bits: Bits of the residual stream; ``None`` for full precision everywhere.
    """
    tensors = {STREAM: quantizers.stream(x, fixed_bits)}
    stored: dict[str, tuple[Quantizes, int]] = {}  # tensors that are quantized, by their quantizer and bits
    if fixed_bits is not None:
        stored[STREAM] = quantizers.stream, fixed_bits
    for layer in layers:
        inputs = [tensors[name] for name in layer.inputs]
        if layer.op is not None:
            x = _run_weighted(inputs[0], layer, convs[layer.role], quantizers, stored.get(layer.inputs[0]), fixed_bits)
            if not _is_late(layer, layers):
                x = FUNCTIONS[layer.activation](x)
        elif layer.kind == "pool":
            x = inputs[0].mean(dim=(2, 3))
        elif layer.kind == "multiply":
            x = inputs[0] * inputs[1][:, :, None, None]
        elif layer.kind == "add":
            x = FUNCTIONS[layer.activation](inputs[1] + inputs[0])
        else:
            raise NotImplementedError(f"layer {layer.name} is a {layer.kind}, which blocks cannot run")
        own = quantizers.of_output(layer.role)
        if own is not None:
            bits = None if fixed_bits is None else cast(int, layer.output.bits)
            x = own(x, bits)
            if bits is not None:
                stored[layer.name] = own, bits
        tensors[layer.name] = x
    return x


def _run_weighted(
    x: Tensor,
    layer: Layer,
    conv: Conv,
    quantizers: QuantizesBlock,
    stored: tuple[Quantizes, int] | None,
    fixed_bits: int | None,
) -> Tensor:
    """Quantize the input of a layer with weights, unless it is stored at these bits, and run the layer."""
    assert layer.op is not None
    if fixed_bits is None:
        return conv(quantizers.of_input(layer.role)(x, None), None)
    w_bits, a_bits = cast(int, layer.op.w_bits), cast(int, layer.op.a_bits)
    if stored is not None and stored[1] == a_bits:
        return conv(x, w_bits, input_step=partial(stored[0].step, a_bits))
    quantizer = quantizers.of_input(layer.role)
    return conv(quantizer(x, a_bits), w_bits, input_step=partial(quantizer.step, a_bits))
