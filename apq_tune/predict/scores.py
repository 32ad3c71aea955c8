"""How good a predictor is on pairs that it has not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.predict.pairs import Fit, Floats, Pairs


class Agreement(NamedTuple):
    """Of predicted with measured losses, or of two measurements."""

    kendall_tau: float
    pairwise_accuracy: float  # share of pairs of candidates in the right order; ties count half
    rmse_log: float  # root mean square error of the natural logarithm of the loss, or of the accuracy itself
    n: int


def agreement(predicted: Floats, measured: Floats, *, log: bool = True) -> Agreement:
    """Compare two ``(n,)`` arrays of positive losses, or of accuracies with ``log=False``."""
    from scipy.stats import kendalltau

    i, j = np.triu_indices(len(measured), 1)
    same = np.sign(predicted[i] - predicted[j]) * np.sign(measured[i] - measured[j])
    errors = np.log(predicted) - np.log(measured) if log else predicted - measured
    rmse = float(np.sqrt(np.mean(errors**2)))
    return Agreement(
        float(kendalltau(predicted, measured).statistic), float((same + 1).mean() / 2), rmse, len(measured)
    )


def held_out(fit: Fit, encoding: Encoding, pairs: Pairs, seed: int, *, folds: int = 5) -> Floats:
    """Cross-validated predictions: each pair is predicted by a predictor that was fitted without it.

    Returns:
        ``(n,)`` predicted losses in the order of ``pairs``.
    """
    order = np.random.default_rng(seed).permutation(len(pairs.target))
    predicted = np.empty(len(order))
    for fold in np.array_split(order, folds):
        rest = np.setdiff1d(order, fold)
        predicted[fold] = fit(encoding, pairs.rows(rest), seed)(pairs.genomes[fold])
    return predicted
