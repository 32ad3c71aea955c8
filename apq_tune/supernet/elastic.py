"""Layers that yield the weights of any smaller one, and batch norm whose statistics are an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.supernet.masks import pruned
from apq_tune.supernet.quantize import quantize_weight

InputStep = Callable[[], Tensor]
"""Function that gives the real value of one level of a quantized input."""


class Conv(Protocol):
    """Layer with weights as a function of its input."""

    def __call__(self, x: Tensor, w_bits: int | None, /, *, input_step: InputStep | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: Input.
            w_bits: Bits of the weights; ``None`` for full precision.
            input_step: Step of the input, for layers that round their bias as integer kernels do.
        """
        ...


EPS = 1e-3  # epsilon of batch norm (Cai 2020, once-for-all)

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm of one candidate, in the order of the forward pass."""


class ElasticConv(nn.Module):
    """A convolution that yields the weights of any smaller one: first channels, centre of the kernel.

    A smaller depthwise kernel is the centre of the next larger one, multiplied by a learned matrix (Cai 2020).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (1,), *, depthwise: bool
    ) -> None:
        super().__init__()
        self.kernel_sizes, self.depthwise = tuple(kernel_sizes), depthwise
        largest = self.kernel_sizes[-1]
        self.weight = nn.Parameter(torch.empty(out_channels, 1 if depthwise else in_channels, largest, largest))
        nn.init.kaiming_normal_(self.weight, mode="fan_in" if depthwise else "fan_out", nonlinearity="relu")
        self.gamma = nn.Parameter(torch.ones(out_channels))
        self.beta = nn.Parameter(torch.zeros(out_channels))
        self.transforms = nn.ParameterList([torch.eye(size * size) for size in self.kernel_sizes[:-1]])

    def weights(self, in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
        """``(out_channels, in_channels or 1, kernel_size, kernel_size)``."""
        weight = self.weight[:out_channels] if self.depthwise else self.weight[:out_channels, :in_channels]
        index = len(self.kernel_sizes) - 1
        while self.kernel_sizes[index] > kernel_size:
            margin = (self.kernel_sizes[index] - self.kernel_sizes[index - 1]) // 2
            index -= 1
            centre = weight[:, :, margin:-margin, margin:-margin]
            weight = (centre.flatten(2) @ self.transforms[index].T).reshape(centre.shape)
        return weight


class ElasticLinear(nn.Linear):
    """A linear layer that also works with its first inputs and outputs alone."""

    def sliced(self, in_features: int, out_features: int) -> Conv:
        """The layer with fewer inputs and outputs."""

        def run(x: Tensor, w_bits: int | None, *, input_step: InputStep | None = None) -> Tensor:  # noqa: ARG001
            weight = quantize_weight(self.weight[:out_features, :in_features], w_bits)
            return functional.linear(x, weight, self.bias[:out_features])

        return run


class Norms:
    """Batch norm whose statistics come from the batch, are recorded from it, or are given."""

    def __init__(self, given: Statistics | None, recorded: Statistics | None) -> None:
        self._given: Iterator[tuple[Tensor, Tensor]] | None = iter(given) if given is not None else None
        self._recorded = recorded

    def __call__(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float = EPS) -> Tensor:
        """Normalise one convolution's output, the next one in the order of the forward pass."""
        if self._given is not None:
            mean, variance = next(self._given)
            return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, eps)
        if self._recorded is None:
            return functional.batch_norm(x, None, None, gamma, beta, True, 0.0, eps)
        mean, variance = torch.zeros(x.shape[1], device=x.device), torch.ones(x.shape[1], device=x.device)
        y = functional.batch_norm(x, mean, variance, gamma, beta, True, 1.0, eps)  # momentum 1: keep this batch's
        self._recorded.append((mean, variance))
        return y

    def conv(
        self,
        layer: ElasticConv,
        kernel_size: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        sparsity: float = 0,
        sparse_group: int = 1,
    ) -> Conv:
        """A smaller convolution of an elastic one, with its batch norm.

        Args:
            layer: Source of the weights.
            kernel_size: Kernel of the smaller one.
            in_channels: Input channels of the smaller one.
            out_channels: Output channels of the smaller one.
            stride: Stride.
            sparsity: Share of zeros among its weights.
            sparse_group: Inputs in a group of N:M sparsity; 1 for unstructured sparsity.
        """

        def run(x: Tensor, w_bits: int | None, *, input_step: InputStep | None = None) -> Tensor:  # noqa: ARG001
            own = pruned(layer.weights(in_channels, out_channels, kernel_size), sparsity, sparse_group)
            weight = quantize_weight(own, w_bits)
            groups = out_channels if layer.depthwise else 1
            y = functional.conv2d(x, weight, None, stride, kernel_size // 2, 1, groups)
            return self(y, layer.gamma[:out_channels], layer.beta[:out_channels])

        return run
