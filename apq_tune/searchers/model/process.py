"""Gaussian processes with automatic relevance determination per group of features (MacKay 1994)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from apq_tune.problem.pareto import Floats

LEVEL = 1.0
"""Prior variance of the constant mean, as the mean of few observations differs from that of the space."""

JITTER = 1e-8

MAX_STEPS = 40
"""Maximum number of optimizer steps for the kernel hyperparameters."""

RELEVANCE = (0.0, 1.0)
LINEAR = (np.log(0.3), 1.0)
SMOOTH = (np.log(1.0), 1.0)
NOISE = (np.log(0.02), 2.0)
"""Mean and standard deviation of the log-normal priors of hyperparameters, without which few observations overfit."""

BOUNDS = (-12.0, 5.0)
"""Bounds of the logarithms of hyperparameters."""


class ARDKernel(NamedTuple):
    """Sum of a constant, a linear and an RBF kernel with a relevance per group of features, and observation noise.

    Attributes:
        relevance: Inverse squared length scale of each group, shape ``(n_groups,)``.
        linear: Variance of the linear kernel.
        smooth: Variance of the RBF kernel.
        noise: Variance of the observation noise.
    """

    relevance: Floats
    linear: float
    smooth: float
    noise: float

    def scaled(self, features: Floats, groups: NDArray[np.intp]) -> Floats:
        """Features scaled by the square root of their relevance."""
        return np.asarray(features * np.sqrt(self.relevance)[groups])

    def __call__(self, one: Floats, other: Floats) -> Floats:
        """Covariances of scaled features ``(n, n_features)`` and ``(m, n_features)``, shape ``(n, m)``."""
        products = one @ other.T
        distances = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * products
        return np.asarray(LEVEL + self.linear * products + self.smooth * np.exp(-0.5 * np.maximum(distances, 0)))

    def prior(self, one: Floats) -> Floats:
        """Prior variances, shape ``(n,)``."""
        return np.asarray(LEVEL + self.linear * (one**2).sum(axis=1) + self.smooth)


def likeliest(features: Floats, groups: NDArray[np.intp], target: Floats) -> ARDKernel:
    """Fit the kernel hyperparameters by maximum a posteriori estimation.

    Args:
        features: Features of the observations, shape ``(n, n_features)``.
        groups: Group of each feature, shape ``(n_features,)``.
        target: Standardised targets, shape ``(n,)``.
    """
    from scipy.optimize import minimize

    n, n_groups = len(features), int(groups.max()) + 1
    products = np.stack([features[:, groups == g] @ features[:, groups == g].T for g in range(n_groups)])
    square = np.einsum("gii->gi", products)
    distances = (square[:, :, None] + square[:, None] - 2 * products).reshape(n_groups, -1)
    products = products.reshape(n_groups, -1)
    mean = np.array([RELEVANCE[0]] * n_groups + [LINEAR[0], SMOOTH[0], NOISE[0]])
    std = np.array([RELEVANCE[1]] * n_groups + [LINEAR[1], SMOOTH[1], NOISE[1]])

    def loss(theta: Floats) -> tuple[float, Floats]:
        relevance, (linear, smooth, noise) = np.exp(theta[:n_groups]), np.exp(theta[n_groups:])
        lines = linear * (relevance @ products)
        curves = smooth * np.exp(-0.5 * (relevance @ distances))
        covariance = (LEVEL + lines + curves).reshape(n, n)
        covariance.flat[:: n + 1] += noise + JITTER
        try:
            root = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(theta)
        weights = cho_solve((root, True), target, check_finite=False)
        inverse = cho_solve((root, True), np.eye(n), check_finite=False)
        surprise = 0.5 * target @ weights + np.log(np.diagonal(root)).sum()
        pull = inverse - np.outer(weights, weights)  # twice the gradient of the negative log likelihood by covariance
        flat = 0.5 * pull.ravel()
        by_relevance = relevance * (linear * (products @ flat) - 0.5 * (distances @ (flat * curves)))
        slope = np.concatenate([by_relevance, [flat @ lines, flat @ curves, 0.5 * noise * np.trace(pull)]])
        off = (theta - mean) / std
        return float(surprise + 0.5 * off @ off), slope + off / std

    bounds = [BOUNDS] * len(mean)
    found = minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MAX_STEPS})
    numbers = np.exp(found.x)
    return ARDKernel(numbers[:n_groups], *map(float, numbers[n_groups:]))


@dataclass(frozen=True)
class Posterior:
    """Posterior of a Gaussian process for a pool of candidates.

    Attributes:
        kernel: Kernel of the process.
        scaled: Scaled features of the candidates, shape ``(m, n_features)``.
        mean: Posterior mean in standardised units, shape ``(m,)``.
        variance: Posterior variance without noise, shape ``(m,)``.
        seen: Whitened cross-covariance of observations and candidates, shape ``(n, m)``; the posterior covariance is
            the prior one minus ``seen.T @ seen``.
    """

    kernel: ARDKernel
    scaled: Floats
    mean: Floats
    variance: Floats
    seen: Floats

    @classmethod
    def of(cls, kernel: ARDKernel, groups: NDArray[np.intp], known: Floats, target: Floats, pool: Floats) -> Posterior:
        """Condition a Gaussian process on observations.

        Args:
            kernel: Kernel of the process.
            groups: Group of each feature, shape ``(n_features,)``.
            known: Features of the observations, shape ``(n, n_features)``.
            target: Standardised targets of the observations, shape ``(n,)``.
            pool: Features of the candidates, shape ``(m, n_features)``.
        """
        old, new = kernel.scaled(known, groups), kernel.scaled(pool, groups)
        covariance = kernel(old, old)
        covariance.flat[:: len(old) + 1] += kernel.noise + JITTER
        root = cholesky(covariance, lower=True, check_finite=False)
        seen = solve_triangular(root, kernel(old, new), lower=True, check_finite=False)
        mean = seen.T @ solve_triangular(root, target, lower=True, check_finite=False)
        variance = np.maximum(kernel.prior(new) - (seen**2).sum(axis=0), 1e-12)
        return cls(kernel, new, mean, variance, seen)

    def condition_on_mean(self, row: int) -> Posterior:
        """Condition on a candidate being measured at its posterior mean (kriging believer, Ginsbourger 2010)."""
        covariance = self.kernel(self.scaled[row : row + 1], self.scaled)[0] - self.seen[:, row] @ self.seen
        tells = covariance / np.sqrt(self.variance[row] + self.kernel.noise + JITTER)
        variance = np.maximum(self.variance - tells**2, 1e-12)
        return replace(self, variance=variance, seen=np.vstack([self.seen, tells]))
