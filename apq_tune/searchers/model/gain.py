"""What measuring a candidate is expected to add to the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from apq_tune.problem.pareto import Floats, is_non_dominated
from apq_tune.searchers.model.process import Posterior
from apq_tune.searchers.model.warp import Warp

DIRECTIONS = 128
"""Along which the hypervolume of three and more objectives is measured."""


class Believed(Protocol):
    """One objective of every candidate of a pool."""

    def gain(self, thresholds: Floats) -> Floats:
        """``(t,) -> (m, t)``: ``E[max(threshold - value, 0)]``."""
        ...

    def draws(self, normal: Floats) -> Floats:
        """``(s,) -> (s, m)`` values that many standard deviations from the mean."""
        ...

    def middle(self) -> Floats:
        """``(m,)`` medians."""
        ...

    def believing(self, row: int) -> Believed:
        """As if a candidate had been measured and was what it was believed to be."""
        ...


class Exactly(NamedTuple):
    """An objective that is known without measuring."""

    values: Floats

    def gain(self, thresholds: Floats) -> Floats:  # noqa: D102
        return np.maximum(thresholds - self.values[:, None], 0.0)

    def draws(self, normal: Floats) -> Floats:  # noqa: D102
        return np.broadcast_to(self.values, (len(normal), len(self.values)))

    def middle(self) -> Floats:  # noqa: D102
        return self.values

    def believing(self, row: int) -> Exactly:  # noqa: ARG002, D102
        return self


class Modelled(NamedTuple):
    """An objective that a Gaussian process says something of."""

    posterior: Posterior
    warp: Warp

    def gain(self, thresholds: Floats) -> Floats:  # noqa: D102
        return self.warp.gain(self.posterior.mean, np.sqrt(self.posterior.variance), thresholds)

    def draws(self, normal: Floats) -> Floats:  # noqa: D102
        return self.warp.restore(self.posterior.mean + normal[:, None] * np.sqrt(self.posterior.variance))

    def middle(self) -> Floats:  # noqa: D102
        return self.warp.restore(self.posterior.mean)

    def believing(self, row: int) -> Modelled:  # noqa: D102
        return self._replace(posterior=self.posterior.believing(row))


def expected_gain(beliefs: Sequence[Believed], front: Floats, reference: Floats) -> Floats:
    """Expected improvement of one objective, of the hypervolume of several.

    For two objectives it is exact (Emmerich 2011): the strips below the front are independent products. For more the
    hypervolume is a mean over directions (Zhang 2020), and objectives a few values each.

    Args:
        beliefs: of each objective, minimised.
        front: ``(n, n_objectives)`` what was found, at least one row.
        reference: ``(n_objectives,)`` the hypervolume's.

    Returns:
        ``(m,)`` of the candidates.
    """
    if len(beliefs) == 1:
        return beliefs[0].gain(front.min(axis=0))[:, 0]
    inside = front[(front < reference).all(axis=1)]
    inside = np.unique(inside[is_non_dominated(inside)], axis=0)
    if len(beliefs) == 2:
        across = beliefs[0].gain(np.append(inside[:, 0], reference[0]))
        down = beliefs[1].gain(np.append(reference[1], inside[:, 1]))
        return np.asarray((np.diff(across, axis=1, prepend=0.0) * down).sum(axis=1))
    return _along_directions(beliefs, inside, reference)


def _along_directions(beliefs: Sequence[Believed], inside: Floats, reference: Floats) -> Floats:
    """Mean over directions from the reference of how much farther a candidate reaches than the front, to the power."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    n_objectives = len(beliefs)
    low = inside.min(axis=0) if len(inside) else np.array([belief.middle().min() for belief in beliefs])
    span = np.maximum(reference - low, 1e-12)
    points = qmc.Sobol(2 * n_objectives, seed=0).random(DIRECTIONS)
    directions = np.abs(ndtri(np.clip(points[:, :n_objectives], 1e-9, 1 - 1e-9)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normal = ndtri(np.clip(points[:, n_objectives:], 1e-6, 1 - 1e-6))
    reached = np.zeros(DIRECTIONS)
    if len(inside):
        reached = ((reference - inside) / span / directions[:, None]).min(axis=2).max(axis=1)
    # Each direction has draws of its own: the mean is over both at once.
    far = np.full((DIRECTIONS, len(beliefs[0].middle())), np.inf)
    for place, belief in enumerate(beliefs):
        own = (reference[place] - belief.draws(normal[:, place])) / span[place]
        far = np.minimum(far, own / directions[:, place : place + 1])
    far = np.maximum(far, 0.0) ** n_objectives
    return np.asarray(np.maximum(far - (reached**n_objectives)[:, None], 0.0).mean(axis=0))
