"""Selection of a diverse batch of promising candidates to measure together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.predict.ensemble import KAPPA

Floats = NDArray[np.float64]
Rows = list[int]


def similarity(features: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Jaccard similarity of candidates (Jaccard 1901): from 0 (no common choice) to 1 (identical).

    Args:
        features: Binary features, shape ``(n, n_features)``.
        other: Binary features, shape ``(m, n_features)``.

    Returns:
        Similarities, shape ``(n, m)``.
    """
    common = (features @ other.T).astype(np.float64)
    return np.asarray(common / (features.sum(axis=1)[:, None] + other.sum(axis=1)[None] - common))


def choose_batch(mean: Floats, std: Floats, alike: Floats, n: int, *, first: Sequence[int] = ()) -> Rows:
    """Choose candidates that are promising, uncertain and dissimilar.

    Candidates are chosen greedily by the lowest confidence bound ``mean - kappa * std * (1 - s)``, where ``s`` is the
    similarity to the most similar candidate chosen so far: measuring that one reduces the uncertainty of this one.

    Args:
        mean: Predicted logarithm of the loss, shape ``(p,)``.
        std: Standard deviation of the prediction, shape ``(p,)``.
        alike: Pairwise similarities from 0 to 1, shape ``(p, p)``.
        n: Number of rows to choose; all rows are chosen if there are fewer.
        first: Rows that are chosen first in any case; of more than ``n``, the first ``n``.

    Returns:
        Distinct rows in the order in which they were chosen.
    """
    chosen = list(dict.fromkeys(first))[:n]
    while len(chosen) < min(n, len(mean)):
        nearest = alike[:, chosen].max(axis=1) if chosen else np.zeros(len(mean))
        bound = mean - KAPPA * std * (1 - nearest)
        bound[chosen] = np.inf
        chosen.append(int(bound.argmin()))
    return chosen
