"""Which of the trained candidates go on to a longer training: pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.candidate import Candidate

Floats = NDArray[np.float64]
Rows = list[int]


def is_uniform(candidate: Candidate) -> bool:
    """Whether all searched layers have the same bits."""
    return len({bits for block in candidate.blocks for bits in block[2:]}) == 1


def survivors(losses: Floats, uniform: NDArray[np.bool_], n: int) -> Rows:
    """The best ``n`` of one rung of successive halving (Jamieson 2016), the best uniform policy among them.

    Short training under-rates the fewest bits, and a mixed policy that no uniform one was trained against proves
    nothing: so the best uniform one takes the last place if it has not earned a better one, and an own one if ``n`` is
    1.

    Args:
        losses: ``(p,)`` after equal training.
        uniform: ``(p,)`` which have the same bits everywhere.
        n: places.

    Returns:
        Rows, best first.
    """
    order = np.argsort(losses, kind="stable")
    best = order[:n].tolist()
    if uniform.any() and not uniform[best].any():
        return [*best[: max(1, n - 1)], int(order[uniform[order]][0])]
    return list(best)
