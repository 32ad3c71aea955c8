"""Selection: which rows of a population survive, and which become parents. Pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.problem.pareto import Floats, constrained_rank, crowding_distance


def select(F: Floats, G: Floats, n: int) -> NDArray[np.intp]:
    """Best ``n`` rows by constrained non-domination rank, then by crowding distance (Deb 2002, NSGA-II).

    With one objective this is truncation: feasible rows by value, then infeasible ones by violation.

    Args:
        F: ``(p, m)`` objective values, all minimised.
        G: ``(p, c)`` violations, feasible where ``<= 0``.
        n: number of survivors; all rows survive if there are fewer.

    Returns:
        ``(min(n, p),)`` row indices, best first.
    """
    if F.shape[1] == 1:
        violation = np.clip(G, 0, None).sum(axis=1)
        return np.lexsort((np.where(violation > 0, 0.0, F[:, 0]), violation))[:n]
    rank, lonely = _rank_and_crowding(F, G, n)
    return np.lexsort((-lonely, rank))[:n]


def duel(F: Floats, G: Floats, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Winners of ``n`` binary tournaments: the one that dominates the other, else the lonelier one.

    A lonely row of a later front beats a crowded row of an earlier one, as long as that one does not dominate it: the
    ends of the front are where parents come from, which the ranks of Deb 2002 would not let happen.

    Args:
        F: ``(p, m)`` objective values, all minimised.
        G: ``(p, c)`` violations, feasible where ``<= 0``; less violation dominates more.
        n: number of tournaments.
        rng: source of randomness.

    Returns:
        ``(n,)`` row indices.
    """
    one, other = rng.integers(len(F), size=(2, n))
    violation = np.clip(G, 0, None).sum(axis=1)
    lonely = _rank_and_crowding(F, G, len(F))[1]
    tie = violation[one] == violation[other]
    not_worse, not_better = (F[one] <= F[other]).all(axis=1), (F[one] >= F[other]).all(axis=1)
    wins = (violation[one] < violation[other]) | (tie & not_worse & ~not_better)
    loses = (violation[one] > violation[other]) | (tie & not_better & ~not_worse)
    return np.asarray(np.where(wins | (~loses & (lonely[one] >= lonely[other])), one, other))


def _rank_and_crowding(F: Floats, G: Floats, n: int) -> tuple[NDArray[np.intp], Floats]:
    """Constrained rank, and crowding distance within it, of the ranks that the best ``n`` rows have.

    Infeasible rows, which have no objectives to speak of, are not lonely.
    """
    rank = constrained_rank(F, G)
    lonely = np.zeros(len(F))
    feasible = (G <= 0).all(axis=1)
    for value in np.unique(rank[feasible]):
        front = np.flatnonzero(rank == value)
        lonely[front] = crowding_distance(F[front])
        if (rank <= value).sum() >= n:
            break
    return rank, lonely
