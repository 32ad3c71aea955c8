"""How good a predictor is on pairs that it has not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.predict.pairs import Fit, Floats, Pairs, networks_of, rows_of
from apq_tune.space.network_encoding import NetworkEncoding


class Agreement(NamedTuple):
    """Of predicted with measured losses, or of two measurements."""

    kendall_tau: float
    pairwise_accuracy: float  # share of pairs of candidates in the right order; ties count half
    rmse_log: float  # root mean square error of the natural logarithm of the loss, or of the accuracy itself
    n: int


def agreement(predicted: Floats, measured: Floats, *, log: bool = True) -> Agreement:
    """Compare two ``(n,)`` arrays of positive losses, or of accuracies with ``log=False``."""
    i, j = np.triu_indices(len(measured), 1)
    same = np.sign(predicted[i] - predicted[j]) * np.sign(measured[i] - measured[j])
    errors = np.log(predicted) - np.log(measured) if log else predicted - measured
    rmse = float(np.sqrt(np.mean(errors**2)))
    return Agreement(kendall_tau(predicted, measured), float((same + 1).mean() / 2), rmse, len(measured))


def kendall_tau(predicted: Floats, measured: Floats) -> float:
    """Rank correlation of two ``(n,)`` arrays, from -1 to 1; not a number where one of them is all alike."""
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, measured).statistic)


def held_out(
    fit: Fit,
    encoding: NetworkEncoding,
    pairs: Pairs,
    seed: int,
    *,
    folds: int = 5,
    networks: NDArray[np.intp] | None = None,
) -> Floats:
    """Cross-validated predictions: each pair is predicted by a predictor that has not seen its network.

    Folds are made of networks, not of pairs: what was measured of a network several times is in one fold.

    Args:
        fit: the form.
        encoding: of the space.
        pairs: at least two networks; with fewer networks than folds each is a fold.
        seed: of the folds and of the fits.
        folds: how many.
        networks: ``(n,)``, which pairs the form cannot tell apart; by default those of equal genomes. A form that sees
            the architecture alone needs that of its own features (``networks_of``).

    Returns:
        ``(n,)`` predicted losses in the order of ``pairs``.

    Raises:
        RunError: if all pairs are of one network.
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
