"""Sparse variational dropout: weights whose noise drowns them are pruned (Molchanov 2017)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.errors import ModelError
from apq_tune.sparsity.layers import weighted_layers
from apq_tune.supernet.masks import without_lowest

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the approximation of the divergence from the log-uniform prior (Molchanov 2017, equation 14)."""

LARGEST, THRESHOLD, FIRST = 8.0, 3.0, -10.0
"""Largest magnitude of ``log alpha``, value from which a weight is pruned, and logarithm of the variances at first."""

NOISE = "log_variance"
"""Name of the parameter that layers get."""

Layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class VariationalDropout:
    """Gaussian noise on each weight, whose variance is learned.

    In training, outputs of layers are drawn as the noise of the weights makes them (local reparameterization, Kingma
    2015), which takes a second convolution. Make the optimizer afterwards, no weight decay on ``log_variance``, and
    add ``divergence()`` over the number of training images to the mean loss, with a factor that grows from 0 to 1.
    """

    def __init__(self, module: nn.Module) -> None:
        """Give the linear layers and convolutions of a module a variance for each weight.

        Raises:
            ModelError: If the module has no weights, or other layers than ``nn.Linear`` and ``nn.Conv1d`` to ``3d``.
        """
        self.layers = weighted_layers(module)
        for layer in self.layers:
            if not all(isinstance(part, Layers) for part in layer.modules) or len(layer.modules) > 1:
                kind = type(layer.modules[0]).__name__ if len(layer.modules) == 1 else "shared weight"
                raise ModelError(f"{layer.name}: is a {kind}; give a model of linear layers and convolutions only")
        self._hooks = []
        for layer in self.layers:
            (part,) = layer.modules
            part.register_parameter(NOISE, nn.Parameter(torch.full_like(layer.weight, FIRST)))
            self._hooks.append(part.register_forward_hook(_add_noise))

    def log_alphas(self) -> list[Tensor]:
        """Logarithms of the ratio of variance and squared weight, of each layer."""
        return [_log_alpha(layer.modules[0]) for layer in self.layers]

    def divergence(self) -> Tensor:
        """Kullback-Leibler divergence of all weights from the log-uniform prior, up to a constant, in nats."""
        return torch.stack([divergence_of(own).sum() for own in self.log_alphas()]).sum()

    @torch.no_grad()
    def finish(self, sparsity: float | None = None) -> None:
        """Set noisy weights to zero and remove the noise; the module is an ordinary one again.

        Args:
            sparsity: Share of the weights to set to zero, the noisiest ones; ``None`` for those above the threshold.
        """
        noise = self.log_alphas()
        if sparsity is None:
            kept = [own < THRESHOLD for own in noise]
        else:
            sizes = [own.numel() for own in noise]
            kept = without_lowest([-own for own in noise], round(sparsity * sum(sizes)), sizes)
        for layer, mask, hook in zip(self.layers, kept, self._hooks, strict=True):
            layer.weight.mul_(mask)
            hook.remove()
            delattr(layer.modules[0], NOISE)


def divergence_of(log_alpha: Tensor) -> Tensor:
    """Approximate divergence of each weight, up to a constant, in nats."""
    return -(K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * functional.softplus(-log_alpha) - K1)


def _log_alpha(part: Any) -> Tensor:
    ratio: Tensor = part.get_parameter(NOISE) - 2 * torch.log(part.weight.abs() + 1e-8)
    return ratio.clamp(-LARGEST, LARGEST)


def _add_noise(part: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Output with the noise that its weights make."""
    if not part.training:
        return None
    variance = (_log_alpha(part) + 2 * torch.log(part.weight.abs() + 1e-8)).exp()
    squared = inputs[0].square()
    if isinstance(part, nn.Linear):
        spread = functional.linear(squared, variance)
    else:
        spread = part._conv_forward(squared, variance, None)
    return output + (spread.clamp_min(0) + math.exp(-2 * LARGEST)).sqrt() * torch.randn_like(output)
