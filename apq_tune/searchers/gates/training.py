"""Training of architecture parameters: draw gates, compute the loss of what they run, update the parameters."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from apq_tune.errors import ProblemError, RunError
from apq_tune.problem.problem import Constraint
from apq_tune.searchers.gates.costs import CostLoss, ExpectedCost
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.draws import GateKind, Gates, binary_gates, gumbel_gates, keep_others

GatedLoss = Callable[[Gates, int], Tensor]
"""Loss of what gates run, differentiable in their values, at the number of a step."""

WORD = 0x6A7E5
"""Second word of the seeds of steps, unlike those of trainings and stages."""

TEMPERATURES = 5.0, 0.087
"""Temperature of Gumbel gates at the first and at the last step: 5 times 0.956 to the power of 90 epochs (Wu 2019)."""


@dataclass(frozen=True)
class GateTraining:
    """Settings of a differentiable search.

    ProxylessNAS uses Adam at rate 0.001 with betas 0 and 0.999, FBNet at 0.01 with weight decay 0.0005, for some ten
    thousand steps each. The default rate is that of a few hundred steps: each moves a parameter by up to the rate.

    Attributes:
        gate: ``"binary"`` (ProxylessNAS) or ``"gumbel"`` (FBNet).
        steps: Number of updates.
        learning_rate: Learning rate of Adam.
        weight_decay: Weight decay of the parameters.
        costs: How costs enter the loss.
    """

    gate: GateKind = "binary"
    steps: int = 500
    learning_rate: float = 0.05
    weight_decay: float = 0.0
    costs: CostLoss = field(default_factory=CostLoss)

    def __post_init__(self) -> None:
        """Check all settings.

        Raises:
            ProblemError: If a setting is out of range.
        """
        if self.gate not in ("binary", "gumbel"):
            raise ProblemError(f"gate is {self.gate!r}; use 'binary' or 'gumbel'")
        if self.steps < 1 or not 0 < self.learning_rate < 10:
            raise ProblemError(
                f"steps are {self.steps} and the learning rate is {self.learning_rate:g}; give 1 or more steps and a "
                "rate between 0 and 10"
            )

    def temperature(self, step: int) -> float:
        """Temperature of Gumbel gates at a step; it falls by the same factor at each."""
        first, last = TEMPERATURES
        return float(first * (last / first) ** (step / max(1, self.steps - 1)))


def train_gates(
    distribution: GeneDistribution,
    loss: GatedLoss,
    limits: Sequence[Constraint],
    training: GateTraining,
    seed: int,
    *,
    checkpoint: bytes | None = None,
    after_step: Callable[[int, Callable[[], bytes]], None] | None = None,
) -> None:
    """Train the parameters of a distribution in place.

    Each step has its own random numbers, so that a resumed search equals one that never stopped.

    Args:
        distribution: Distribution.
        loss: Loss of the networks that gates run.
        limits: Limits on costs.
        training: Settings.
        seed: Seed of the gates.
        checkpoint: Checkpoint to go on from.
        after_step: Callback with the number of steps done and a function that makes a checkpoint.

    Raises:
        RunError: If the checkpoint is damaged, or the loss is not finite.
    """
    betas = (0.0, 0.999) if training.gate == "binary" else (0.9, 0.999)
    optimizer = torch.optim.Adam(
        [distribution.logits], lr=training.learning_rate, betas=betas, weight_decay=training.weight_decay
    )
    start = 0 if checkpoint is None else _restored(checkpoint, distribution, optimizer)
    offered = torch.from_numpy(distribution.offered)
    costs = [ExpectedCost(limit.metric) for limit in limits]

    def state() -> bytes:
        buffer = io.BytesIO()
        torch.save({"step": step + 1, "logits": distribution.logits, "optimizer": optimizer.state_dict()}, buffer)
        return buffer.getvalue()

    for step in range(start, training.steps):
        rng = np.random.default_rng((seed, WORD, step))
        pair = None
        if training.gate == "binary":
            gates, pair = binary_gates(distribution, rng)
            weights = distribution.probabilities()
        else:
            gates = gumbel_gates(distribution, training.temperature(step), rng)
            weights = gates.values
        expected = [cost(distribution, weights, rng) for cost in costs]
        value = training.costs(loss(gates, step), expected, limits)
        if not torch.isfinite(value):
            raise RunError(f"loss of the gates is {float(value)} at step {step + 1}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        assert distribution.logits.grad is not None
        distribution.logits.grad = torch.where(offered, distribution.logits.grad, 0.0)
        before = distribution.logits.detach().clone()
        optimizer.step()
        with torch.no_grad():
            distribution.logits.masked_fill_(~offered, -torch.inf)
        if pair is not None and not costs:
            keep_others(distribution, before, pair)
        if after_step is not None:
            after_step(step + 1, state)


def _restored(checkpoint: bytes, distribution: GeneDistribution, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint; returns the number of steps done."""
    try:
        saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
        with torch.no_grad():
            distribution.logits.copy_(saved["logits"])
        optimizer.load_state_dict(saved["optimizer"])
        return int(saved["step"])
    except (KeyError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"checkpoint of the gates is damaged ({error}); delete it") from None
