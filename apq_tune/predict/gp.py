"""Gaussian process regression on ordinal features (Rasmussen 2006), which needs few pairs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from apq_tune.predict.design import Design, DesignPredictor
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale
from apq_tune.space.encoding import Featured, Genomes

BATCH = 500
"""Number of candidates per block of the kernel matrix, so that a block fits into the processor's cache."""

MOST_FOR_KERNEL = 500
"""Maximum number of pairs on which kernel hyperparameters are fitted, as each of dozens of steps takes cubic time."""

JITTER = 1e-10
"""Added to the noise variance for numerical stability (scikit-learn's value)."""


class Kernel(NamedTuple):
    """Sum of a linear kernel, an RBF kernel and observation noise.

    Attributes:
        smooth: Variance of the RBF kernel.
        length: Length scale of the RBF kernel.
        linear: Variance of the linear kernel.
        noise: Variance of the observation noise.
    """

    smooth: float
    length: float
    linear: float
    noise: float

    def __call__(self, one: Floats, other: Floats) -> Floats:
        """Covariances without noise of features ``(n, n_features)`` and ``(m, n_features)``, shape ``(n, m)``."""
        products = one @ other.T
        distances = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * products
        return np.asarray(self.smooth * np.exp(distances / (-2 * self.length**2)) + self.linear * products)


@dataclass(frozen=True)
class GaussianProcessPredictor(DesignPredictor):
    """Posterior mean of a Gaussian process, optionally as a correction of a base predictor.

    Attributes:
        design: Features and target scale.
        known: Features of the training pairs, shape ``(n_pairs, n_features)``.
        weights: Dual coefficients of the pairs in standardised units, shape ``(n_pairs,)``.
        kernel: Kernel in standardised units.
        intercept: Mean of the process, relative to the base predictor, in standardised units.
    """

    known: Floats
    weights: Floats
    kernel: Kernel
    intercept: float

    def __call__(self, genomes: Genomes) -> Floats:
        """Predicted cross-entropy in nats, or accuracy as a fraction, shape ``(n,)``."""
        features, start = self.design(genomes)
        said = [self.kernel(rows, self.known) @ self.weights for rows in _parts(features)]
        return self.design.scale.restore(np.concatenate([np.zeros(0), *said]) + start + self.intercept)

    def lower_bound(self, genomes: Genomes, kappa: float) -> Floats:
        """Lower confidence bound, ``kappa`` standard deviations below the mean, in ``unit``, shape ``(n,)``."""
        mean, std = self.moments(genomes)
        low = mean - kappa * std
        return np.exp(low) if self.design.scale.log else low

    def moments(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """Posterior mean and standard deviation without noise, each of shape ``(n,)``; of the logarithm for a loss."""
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
        """Lower Cholesky factor of the covariance of the pairs, shape ``(n_pairs, n_pairs)``."""
        return _root(self.kernel, self.known)


def _parts(features: Floats) -> list[Floats]:
    return [features[first : first + BATCH] for first in range(0, len(features), BATCH)]


def _root(kernel: Kernel, known: Floats) -> Floats:
    return np.asarray(cholesky(kernel(known, known) + (kernel.noise + JITTER) * np.eye(len(known)), lower=True))


def fit_gp(
    encoding: Featured,
    pairs: Pairs,
    seed: int,
    *,
    base: Predictor | None = None,
    correct: bool = True,
    log: bool = True,
    kernel: Kernel | None = None,
) -> GaussianProcessPredictor:
    """Fit a Gaussian process with linear and RBF kernels and maximum-likelihood hyperparameters.

    Args:
        encoding: Encoding of the search space.
        pairs: Pairs to fit to.
        seed: Seed of the random candidates by which features are scaled.
        base: Base predictor, which is corrected or used as a feature.
        correct: Whether the base predictor is corrected rather than used as a feature.
        log: Whether the target is a loss, which is modelled by its logarithm, or an accuracy.
        kernel: Kernel of an earlier fit with the same seed; fitting one takes most of the time.
    """
    rng = np.random.default_rng(seed)
    ordinal = OrdinalFeatures.of(encoding, rng)
    design = Design(encoding, Scale.of(pairs.target, log=log), base, ordinal, correct)
    features, start = design(pairs.genomes)
    target = design.scale.standardise(pairs.target) - start
    intercept = float(target.mean())  # between fidelities the level changes more than the ranking
    target -= intercept
    rows = np.sort(rng.permutation(len(target))[:MOST_FOR_KERNEL])
    kernel = kernel or likeliest_kernel(features[rows], target[rows])
    weights = cho_solve((_root(kernel, features), True), target)
    return GaussianProcessPredictor(design, features, weights, kernel, intercept)


def likeliest_kernel(features: Floats, target: Floats) -> Kernel:
    """Fit the kernel hyperparameters by maximum marginal likelihood.

    Args:
        features: Features of about unit length, shape ``(n, n_features)``.
        target: Targets of zero mean and about unit variance, shape ``(n,)``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    # With a length scale below .1 all candidates are uncorrelated, above 20 the function is linear.
    smooth = ConstantKernel(0.5, (1e-3, 1e3)) * RBF(1, (0.1, 20))
    linear = ConstantKernel(1, (1e-3, 1e3)) * DotProduct(0, "fixed")
    model = GaussianProcessRegressor(smooth + linear + WhiteKernel(0.1, (1e-4, 1)), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hyperparameter may lie on its bound
        model.fit(features, target)
    (smooth, linear), noise = (model.kernel_.k1.k1, model.kernel_.k1.k2), model.kernel_.k2
    numbers = smooth.k1.constant_value, smooth.k2.length_scale, linear.k1.constant_value, noise.noise_level
    return Kernel(*map(float, numbers))
