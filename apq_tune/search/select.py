"""Selection: which rows of a population survive. A pure function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.pareto import Floats, constrained_rank, crowding_distance


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
    rank = constrained_rank(F, G)
    lonely = np.zeros(len(F))
    feasible = (G <= 0).all(axis=1)
    for value in np.unique(rank[feasible]):
        front = np.flatnonzero(rank == value)
        lonely[front] = crowding_distance(F[front])
        if (rank <= value).sum() >= n:
            break
    return np.lexsort((-lonely, rank))[:n]
