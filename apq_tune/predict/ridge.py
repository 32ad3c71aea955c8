"""Ridge regression: the baseline on one-hot features, on ordinal ones, and the correction of another predictor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.predict.design import Design
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale, networks_of
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding

ALPHAS = np.logspace(-1, 4, 16)
"""Penalties among which leave-one-out error decides."""

ORDINAL_ALPHAS = np.logspace(-4, 2, 19)
"""The same for ordinal features, whose rows have length 1 where one-hot rows have dozens of ones."""


@dataclass(frozen=True)
class RidgePredictor:
    """A linear model, added to a base predictor if it corrects one.

    Attributes:
        design: what it looks at.
        weights: ``(n_features,)``, one more at the end for the base's prediction.
        intercept: of the line.
    """

    design: Design
    weights: Floats
    intercept: float

    @property
    def encoding(self) -> NetworkEncoding:
        """Of its space."""
        return self.design.encoding

    @property
    def name(self) -> str:
        """Of the metric."""
        return self.design.name

    @property
    def unit(self) -> str:
        """Of the predictions."""
        return self.design.unit

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` cross-entropy in nats, or accuracy as a fraction."""
        features, start = self.design(genomes)
        return self.design.scale.restore(features @ self.weights + self.intercept + start)


def fit_residual(
    encoding: NetworkEncoding,
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
    return _fit(Design(encoding, Scale.of(pairs.target, log=log), base), pairs, ALPHAS)


def fit_ridge(encoding: NetworkEncoding, pairs: Pairs, seed: int, *, log: bool = True) -> RidgePredictor:
    """Plain ridge on the one-hot features of architecture and bits."""
    return fit_residual(encoding, pairs, seed, base=None, log=log)


def fit_ordinal(
    encoding: NetworkEncoding, pairs: Pairs, seed: int, *, base: Predictor | None = None, log: bool = True
) -> RidgePredictor:
    """Ridge on ordinal features, with another predictor's output as one more; see ``fit_residual`` for arguments.

    The base is nothing but a column here: a full-precision predictor is a hint of quantized losses, no first guess.
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
    """Networks instead of pairs: each once, with the mean of its targets, weighted by how often it was measured.

    The least squares of both are the same, but leaving out one of several equal rows leaves out nothing: the penalty
    would be chosen by how well the network is known by heart.

    Returns:
        ``(m, n_features)``, ``(m,)`` and ``(m,)`` weights of mean 1; what was given and ``None`` without repeats.
    """
    networks = networks_of(features)
    counts = np.bincount(networks)
    if len(counts) == len(networks):
        return features, target, None
    _, first = np.unique(networks, return_index=True)
    return features[first], np.bincount(networks, target) / counts, counts / counts.mean()
