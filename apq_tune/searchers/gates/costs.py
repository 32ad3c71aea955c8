"""Costs of a distribution of networks, differentiable in its probabilities, and losses that they are added to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.cost.additive import HasTerms, Sum
from apq_tune.errors import ProblemError
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.searchers.gates.distribution import GeneDistribution

SAMPLES = 64
"""Number of genomes by which the expectation of a cost that is no sum is estimated."""

CostForm = Literal["hinge", "linear", "proxyless", "fbnet"]
"""Form of a loss with costs; see ``CostLoss``."""


class _Batch(NamedTuple):
    """Terms with the same numbers of values.

    Attributes:
        genes: Genes of each axis of the terms, shape ``(n_terms, n_axes)``.
        values: Costs, shape ``(n_terms, *numbers of values)``.
    """

    genes: Tensor
    values: Tensor


class ExpectedCost:
    """Expectation of a cost over a distribution of genomes.

    A sum of terms over few genes has the expectation ``sum over terms, sum over joint values: product of probabilities
    x cost``, which is exact. Other costs, such as the peak of memory, and sums over too many genes are estimated by the
    mean of a few samples, with the score function as the gradient (Williams 1992), whose baseline is the mean of the
    others.

    Attributes:
        metric: The cost.
        exact: Whether the expectation is exact; combinations that are forbidden count as others do.
    """

    def __init__(self, metric: Metric) -> None:
        sums = metric.additive() if isinstance(metric, HasTerms) else None
        self.metric, self.exact = metric, sums is not None and len(sums) == 1
        self._fixed, self._batches = _stacked(sums[0]) if sums is not None and len(sums) == 1 else (0.0, ())

    def __call__(self, distribution: GeneDistribution, weights: Tensor, rng: np.random.Generator) -> Tensor:
        """Expected cost.

        Args:
            distribution: Distribution of genomes.
            weights: Weights of the values, shape ``(n_genes, most)``: its probabilities (ProxylessNAS), or the gates of
                a forward pass (FBNet). Estimates always use the probabilities.
            rng: Random number generator, for estimates.
        """
        if not self.exact:
            return self._estimated(distribution, rng)
        total = weights.new_tensor(self._fixed)
        for batch in self._batches:
            own = batch.values
            for axis in range(own.ndim - 2, -1, -1):  # from the last gene to the first
                shares = weights[batch.genes[:, axis], : own.shape[-1]]
                own = (own * shares.reshape(len(shares), *[1] * axis, -1)).sum(dim=-1)
            total = total + own.sum()
        return total

    def _estimated(self, distribution: GeneDistribution, rng: np.random.Generator) -> Tensor:
        genomes = distribution.sample(SAMPLES, rng)
        costs = torch.from_numpy(np.asarray(self.metric(genomes), np.float64))
        above = (costs - costs.mean()) * len(costs) / max(1, len(costs) - 1)
        score = (above * distribution.log_probability(genomes)).mean()
        return costs.mean() + (score - score.detach())


def _stacked(own: Sum) -> tuple[float, tuple[_Batch, ...]]:
    """Constant part and terms of a sum, those of the same shape together."""
    fixed, by_shape = own.fixed, dict[tuple[int, ...], list[tuple[tuple[int, ...], NDArray[np.float64]]]]()
    for term in own.terms:
        if not term.genes:
            fixed += float(term.values)
            continue
        finite = np.isfinite(term.values)  # forbidden combinations may have any value
        values = np.where(finite, term.values, term.values[finite].max())
        by_shape.setdefault(values.shape, []).append((term.genes, values))
    batches = [
        _Batch(torch.tensor([genes for genes, _ in terms]), torch.from_numpy(np.stack([values for _, values in terms])))
        for terms in by_shape.values()
    ]
    return fixed, tuple(batches)


@dataclass(frozen=True)
class CostLoss:
    """Loss of a distribution: that of its networks, and what they cost.

    With the cross-entropy ``CE``, expected costs ``E`` and their bounds ``B``:

    - ``hinge``: ``CE + weight sum max(0, E / B - 1)``, which is indifferent to what is below the bounds;
    - ``linear``: ``CE + weight sum (E - B) / B`` (ProxylessNAS, the form of its published code for gradients, with
      weight 0.1);
    - ``proxyless``: ``0.2 CE prod (log E / log B)^0.3`` (ProxylessNAS, the other form of its code);
    - ``fbnet``: ``0.2 CE prod (log E)^0.6`` (FBNet, eq. 2), which knows no bounds.

    The last two depend on the unit of a cost, which has to be above 1 in it.

    Attributes:
        form: Form of the loss.
        weight: Weight of costs in ``hinge`` and ``linear``.
    """

    form: CostForm = "hinge"
    weight: float = 10.0

    def __call__(self, loss: Tensor, expected: Sequence[Tensor], limits: Sequence[Constraint]) -> Tensor:
        """Loss with costs.

        Args:
            loss: Loss of the networks.
            expected: Expected cost of each limit.
            limits: Limits ``cost <= bound``.

        Raises:
            ProblemError: If a cost is not above 1 in a form with logarithms.
        """
        for own, limit in zip(expected, limits, strict=True):
            if self.form in ("hinge", "linear"):
                excess = (own - limit.bound) / (abs(limit.bound) or 1.0) * (1 if limit.sense == "<=" else -1)
                loss = loss + self.weight * (excess.clamp_min(0.0) if self.form == "hinge" else excess)
                continue
            least = min(float(own.detach()), limit.bound if self.form == "proxyless" else math.inf)
            if least <= 1 or limit.sense != "<=":
                raise ProblemError(
                    f"{limit}: form {self.form!r} takes the logarithm of a cost, which must be above 1 "
                    f"{limit.metric.unit} and have an upper bound, got {least:g}; use 'hinge' or 'linear'"
                )
            factor = own.log() / math.log(limit.bound) if self.form == "proxyless" else own.log()
            loss = loss * factor ** (0.3 if self.form == "proxyless" else 0.6)
        return loss if self.form in ("hinge", "linear") else 0.2 * loss
