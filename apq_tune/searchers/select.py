"""Survivor and parent selection of a population."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.problem.pareto import Floats, constrained_rank, crowding_distance


def select(F: Floats, G: Floats, n: int) -> NDArray[np.intp]:
    """Select survivors by constrained non-domination rank, then by crowding distance (NSGA-II, Deb 2002).

    With one objective this is truncation selection: feasible rows by value, then infeasible ones by violation.

    Args:
        F: Objective values, all minimised, shape ``(p, m)``.
        G: Constraint violations, feasible where ``<= 0``, shape ``(p, c)``.
        n: Number of survivors; all rows survive if there are fewer.

    Returns:
        Rows of the survivors, best first, shape ``(min(n, p),)``.
    """
    if F.shape[1] == 1:
        violation = np.clip(G, 0, None).sum(axis=1)
        return np.lexsort((np.where(violation > 0, 0.0, F[:, 0]), violation))[:n]
    rank, distance = _rank_and_crowding(F, G, n)
    return np.lexsort((-distance, rank))[:n]


def duel(F: Floats, G: Floats, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Binary tournaments by domination, then by crowding distance.

    Unlike in NSGA-II (Deb 2002), ranks are not compared: a row in a sparse region beats one in a crowded region unless
    it is dominated by it. This favours parents at the ends of the front.

    Args:
        F: Objective values, all minimised, shape ``(p, m)``.
        G: Constraint violations, feasible where ``<= 0``, shape ``(p, c)``; less violation dominates more.
        n: Number of tournaments.
        rng: Random number generator.

    Returns:
        Rows of the winners, shape ``(n,)``.
    """
    one, other = rng.integers(len(F), size=(2, n))
    violation = np.clip(G, 0, None).sum(axis=1)
    distance = _rank_and_crowding(F, G, len(F))[1]
    tie = violation[one] == violation[other]
    not_worse, not_better = (F[one] <= F[other]).all(axis=1), (F[one] >= F[other]).all(axis=1)
    wins = (violation[one] < violation[other]) | (tie & not_worse & ~not_better)
    loses = (violation[one] > violation[other]) | (tie & not_better & ~not_worse)
    return np.asarray(np.where(wins | (~loses & (distance[one] >= distance[other])), one, other))


def _rank_and_crowding(F: Floats, G: Floats, n: int) -> tuple[NDArray[np.intp], Floats]:
    """Constrained non-domination rank, and crowding distance within each rank that the best ``n`` rows need.

    The crowding distance of infeasible rows, which have no objective values, is 0.
    """
    rank = constrained_rank(F, G)
    distance = np.zeros(len(F))
    feasible = (G <= 0).all(axis=1)
    for value in np.unique(rank[feasible]):
        front = np.flatnonzero(rank == value)
        distance[front] = crowding_distance(F[front])
        if (rank <= value).sum() >= n:
            break
    return rank, distance
