"""Gates that a network learns to close: the hard concrete distribution and its expected number of open gates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Temperature and ends of the stretched interval (Louizos 2018)."""

CLOSEST = 1e-6
"""Smallest distance of a uniform number from 0 and 1, whose logits are infinite."""


class HardConcrete(nn.Module):
    """Gates from 0 to 1 that are exactly 0 or 1 with positive probability (Louizos 2018).

    A concrete variable ``s = sigmoid((logit(u) + log_alpha) / temperature)`` with ``u`` uniform is stretched to
    ``(LOW, HIGH)`` and clipped to ``[0, 1]``. In training each forward pass of the network draws anew; in evaluation
    the gates are ``sigmoid(log_alpha)``, stretched and clipped.

    Attributes:
        log_alpha: Location of each gate.
    """

    def __init__(self, shape: Sequence[int], open_at_first: float = 0.9) -> None:
        """Make gates.

        Args:
            shape: Shape of the gates.
            open_at_first: Probability with which a gate is not 0 at first.
        """
        super().__init__()
        first = math.log(open_at_first / (1 - open_at_first)) + TEMPERATURE * math.log(-LOW / HIGH)
        self.log_alpha = nn.Parameter(torch.full(tuple(shape), first))
        self._drawn: Tensor | None = None

    def draw(self) -> None:
        """Draw the gates of the next forward passes in training, with torch's global generator."""
        uniform = torch.rand_like(self.log_alpha).clamp_(CLOSEST, 1 - CLOSEST)
        self._drawn = self.at(uniform)

    def at(self, uniform: Tensor) -> Tensor:
        """Gates for uniform random numbers between 0 and 1, of the shape of the gates."""
        s = torch.sigmoid((uniform.log() - (1 - uniform).log() + self.log_alpha) / TEMPERATURE)
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def forward(self) -> Tensor:
        """Gates as drawn in training, those of the test in evaluation."""
        if not self.training:
            return self.test_time()
        if self._drawn is None:
            self.draw()
        assert self._drawn is not None
        return self._drawn

    def test_time(self) -> Tensor:
        """Gates in evaluation."""
        return (torch.sigmoid(self.log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)

    def probability_open(self) -> Tensor:
        """Probability that a gate is not 0, in closed form."""
        return torch.sigmoid(self.log_alpha - TEMPERATURE * math.log(-LOW / HIGH))

    def probability_one(self) -> Tensor:
        """Probability that a gate is exactly 1, in closed form."""
        return torch.sigmoid(self.log_alpha - TEMPERATURE * math.log((1 - LOW) / (HIGH - 1)))


class Gated(nn.Module):
    """Parametrization that multiplies a parameter by gates.

    Attributes:
        units: Gate of each entry of the first dimension, -1 for none; ``None`` for one gate for each number.
    """

    units: Tensor | None

    def __init__(self, gates: HardConcrete, units: Tensor | None = None) -> None:
        super().__init__()
        self.gates = gates
        self.register_buffer("units", units, persistent=False)

    def forward(self, parameter: Tensor) -> Tensor:
        """Parameter times its gates."""
        gates: Tensor = self.gates()
        if self.units is None:
            return parameter * gates
        own = torch.where(self.units >= 0, gates[self.units.clamp_min(0)], 1.0)
        return parameter * own.reshape(-1, *[1] * (parameter.ndim - 1))


def draw_before_each_pass(network: nn.Module, gates: Sequence[HardConcrete]) -> RemovableHandle:
    """Draw gates anew before each forward pass of a network in training; returns the hook that does it."""

    def draw(module: nn.Module, _: object) -> None:
        for own in gates:
            if module.training:
                own.draw()

    return network.register_forward_pre_hook(draw)
