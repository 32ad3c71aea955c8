"""Ridge regression: the baseline on one-hot features, and the correction of another predictor on few pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.genotype import Genomes
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale

ALPHAS = np.logspace(-1, 4, 16)
"""Penalties among which leave-one-out error decides."""


@dataclass(frozen=True)
class RidgePredictor:
    """A linear model on one-hot features of architecture and bits, added to a base predictor if there is one.

    Attributes:
        encoding: of the space.
        weights: ``(n_features,)``, one more at the end for the base's prediction.
        intercept: of the line.
        scale: of the target.
        base: predictor to correct.
    """

    encoding: Encoding
    weights: Floats
    intercept: float
    scale: Scale
    base: Predictor | None = None

    @property
    def name(self) -> str:
        """Of the metric."""
        return self.scale.name

    @property
    def unit(self) -> str:
        """Of the predictions."""
        return self.scale.unit

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` cross-entropy in nats."""
        features, offset = _design(self.encoding, genomes, self.scale, self.base)
        return self.scale.restore(features @ self.weights + self.intercept + offset)


def _design(encoding: Encoding, genomes: Genomes, scale: Scale, base: Predictor | None) -> tuple[Floats, Floats]:
    """Features, and what the base already says, in standardised units."""
    features = encoding.features(genomes).astype(np.float64)
    if base is None:
        return features, np.zeros(len(genomes))
    offset = scale.standardise(base(genomes))
    return np.column_stack([features, offset]), offset


def fit_residual(
    encoding: Encoding,
    pairs: Pairs,
    seed: int,  # noqa: ARG001
    *,
    base: Predictor | None,
    log: bool = True,
) -> RidgePredictor:
    """Fit what a base predictor leaves over; with many pairs it can unlearn the base, with few it keeps it.

    Args:
        encoding: of the space.
        pairs: to learn from.
        seed: not used, a ridge has no randomness.
        base: predictor to correct; ``None`` fits from nothing.
        log: whether the target is a loss, learned as its logarithm, or an accuracy, learned as it is.
    """
    from sklearn.linear_model import RidgeCV

    scale = Scale.of(pairs.target, log=log)
    features, offset = _design(encoding, pairs.genomes, scale, base)
    model = RidgeCV(ALPHAS).fit(features, scale.standardise(pairs.target) - offset)
    return RidgePredictor(encoding, model.coef_, float(model.intercept_), scale, base)


def fit_ridge(encoding: Encoding, pairs: Pairs, seed: int, *, log: bool = True) -> RidgePredictor:
    """Plain ridge on the one-hot features of architecture and bits."""
    return fit_residual(encoding, pairs, seed, base=None, log=log)
