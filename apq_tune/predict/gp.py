"""Gaussian processes on ordinal features (Rasmussen 2006): few pairs suffice, since like candidates lose alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.genotype import Genomes
from apq_tune.predict.design import Design
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale

BATCH = 500
"""Candidates that are compared with all pairs at once, so that the distances stay in the processor's cache."""

MOST_FOR_KERNEL = 500
"""Pairs that the kernel's three numbers are chosen on: that takes time with the cube of it, dozens of times."""


@dataclass(frozen=True)
class GaussianProcessPredictor:
    """The mean of a Gaussian process, added to a base predictor if it corrects one.

    Attributes:
        design: what it looks at.
        known: ``(n_pairs, n_features)`` of the pairs it learned from.
        weights: ``(n_pairs,)`` of each, in standardised units, the kernel's amplitude included.
        length: over which features the kernel ``exp(-d**2 / (2 * length**2))`` falls.
        slope: ``(n_features,)`` of the linear part, in standardised units.
        intercept: where all candidates begin that are like none of the pairs, beside the base.
    """

    design: Design
    known: Floats
    weights: Floats
    length: float
    slope: Floats
    intercept: float

    @property
    def encoding(self) -> Encoding:
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
        squares = (self.known**2).sum(axis=1)
        said = [np.zeros(0)]
        for first in range(0, len(features), BATCH):
            rows = features[first : first + BATCH]
            distances = (rows**2).sum(axis=1)[:, None] + squares - 2 * rows @ self.known.T
            said.append(np.exp(distances / (-2 * self.length**2)) @ self.weights)
        return self.design.scale.restore(np.concatenate(said) + features @ self.slope + start + self.intercept)


def fit_gp(
    encoding: Encoding,
    pairs: Pairs,
    seed: int,
    *,
    base: Predictor | None = None,
    correct: bool = True,
    log: bool = True,
) -> GaussianProcessPredictor:
    """Fit a Gaussian process: a line, a smooth deviation from it, and noise.

    The line is what few pairs can tell, the deviation what many can. How large each is, and how smooth, is what makes
    the pairs most likely.

    Args:
        encoding: of the space.
        pairs: to learn from.
        seed: of the random candidates that scale the features.
        base: predictor to correct, or to take a hint from.
        correct: whether the base is corrected; else its output is a column like others.
        log: whether the target is a loss, learned as its logarithm, or an accuracy, learned as it is.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    rng = np.random.default_rng(seed)
    ordinal = OrdinalFeatures.of(encoding, rng)
    design = Design(encoding, Scale.of(pairs.target, log=log), base, ordinal, correct)
    features, start = design(pairs.genomes)
    target = design.scale.standardise(pairs.target) - start
    intercept = float(target.mean())  # between rungs of the ladder the level changes more than the order
    target -= intercept
    # Rows have length 1 or so: at a tenth of that no candidate is like another, at twenty times that all is linear.
    smooth = ConstantKernel(0.5, (1e-3, 1e3)) * RBF(1, (0.1, 20))
    linear = ConstantKernel(1, (1e-3, 1e3)) * DotProduct(0, "fixed")
    kernel = smooth + linear + WhiteKernel(0.1, (1e-4, 1))
    model = GaussianProcessRegressor(kernel, random_state=0)
    rows = np.sort(rng.permutation(len(target))[:MOST_FOR_KERNEL])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a number at its bound is an answer, too
        model.fit(features[rows], target[rows])
    if len(rows) < len(target):
        model = GaussianProcessRegressor(model.kernel_, optimizer=None).fit(features, target)
    (smooth, linear), known = (model.kernel_.k1.k1, model.kernel_.k1.k2), model.X_train_
    return GaussianProcessPredictor(
        design,
        known,
        smooth.k1.constant_value * model.alpha_,
        float(smooth.k2.length_scale),
        linear.k1.constant_value * model.alpha_ @ known,
        intercept,
    )
