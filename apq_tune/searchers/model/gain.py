"""Acquisition function: expected (hypervolume) improvement of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from apq_tune.problem.pareto import Floats, is_non_dominated
from apq_tune.searchers.model.process import Posterior
from apq_tune.searchers.model.warp import Warp

DIRECTIONS = 128
"""Number of directions that approximate the hypervolume of three or more objectives."""


class ObjectiveDistribution(Protocol):
    """Distribution of one objective over a pool of ``m`` candidates."""

    def gain(self, thresholds: Floats) -> Floats:
        """Expected improvement ``E[max(threshold - value, 0)]`` for ``t`` thresholds, shape ``(m, t)``."""
        ...

    def draws(self, normal: Floats) -> Floats:
        """Samples at given standard normal quantiles ``(s,)``, shape ``(s, m)``."""
        ...

    def middle(self) -> Floats:
        """Medians, shape ``(m,)``."""
        ...

    def condition_on_mean(self, row: int) -> ObjectiveDistribution:
        """Condition on a candidate being measured at its predicted value (kriging believer, Ginsbourger 2010)."""
        ...


class ExactValues(NamedTuple):
    """Objective that is computed exactly."""

    values: Floats

    def gain(self, thresholds: Floats) -> Floats:  # noqa: D102
        return np.maximum(thresholds - self.values[:, None], 0.0)

    def draws(self, normal: Floats) -> Floats:  # noqa: D102
        return np.broadcast_to(self.values, (len(normal), len(self.values)))

    def middle(self) -> Floats:  # noqa: D102
        return self.values

    def condition_on_mean(self, row: int) -> ExactValues:  # noqa: ARG002, D102
        return self


class ModelledValues(NamedTuple):
    """Objective that is modelled by a Gaussian process."""

    posterior: Posterior
    warp: Warp

    def gain(self, thresholds: Floats) -> Floats:  # noqa: D102
        return self.warp.gain(self.posterior.mean, np.sqrt(self.posterior.variance), thresholds)

    def draws(self, normal: Floats) -> Floats:  # noqa: D102
        return self.warp.restore(self.posterior.mean + normal[:, None] * np.sqrt(self.posterior.variance))

    def middle(self) -> Floats:  # noqa: D102
        return self.warp.restore(self.posterior.mean)

    def condition_on_mean(self, row: int) -> ModelledValues:  # noqa: D102
        return self._replace(posterior=self.posterior.condition_on_mean(row))


def expected_gain(distributions: Sequence[ObjectiveDistribution], front: Floats, reference: Floats) -> Floats:
    """Expected improvement for one objective, expected hypervolume improvement for several.

    For two objectives it is computed exactly, strip by strip (Emmerich 2011). For more, the hypervolume is approximated
    by a mean over quasi-random directions (Zhang 2020) with sampled objective values.

    Args:
        distributions: Distribution of each objective, minimised.
        front: Objective values of the front, at least one row, shape ``(n, n_objectives)``.
        reference: Reference point of the hypervolume, shape ``(n_objectives,)``.

    Returns:
        Expected improvement of each candidate, shape ``(m,)``.
    """
    if len(distributions) == 1:
        return distributions[0].gain(front.min(axis=0))[:, 0]
    inside = front[(front < reference).all(axis=1)]
    inside = np.unique(inside[is_non_dominated(inside)], axis=0)
    if len(distributions) == 2:
        across = distributions[0].gain(np.append(inside[:, 0], reference[0]))
        down = distributions[1].gain(np.append(reference[1], inside[:, 1]))
        return np.asarray((np.diff(across, axis=1, prepend=0.0) * down).sum(axis=1))
    return _along_directions(distributions, inside, reference)


def _along_directions(distributions: Sequence[ObjectiveDistribution], inside: Floats, reference: Floats) -> Floats:
    """Expected hypervolume improvement, up to a constant factor, as a mean over directions (Zhang 2020)."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    n_objectives = len(distributions)
    low = (
        inside.min(axis=0) if len(inside) else np.array([distribution.middle().min() for distribution in distributions])
    )
    span = np.maximum(reference - low, 1e-12)
    points = qmc.Sobol(2 * n_objectives, seed=0).random(DIRECTIONS)
    directions = np.abs(ndtri(np.clip(points[:, :n_objectives], 1e-9, 1 - 1e-9)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normal = ndtri(np.clip(points[:, n_objectives:], 1e-6, 1 - 1e-6))
    reached = np.zeros(DIRECTIONS)
    if len(inside):
        reached = ((reference - inside) / span / directions[:, None]).min(axis=2).max(axis=1)
    # Each direction has its own samples, so that one mean is taken over both.
    far = np.full((DIRECTIONS, len(distributions[0].middle())), np.inf)
    for place, distribution in enumerate(distributions):
        own = (reference[place] - distribution.draws(normal[:, place])) / span[place]
        far = np.minimum(far, own / directions[:, place : place + 1])
    far = np.maximum(far, 0.0) ** n_objectives
    return np.asarray(np.maximum(far - (reached**n_objectives)[:, None], 0.0).mean(axis=0))
