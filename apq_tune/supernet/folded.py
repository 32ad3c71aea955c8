"""Layers of fixed shape, batch norm folded into weights and bias (Jacob 2018)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from apq_tune.supernet.quantize import quantize_weight


class FoldedConv(nn.Conv2d):
    """A convolution with bias whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None) -> Tensor:
        """Convolve with weights at ``w_bits`` (``None``: full precision)."""
        y: Tensor = self._conv_forward(x, quantize_weight(self.weight, w_bits), self.bias)
        return y


class FoldedLinear(nn.Linear):
    """A linear layer whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None) -> Tensor:
        """Multiply with weights at ``w_bits`` (``None``: full precision)."""
        return functional.linear(x, quantize_weight(self.weight, w_bits), self.bias)
