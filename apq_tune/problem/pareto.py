"""Non-dominated sorting, crowding distance and hypervolume on plain arrays, all objectives minimised.

The expensive parts call moocore, which is written in C.
"""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def is_non_dominated(F: Floats) -> NDArray[np.bool_]:
    """Mark the Pareto-optimal rows.

    Args:
        F: Objective values, all minimised, without NaN, shape ``(n, m)``.

    Returns:
        Mask of the optimal rows, all duplicates included, shape ``(n,)``.
    """
    if len(F) == 0:
        return np.zeros(0, bool)
    if F.shape[1] == 1:
        return np.asarray(F[:, 0] == F[:, 0].min())
    return np.asarray(moocore.is_nondominated(F, keep_weakly=True), bool)


def constrained_rank(F: Floats, G: Floats) -> NDArray[np.intp]:
    """Non-domination rank with constraint domination (Deb 2002).

    Feasible rows precede infeasible ones, which are ordered by the sum of their violations.

    Args:
        F: Objective values, all minimised, shape ``(n, m)``.
        G: Constraint violations, feasible where ``<= 0``, shape ``(n, c)``.

    Returns:
        Dense ranks from 0, shape ``(n,)``.
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
    """Crowding distance of each point of a front (Deb 2002): the distance of its neighbours, summed over objectives.

    Args:
        F: Objective values of mutually non-dominated points, shape ``(n, m)``.

    Returns:
        Distances, infinite at both ends of every objective, shape ``(n,)``.
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
    """Hypervolume dominated by the rows of F; rows that do not dominate the reference point add nothing.

    Args:
        F: Objective values, all minimised, shape ``(n, m)``.
        reference: Reference point, shape ``(m,)``.
    """
    inside = (np.asarray(F) < reference).all(axis=1)
    return float(moocore.hypervolume(F[inside], ref=reference)) if inside.any() else 0.0


@dataclass(frozen=True)
class Yardstick:
    """Normalised hypervolume of fronts, relative to that of the best known front.

    Objectives are scaled to the range from best to worst, so that units do not matter; constant ones are ignored.

    Attributes:
        low: Best known value of each objective, shape ``(m,)``.
        high: Reference point, shape ``(m,)``.
        volume: Hypervolume of the best known front in scaled objectives.
    """

    low: Floats
    high: Floats
    volume: float

    @classmethod
    def of(cls, F: Floats, margin: float = 0.0) -> Yardstick:
        """Derive range, reference point and best known front from all known points.

        Args:
            F: Objective values, all minimised, at least one row, shape ``(n, m)``.
            margin: Distance of the reference point from the worst values, as a share of the range. With 0, points that
                are worst in one objective add no volume.
        """
        low, high = F.min(axis=0), F.max(axis=0)
        high = high + margin * (high - low)
        unit = cls(low, high, 1.0)
        return cls(low, high, unit.share(F[is_non_dominated(F)]))

    def share(self, F: Floats) -> float:
        """Hypervolume as a share of that of the best known front; 1 if the latter is zero, as for a single point.

        Args:
            F: Objective values, all minimised, shape ``(n, m)``.
        """
        varies = self.high > self.low
        if len(F) == 0:
            return 0.0
        if not varies.any() or self.volume == 0:
            return 1.0
        scaled = (F[:, varies] - self.low[varies]) / (self.high - self.low)[varies]
        return hypervolume(scaled, np.ones(int(varies.sum()))) / self.volume
