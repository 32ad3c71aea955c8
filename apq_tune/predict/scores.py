"""Scores of predictors on held-out pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.predict.pairs import Fit, Floats, Pairs, networks_of, rows_of
from apq_tune.space.encoding import Featured


class Agreement(NamedTuple):
    """Agreement of predicted with measured losses, or of two measurements.

    Attributes:
        kendall_tau: Kendall's tau.
        pairwise_accuracy: Share of pairs of candidates in the right order; ties count half.
        rmse_log: Root mean square error of the natural logarithm of the loss, or of the accuracy itself.
        n: Number of candidates.
    """

    kendall_tau: float
    pairwise_accuracy: float
    rmse_log: float
    n: int


def agreement(predicted: Floats, measured: Floats, *, log: bool = True) -> Agreement:
    """Agreement of two arrays of positive losses, or of accuracies with ``log=False``, of shape ``(n,)``."""
    i, j = np.triu_indices(len(measured), 1)
    same = np.sign(predicted[i] - predicted[j]) * np.sign(measured[i] - measured[j])
    errors = np.log(predicted) - np.log(measured) if log else predicted - measured
    rmse = float(np.sqrt(np.mean(errors**2)))
    return Agreement(kendall_tau(predicted, measured), float((same + 1).mean() / 2), rmse, len(measured))


def kendall_tau(predicted: Floats, measured: Floats) -> float:
    """Kendall's rank correlation of two arrays of shape ``(n,)``; NaN if one of them is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, measured).statistic)


def held_out(
    fit: Fit,
    encoding: Featured,
    pairs: Pairs,
    seed: int,
    *,
    folds: int = 5,
    networks: NDArray[np.intp] | None = None,
) -> Floats:
    """Cross-validated predictions: each pair is predicted by a predictor that has not seen its network.

    Folds consist of networks rather than pairs, so that repeated measurements of a network are in one fold.

    Args:
        fit: Form of predictor.
        encoding: Encoding of the search space.
        pairs: Pairs of at least two networks; with fewer networks than folds, each network is a fold.
        seed: Seed of the folds and of the fits.
        folds: Number of folds.
        networks: Group number of each pair, shape ``(n,)``; by default pairs with equal genomes form a group. For a
            predictor that sees only the architecture, group by its features (``networks_of``).

    Returns:
        Predicted losses in the order of ``pairs``, shape ``(n,)``.

    Raises:
        RunError: If all pairs are of one network.
    """
    networks = networks_of(pairs.genomes) if networks is None else networks
    n_networks = int(networks.max()) + 1
    if n_networks < 2:
        raise RunError(f"all {len(networks)} pairs are of one network; measure others, too: nothing can be held out")
    order = np.random.default_rng(seed).permutation(n_networks)
    predicted = np.empty(len(networks))
    for fold in np.array_split(order, min(folds, n_networks)):
        rows = rows_of(networks, fold)
        rest = np.setdiff1d(np.arange(len(networks)), rows)
        predicted[rows] = fit(encoding, pairs.rows(rest), seed)(pairs.genomes[rows])
    return predicted
