"""Pareto arithmetic on plain arrays; everything is minimised. The heavy parts are moocore's, in C."""

from __future__ import annotations

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
