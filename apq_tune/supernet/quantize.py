"""Fake quantization with bits as arguments and straight-through gradients (Bengio 2013).

Weights: symmetric, per output channel, narrow range ``[-qmax, qmax]``. The step is a constant times the channel's root
mean square, so it scales with the channel and quantization commutes with folding batch norm: quantizing before or
after gives the same network (Jacob 2018). Pruned weights, exact zeros, do not count: they need no level but zero.
Weights that were trained in full precision have longer tails than those that are trained at these steps: for them each
channel has a further factor, of which the same holds.
Activations: per tensor, ``[0, 2^b - 1]`` after ReLU and ReLU6, ``[-2^(b-1), 2^(b-1) - 1]`` elsewhere. The range is
a learned clip value in real units, its gradient that of LSQ (Esser 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.network.layer import Function

# Step over standard deviation that minimises the mean squared error of a Gaussian quantized uniformly to 2^b - 1
# levels; tests/supernet/test_quantize.py finds them again by minimisation.
GAUSSIAN_STEP = {2: 1.2240, 3: 0.6508, 4: 0.3534, 5: 0.1932, 6: 0.1055, 7: 0.05726, 8: 0.03087}

SMALLEST_CLIP, STEP_GRID = 0.25, 24
"""Smallest clip value of a channel's weights that is tried, in units of their largest magnitude, and number of them."""

CLIP_GRID = 40
"""Number of clip values that calibration tries, evenly spaced up to the largest magnitude."""


def weight_step(weight: Tensor, bits: int, factor: Tensor | None = None) -> Tensor:
    """Quantization step of each output channel, shape ``(out, 1, 1, 1)``, of weights of shape ``(out, in, k, k)``.

    Args:
        weight: Weights.
        bits: Bit-width from 2 to 8.
        factor: Factor of the step of each output channel, shape ``(out,)``; ``None`` for one.
    """
    own, others = weight.detach(), tuple(range(1, weight.ndim))
    density = (own != 0).sum(dim=others, keepdim=True).clamp_min(1) / own[0].numel()
    mean_square = own.square().mean(dim=others, keepdim=True) / density  # dense: division by exactly one
    step = GAUSSIAN_STEP[bits] * mean_square.sqrt().clamp_min(1e-12)
    return step if factor is None else step * factor.reshape(step.shape)


@torch.no_grad()
def fitted_factors(weight: Tensor, bits: Sequence[int]) -> Tensor:
    """Factors of the steps that minimise the squared error of each output channel, shape ``(len(bits), out)``.

    Args:
        weight: Weights, shape ``(out, in, k, k)`` or ``(out, in)``.
        bits: Bit-widths.
    """
    flat = weight.flatten(1)
    top = flat.abs().amax(dim=1, keepdim=True)
    factors = torch.ones(len(bits), len(flat), device=weight.device)
    for row, own in enumerate(bits):
        qmax, usual = 2 ** (own - 1) - 1, weight_step(flat, own)
        least = torch.full_like(top, torch.inf)
        for share in torch.linspace(SMALLEST_CLIP, 1, STEP_GRID).tolist():
            step = (top * (share / qmax)).clamp_min(1e-12)
            error = (flat / step).round_().clamp_(-qmax, qmax).mul_(step).sub_(flat).square_().sum(dim=1, keepdim=True)
            better = (error < least) & (top > 0)
            least = torch.where(better, error, least)
            factors[row] = torch.where(better, step / usual, factors[row][:, None])[:, 0]
    return factors


def quantize_weight(weight: Tensor, bits: int | None, factor: Tensor | None = None) -> Tensor:
    """Quantize weights, in real units, with straight-through gradient.

    Args:
        weight: Weights, shape ``(out, in, k, k)`` or ``(out, in)``.
        bits: Bit-width from 2 to 8, or ``None`` for full precision.
        factor: Factor of the step of each output channel, shape ``(out,)``; ``None`` for one.
    """
    if bits is None:
        return weight
    step, qmax = weight_step(weight, bits, factor), 2 ** (bits - 1) - 1
    levels = (weight.detach() / step).round_().clamp_(-qmax, qmax)
    return levels * step + (weight - weight.detach())  # the second term is exactly zero and carries the gradient


