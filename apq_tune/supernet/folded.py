"""Layers of fixed shape, batch norm folded into weights and bias (Jacob 2018), in the arithmetic of integer kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.supernet.elastic import InputStep
from apq_tune.supernet.masks import held
from apq_tune.supernet.quantize import quantize_weight, weight_step

LARGEST_BIAS = 2**30
"""Largest magnitude of an integer bias, half of what an int32 accumulator holds."""


Known = dict[tuple[int, int, float], tuple[Tensor, Tensor, Tensor]]
"""Weights, and their quantized form with its bias, by identity of the weights, bits and step of the input."""

_known: ContextVar[Known | None] = ContextVar("_known", default=None)


@contextlib.contextmanager
def constant_weights() -> Iterator[None]:
    """Quantize each layer once rather than for every batch of images: gradients are off and no weight changes."""
    with torch.no_grad():
        token = _known.set({})
        try:
            yield
        finally:
            _known.reset(token)


@torch.no_grad()
def integers(
    weight: Tensor, bias: Tensor, bits: int, input_step: Tensor, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Integer weights and bias of a layer, as floating-point numbers.

    Args:
        weight: Weights, shape ``(out, in, k, k)`` or ``(out, in)``.
        bias: Bias, shape ``(out,)``.
        bits: Bit-width of the weights.
        input_step: Real value of one level of the input.
        factor: Factor of the step of each output channel, shape ``(out,)``; ``None`` for one.

    Returns:
        Levels of the weights; their step for each output channel, shape ``(out, 1, 1, 1)`` or ``(out, 1)``, which is
        larger than ``weight_step`` only if the bias would not fit otherwise, as in a channel without weights; and
        the bias, shape ``(out,)``, in units of the step times ``input_step``.
    """
    smallest = (bias.abs() / (input_step * LARGEST_BIAS)).reshape(-1, *[1] * (weight.ndim - 1))
    step, qmax = torch.maximum(weight_step(weight, bits, factor), smallest), 2 ** (bits - 1) - 1
    levels = (weight / step).round_().clamp_(-qmax, qmax)
    return levels, step, (bias / (step.flatten() * input_step)).round_()


def quantized(
    weight: Tensor, bias: Tensor, bits: int | None, input_step: InputStep | None, factor: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Weights and bias in real units as an integer kernel has them, with straight-through gradients.

    Args:
        weight: Weights.
        bias: Bias.
        bits: Bit-width of the weights, or ``None`` for full precision.
        input_step: Function that gives the real value of one level of the input; ``None`` leaves the bias as it is.
        factor: Factor of the step of each output channel, shape ``(out,)``; ``None`` for one.
    """
    if bits is None or input_step is None:
        return quantize_weight(weight, bits, factor), bias
    unit, known = input_step(), _known.get()
    if known is None or not weight.is_cpu:  # a GPU would wait for the step, and has few batches
        return _quantized(weight, bias, bits, unit, factor)
    key = id(weight), bits, float(unit)
    if key not in known:  # the weights are kept with it, so that no others get their identity
        known[key] = (weight, *_quantized(weight, bias, bits, unit, factor))
    return known[key][1:]


def _quantized(weight: Tensor, bias: Tensor, bits: int, unit: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    levels, step, bias_levels = integers(weight, bias, bits, unit, factor)
    rounded = bias_levels.mul_(step.flatten() * unit)
    return levels.mul_(step) + (weight - weight.detach()), rounded + (bias - bias.detach())


class FoldedConv(nn.Conv2d):
    """A convolution with bias whose weights are quantized on the way in.

    Attributes:
        sparse: Whether weights that are zero stay zero in training.
    """

    sparse = False

    def forward(self, x: Tensor, w_bits: int | None = None, *, input_step: InputStep | None = None) -> Tensor:
        """Convolve with weights at ``w_bits`` (``None``: full precision), and the bias in units of the input's step."""
        assert self.bias is not None
        weight = held(self.weight) if self.sparse else self.weight
        y: Tensor = self._conv_forward(x, *quantized(weight, self.bias, w_bits, input_step))
        return y


class FoldedLinear(nn.Linear):
    """A linear layer whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None, *, input_step: InputStep | None = None) -> Tensor:
        """Multiply with weights at ``w_bits`` (``None``: full precision), and the bias in units of the input's step."""
        return functional.linear(x, *quantized(self.weight, self.bias, w_bits, input_step))
