"""Pareto arithmetic on plain arrays; everything is minimised. The heavy parts are moocore's, in C."""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def is_non_dominated(F: Floats) -> NDArray[np.bool_]:
    """Mark the Pareto-optimal rows.

    Args:
        F: ``(n, m)`` objective values, all minimised, no NaN.

    Returns:
        ``(n,)`` bool. Duplicates of an optimal row are all marked.
    """
    if len(F) == 0:
        return np.zeros(0, bool)
    if F.shape[1] == 1:
        return np.asarray(F[:, 0] == F[:, 0].min())
    return np.asarray(moocore.is_nondominated(F, keep_weakly=True), bool)


def constrained_rank(F: Floats, G: Floats) -> NDArray[np.intp]:
    """Non-domination rank where feasible precedes infeasible, and less violation precedes more (Deb 2002).

    Args:
        F: ``(n, m)`` objective values, all minimised.
        G: ``(n, c)`` constraint violations, feasible where ``<= 0``.

    Returns:
        ``(n,)`` ranks from 0, dense.
    """
    violation = np.clip(G, 0, None).sum(axis=1)
    feasible = violation <= 0
    rank = np.zeros(len(F), np.intp)
    if feasible.any():
        own = F[feasible]
        rank[feasible] = np.unique(own[:, 0], return_inverse=True)[1] if own.shape[1] == 1 else moocore.pareto_rank(own)
    if not feasible.all():
        first = rank[feasible].max() + 1 if feasible.any() else 0
        rank[~feasible] = first + np.unique(violation[~feasible], return_inverse=True)[1]
    return rank


def crowding_distance(F: Floats) -> Floats:
    """How lonely each row of one front is, infinite at the ends of every objective (Deb 2002).

    Args:
        F: ``(n, m)`` objective values of mutually non-dominated points.

    Returns:
        ``(n,)`` distances.
    """
    n = len(F)
    order = np.argsort(F, axis=0, kind="stable")
    ranked = np.take_along_axis(F, order, axis=0)
    span = ranked[-1] - ranked[0]
    gaps = np.full(F.shape, np.inf)
    if n > 2:
        gaps[1:-1] = (ranked[2:] - ranked[:-2]) / np.where(span > 0, span, 1.0)
    distance = np.zeros(n)
    for column in range(F.shape[1]):
        distance[order[:, column]] += gaps[:, column]
    return distance


def hypervolume(F: Floats, reference: Floats) -> float:
    """Volume that the rows of F dominate below the reference point; rows that do not dominate it add nothing.

    Args:
        F: ``(n, m)`` objective values, all minimised.
        reference: ``(m,)`` reference point.
    """
    inside = (np.asarray(F) < reference).all(axis=1)
    return float(moocore.hypervolume(F[inside], ref=reference)) if inside.any() else 0.0


@dataclass(frozen=True)
class Yardstick:
    """Measures fronts by hypervolume: 1 is as good as the best that is known, 0 is nothing.

    Objectives are scaled to the range from best to worst, so that units do not matter. One that is the same everywhere
    does not count.

    Attributes:
        low: ``(m,)`` best known value of each objective.
        high: ``(m,)`` reference point.
        volume: of the best known front, scaled.
    """

    low: Floats
    high: Floats
    volume: float

    @classmethod
    def of(cls, F: Floats, margin: float = 0.0) -> Yardstick:
        """From all that is known.

        Args:
            F: ``(n, m)`` objective values, all minimised, at least one row.
            margin: how far behind the worst values the reference point is, as a share of their range; without any,
                what is worst in one objective counts for nothing.
        """
        low, high = F.min(axis=0), F.max(axis=0)
        high = high + margin * (high - low)
        unit = cls(low, high, 1.0)
        return cls(low, high, unit.share(F[is_non_dominated(F)]))

    def share(self, F: Floats) -> float:
        """Hypervolume as a share of that of the best known front; 1 if that has none, as a single point.

        Args:
            F: ``(n, m)`` objective values, all minimised.
        """
        varies = self.high > self.low
        if len(F) == 0:
            return 0.0
        if not varies.any() or self.volume == 0:
            return 1.0
        scaled = (F[:, varies] - self.low[varies]) / (self.high - self.low)[varies]
        return hypervolume(scaled, np.ones(int(varies.sum()))) / self.volume
