"""Gaussian processes on ordinal features (Rasmussen 2006): few pairs suffice, since like candidates lose alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from apq_tune.predict.design import Design
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding

BATCH = 500
"""Candidates that are compared with all pairs at once, so that the distances stay in the processor's cache."""

MOST_FOR_KERNEL = 500
"""Pairs that the kernel's numbers are chosen on: that takes time with the cube of it, dozens of times."""

JITTER = 1e-10
"""Added to the noise, against rounding errors (scikit-learn's value)."""


class Kernel(NamedTuple):
    """What a function is expected to be like: a line, a smooth deviation from it, and noise in what is seen of it."""

    smooth: float  # variance of the deviation
    length: float  # of the feature space, over which the deviation forgets itself
    linear: float  # variance of each slope
    noise: float  # variance

    def __call__(self, one: Floats, other: Floats) -> Floats:
        """``(n, n_features), (m, n_features) -> (n, m)``: covariances, without the noise."""
        products = one @ other.T
        distances = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * products
        return np.asarray(self.smooth * np.exp(distances / (-2 * self.length**2)) + self.linear * products)


@dataclass(frozen=True)
class GaussianProcessPredictor:
    """A Gaussian process, added to a base predictor if it corrects one.

    Attributes:
        design: what it looks at.
        known: ``(n_pairs, n_features)`` of the pairs it learned from.
        weights: ``(n_pairs,)`` of each, in standardised units.
        kernel: in standardised units.
        intercept: where all candidates begin that are like none of the pairs, beside the base.
    """

    design: Design
    known: Floats
    weights: Floats
    kernel: Kernel
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
        said = [self.kernel(rows, self.known) @ self.weights for rows in _parts(features)]
        return self.design.scale.restore(np.concatenate([np.zeros(0), *said]) + start + self.intercept)

    def lower_bound(self, genomes: Genomes, kappa: float) -> Floats:
        """``(n, n_genes) -> (n,)``: ``kappa`` standard deviations below the mean, in the units of the prediction."""
        mean, std = self.moments(genomes)
        low = mean - kappa * std
        return np.exp(low) if self.design.scale.log else low

    def moments(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """``(n, n_genes) -> (n,), (n,)``: mean and standard deviation, without the noise; of a loss's logarithm."""
        features, start = self.design(genomes)
        mean, variance = [np.zeros(0)], [np.zeros(0)]
        for rows in _parts(features):
            covariances = self.kernel(rows, self.known)
            mean.append(covariances @ self.weights)
            seen = solve_triangular(self._root, covariances.T, lower=True)
            prior = self.kernel.smooth + self.kernel.linear * (rows**2).sum(axis=1)
            variance.append(np.maximum(prior - (seen**2).sum(axis=0), 0))
        scale = self.design.scale
        above = np.concatenate(mean) + start + self.intercept
        return above * scale.std + scale.mean, np.sqrt(np.concatenate(variance)) * scale.std

    @cached_property
    def _root(self) -> Floats:
        """``(n_pairs, n_pairs)``, lower triangular: the root of what is known."""
        return _root(self.kernel, self.known)


def _parts(features: Floats) -> list[Floats]:
    return [features[first : first + BATCH] for first in range(0, len(features), BATCH)]


def _root(kernel: Kernel, known: Floats) -> Floats:
    return np.asarray(cholesky(kernel(known, known) + (kernel.noise + JITTER) * np.eye(len(known)), lower=True))


def fit_gp(
    encoding: NetworkEncoding,
    pairs: Pairs,
    seed: int,
    *,
    base: Predictor | None = None,
    correct: bool = True,
    log: bool = True,
    kernel: Kernel | None = None,
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
        kernel: of an earlier fit with the same seed; choosing one costs far more than the rest.
    """
    rng = np.random.default_rng(seed)
    ordinal = OrdinalFeatures.of(encoding, rng)
    design = Design(encoding, Scale.of(pairs.target, log=log), base, ordinal, correct)
    features, start = design(pairs.genomes)
    target = design.scale.standardise(pairs.target) - start
    intercept = float(target.mean())  # between rungs of the ladder the level changes more than the order
    target -= intercept
    rows = np.sort(rng.permutation(len(target))[:MOST_FOR_KERNEL])
    kernel = kernel or likeliest_kernel(features[rows], target[rows])
    weights = cho_solve((_root(kernel, features), True), target)
    return GaussianProcessPredictor(design, features, weights, kernel, intercept)


def likeliest_kernel(features: Floats, target: Floats) -> Kernel:
    """The kernel with the greatest marginal likelihood.

    Args:
        features: ``(n, n_features)``, rows of length 1 or so.
        target: ``(n,)``, of zero mean and about unit variance.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    # At a tenth of a row's length no candidate is like another, at twenty times that all is linear.
    smooth = ConstantKernel(0.5, (1e-3, 1e3)) * RBF(1, (0.1, 20))
    linear = ConstantKernel(1, (1e-3, 1e3)) * DotProduct(0, "fixed")
    model = GaussianProcessRegressor(smooth + linear + WhiteKernel(0.1, (1e-4, 1)), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a number at its bound is an answer, too
        model.fit(features, target)
    (smooth, linear), noise = (model.kernel_.k1.k1, model.kernel_.k1.k2), model.kernel_.k2
    numbers = smooth.k1.constant_value, smooth.k2.length_scale, linear.k1.constant_value, noise.noise_level
    return Kernel(*map(float, numbers))
