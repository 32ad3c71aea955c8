"""Which of many promising candidates are worth measuring together: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.predict.ensemble import KAPPA

Floats = NDArray[np.float64]
Rows = list[int]


def similarity(features: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Share of common choices of every two candidates (Jaccard 1901): 1 for equal ones, 0 if nothing is common.

    Args:
        features: ``(n, n_features)`` of 0 and 1.
        other: ``(m, n_features)`` of 0 and 1.

    Returns:
        ``(n, m)``.
    """
    common = (features @ other.T).astype(np.float64)
    return np.asarray(common / (features.sum(axis=1)[:, None] + other.sum(axis=1)[None] - common))


def choose_batch(mean: Floats, std: Floats, alike: Floats, n: int, *, first: Sequence[int] = ()) -> Rows:
    """Choose candidates that are promising, uncertain and unlike each other.

    One after the other, the one with the lowest confidence bound ``mean - kappa * std * (1 - s)`` is taken, where ``s``
    is its similarity to the most similar one taken so far: what two have in common is learned from one of them.

    Args:
        mean: ``(p,)`` predicted logarithm of the loss.
        std: ``(p,)`` its standard deviation.
        alike: ``(p, p)`` similarities, 0 to 1.
        n: number to choose; all rows are if there are fewer.
        first: rows that are chosen anyway, before the others; at most ``n`` of them.

    Returns:
        Distinct rows, in the order in which they were chosen.
    """
    chosen = list(dict.fromkeys(first))[:n]
    while len(chosen) < min(n, len(mean)):
        nearest = alike[:, chosen].max(axis=1) if chosen else np.zeros(len(mean))
        bound = mean - KAPPA * std * (1 - nearest)
        bound[chosen] = np.inf
        chosen.append(int(bound.argmin()))
    return chosen