def activation_levels(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of quantized activations."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class _FakeQuantize(torch.autograd.Function):
    """Fake quantization of activations, in float32 even with autocast, as bfloat16 cannot represent 8-bit levels."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
        step = clip / high
        y = (x / step).round_().clamp_(low, high).mul_(step)  # in place, as allocation costs more than arithmetic
        ctx.save_for_backward(x, y, step)  # neighbouring layers keep input and output anyway
        ctx.low, ctx.high = low, high
        return y

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        x, y, step = ctx.saved_tensors
        if x.is_cpu:
            value = step.item()
            grad_x = torch.ops.aten.hardtanh_backward(grad, x, ctx.low * value, ctx.high * value)
        else:  # item() would synchronise with the GPU
            grad_x = grad * ((x > ctx.low * step) & (x < ctx.high * step))
        # d output / d step is level - x / step inside the range and level outside it, and level is y / step.
        order = _in_memory_order(grad)
        total = torch.dot(order(grad), order(y)) - torch.dot(order(grad_x), order(x))
        return grad_x, total / (step * ctx.high), None, None


def _in_memory_order(x: Tensor) -> Callable[[Tensor], Tensor]:
    """Function that flattens tensors in the memory order of ``x``, without copies for tensors with the same layout."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return lambda other: other.permute(0, 2, 3, 1).reshape(-1)
    return lambda other: other.reshape(-1)


FUNCTIONS: dict[Function | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu6": functional.relu6,
    "relu": functional.relu,
    "h_swish": functional.hardswish,
    "h_sigmoid": functional.hardsigmoid,
}

EXPLICIT: tuple[Function, ...] = ("h_swish", "h_sigmoid")
"""Functions that are applied before quantization; of the others saturation at zero is all that is left."""

AGAIN: dict[Function | None, Function | None] = {"h_swish": None, "h_sigmoid": "relu"}


def again(activation: Function | None) -> Function | None:
    """Activation of a quantizer whose input already has an activation, which may not be applied twice."""
    return AGAIN.get(activation, activation)


class ActivationQuantizer(nn.Module):
    """Activation function with quantization, and a learned clip value for each bit-width.

    Attributes:
        bits: Bit-widths.
        activation: Activation function; ReLU6 and ReLU are replaced by quantization to ``[0, clip]``.
        clip: Largest representable value at each bit-width, shape ``(len(bits),)``.
    """

    def __init__(self, bits: tuple[int, ...], activation: Function | None) -> None:
        super().__init__()
        self.bits, self.activation = bits, activation
        self.clip = nn.Parameter(torch.full((len(bits),), 6.0))

    @property
    def signed(self) -> bool:
        """Whether activations can be negative."""
        return self.activation in (None, "h_swish")

    def forward(self, x: Tensor, bits: int | None) -> Tensor:
        """Apply the activation and quantize to ``bits``; ``None`` for full precision."""
        if bits is None:
            return FUNCTIONS[self.activation](x)
        if self.activation in EXPLICIT:
            x = FUNCTIONS[self.activation](x)
        return _FakeQuantize.apply(x, self._clip(bits), *activation_levels(bits, self.signed))  # type: ignore[no-any-return]

    def _clip(self, bits: int) -> Tensor:
        return self.clip[self.bits.index(bits)].clamp_min(1e-3)

    @torch.no_grad()
    def step(self, bits: int) -> Tensor:
        """Real value of one level at ``bits``, the same number as in ``forward``."""
        return self._clip(bits) / activation_levels(bits, self.signed)[1]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set every clip value to the one that minimises the mean squared error on a sample of inputs."""
        x = FUNCTIONS[self.activation](x.flatten())
        largest = x.abs().max().clamp_min(1e-3)
        clips = largest * torch.linspace(1 / CLIP_GRID, 1, CLIP_GRID, device=x.device)[:, None]
        for i, bits in enumerate(self.bits):
            low, high = activation_levels(bits, self.signed)
            step = clips / high
            error = ((x / step).round_().clamp_(low, high) * step - x).square_().mean(dim=1)
            self.clip[i] = clips[error.argmin(), 0]
