"""Integers of a trained network: weights, biases and quantizers by the names of layers, as NumPy arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from apq_tune.supernet.folded import integers
from apq_tune.supernet.graph_subnet import FoldedWeights
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.quantize import ActivationQuantizer


class FrozenWeights(NamedTuple):
    """Integer weights and bias of a layer.

    Attributes:
        values: Weights, shape ``(out, in / groups, k, k)`` of convolutions and ``(out, in)`` of linear layers.
        scales: Scale of each output channel, shape ``(out,)``; weights in real units are ``values * scales``.
        bias: Bias, shape ``(out,)``, in units of ``scales`` times the scale of the input.
        bits: Bit-width of the weights.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.int32]
    bits: int


class FrozenQuantizer(NamedTuple):
    """Quantizer of a tensor.

    Attributes:
        scale: Real value of one level.
        bits: Bit-width.
        signed: Whether levels run from ``-2^(bits - 1)`` to ``2^(bits - 1) - 1`` rather than from 0 to ``2^bits - 1``.
    """

    scale: np.float32
    bits: int
    signed: bool


class FrozenSubnet:
    """Parameters of a subnet, at the bits of its candidate, by the names of its layers."""

    def __init__(self, subnet: AnySubnet) -> None:
        self._subnet = subnet
        self._layers = {layer.name: layer for layer in subnet.layers}
        self._stored, self._read = subnet.stored_quantizers(), subnet.input_quantizers()

    def stored(self, name: str) -> FrozenQuantizer | None:
        """Quantizer of the output of a layer, if it has its own rather than those of the layers that read it."""
        quantizer = self._stored.get(name)
        return None if quantizer is None else _frozen(quantizer, int(self._layers[name].output.bits))

    def read(self, name: str) -> FrozenQuantizer:
        """Quantizer of the input of a layer with weights, at the bits of its multiplications."""
        op = self._layers[name].op
        assert op is not None
        return _frozen(self._read[name], int(op.a_bits))

    @torch.no_grad()
    def weights(self, name: str, input_scale: np.float32) -> FrozenWeights:
        """Integer parameters of a layer with weights.

        Args:
            name: Name of the layer.
            input_scale: Scale of its input, which is part of the unit of the bias.
        """
        module, op = self._subnet.weighted()[name], self._layers[name].op
        assert op is not None and module.bias is not None
        bits = int(op.w_bits)
        factor = module.factor(bits) if isinstance(module, FoldedWeights) else None
        levels, step, bias = integers(module.weight, module.bias, bits, torch.tensor(float(input_scale)), factor)
        return FrozenWeights(
            levels.cpu().numpy().astype(np.int8),
            step.flatten().cpu().numpy().astype(np.float32),
            bias.cpu().numpy().astype(np.int32),
            bits,
        )

    @torch.no_grad()
    def constants(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Parameters by role of a layer that is computed in floating point; networks of blocks have none."""
        tensors = self._subnet.constants(name)
        return {role: np.asarray(own.cpu().numpy(), np.float32) for role, own in tensors.items()}


@torch.no_grad()
def _frozen(quantizer: ActivationQuantizer, bits: int) -> FrozenQuantizer:
    return FrozenQuantizer(np.float32(quantizer.step(bits).item()), bits, quantizer.signed)
