"""Ridge regression on one-hot or ordinal features, alone or as a correction of another predictor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.predict.design import Design, DesignPredictor
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale, networks_of
from apq_tune.space.encoding import Featured, Genomes

ALPHAS = np.logspace(-1, 4, 16)
"""Penalties among which the leave-one-out error selects."""

ORDINAL_ALPHAS = np.logspace(-4, 2, 19)
"""Penalties for ordinal features, which have about unit length, whereas one-hot features have dozens of ones."""


@dataclass(frozen=True)
class RidgePredictor(DesignPredictor):
    """Linear model, optionally as a correction of a base predictor.

    Attributes:
        design: Features and target scale.
        weights: Coefficients in standardised units, that of the base predictor last, shape ``(n_features,)``.
        intercept: Intercept in standardised units.
    """

    weights: Floats
    intercept: float

    def __call__(self, genomes: Genomes) -> Floats:
        """Predicted cross-entropy in nats, or accuracy as a fraction, shape ``(n,)``."""
        features, start = self.design(genomes)
        return self.design.scale.restore(features @ self.weights + self.intercept + start)


def fit_residual(
    encoding: Featured,
    pairs: Pairs,
    seed: int,  # noqa: ARG001
    *,
    base: Predictor | None,
    log: bool = True,
) -> RidgePredictor:
    """Fit the residual of a base predictor by ridge regression on one-hot features.

    With many pairs the fit can override the base predictor, with few it stays close to it.

    Args:
        encoding: Encoding of the search space.
        pairs: Pairs to fit to.
        seed: Ignored, as the fit is deterministic.
        base: Predictor to correct; ``None`` fits the target itself.
        log: Whether the target is a loss, which is modelled by its logarithm, or an accuracy.
    """
    return _fit(Design(encoding, Scale.of(pairs.target, log=log), base), pairs, ALPHAS)


def fit_ridge(encoding: Featured, pairs: Pairs, seed: int, *, log: bool = True) -> RidgePredictor:
    """Ridge regression on the one-hot features of architecture and bits."""
    return fit_residual(encoding, pairs, seed, base=None, log=log)


def fit_ordinal(
    encoding: Featured, pairs: Pairs, seed: int, *, base: Predictor | None = None, log: bool = True
) -> RidgePredictor:
    """Ridge regression on ordinal features and the prediction of ``base``; see ``fit_residual`` for arguments.

    The base is a feature and is not corrected, since full-precision losses are only correlated with quantized ones.
    """
    ordinal = OrdinalFeatures.of(encoding, np.random.default_rng(seed))
    design = Design(encoding, Scale.of(pairs.target, log=log), base, ordinal, correct=False)
    return _fit(design, pairs, ORDINAL_ALPHAS)


def _fit(design: Design, pairs: Pairs, alphas: Floats) -> RidgePredictor:
    from sklearn.linear_model import RidgeCV

    features, start = design(pairs.genomes)
    features, target, weights = _one_row_each(features, design.scale.standardise(pairs.target) - start)
    model = RidgeCV(alphas).fit(features, target, weights)
    return RidgePredictor(design, model.coef_, float(model.intercept_))


def _one_row_each(features: Floats, target: Floats) -> tuple[Floats, Floats, Floats | None]:
    """Merge repeated measurements: one row per network, with the mean target and the number of measurements as weight.

    The least-squares solution is the same, but the leave-one-out error is not: with repeated rows it would be measured
    on rows that are also fitted, and select too small a penalty.

    Returns:
        Features ``(m, n_features)``, targets ``(m,)`` and weights of mean 1 ``(m,)``; without repeated measurements the
        arguments and ``None``.
    """
    networks = networks_of(features)
    counts = np.bincount(networks)
    if len(counts) == len(networks):
        return features, target, None
    _, first = np.unique(networks, return_index=True)
    return features[first], np.bincount(networks, target) / counts, counts / counts.mean()
