"""A Gaussian process on ordinal features (Rasmussen 2006): a predictor from few pairs that says how sure it is.

One-hot features know nothing of 4 bits lying between 2 and 8; with tens to hundreds of pairs that is worth knowing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.genotype import Genomes
from apq_tune.predict.pairs import Floats, Pairs
from apq_tune.problem import Metric

NOISE = (1e-4, 1.0)
"""Least and most variance of the noise, as a share of that of the logarithm of the losses."""


def ordinal_features(encoding: Encoding, genomes: Genomes, costs: Sequence[Metric]) -> Floats:
    """Numbers that lie the further apart, the more two choices differ.

    Args:
        encoding: of the space.
        genomes: ``(n, n_genes)``, canonical.
        costs: positive metrics of the whole network, whose logarithms are features, too.

    Returns:
        ``(n, 7 * n_slots + 1 + len(costs))``: for every block whether it is on, the logarithms of kernel size and of
        channels, and ``2 ** -bits`` of each kind of bits, all zero if it is off; the resolution; the costs.
    """
    genes, on = encoding.block_genes(genomes), encoding.active(genomes).astype(np.float64)
    choices = encoding.choices[-6 * encoding.n_slots :]
    columns = [on]
    for field in range(6):
        own = choices[field * encoding.n_slots : (field + 1) * encoding.n_slots]
        values = np.stack([np.array(v, np.float64)[genes[:, field, slot]] for slot, v in enumerate(own)], axis=1)
        columns.append(on * (np.log2(values) if field < 2 else 2.0**-values))
    resolution = np.log2(np.array(encoding.space.resolutions, np.float64))[encoding.resolution_index(genomes)]
    return np.column_stack([*columns, resolution, *(np.log(cost(genomes)) for cost in costs)])


@dataclass(frozen=True)
class GaussianPredictor:
    """A posterior over the logarithm of the loss.

    Attributes:
        encoding: of the space.
        costs: whose logarithms are features.
        shift: ``(n_features,)`` subtracted from features.
        scale: ``(n_features,)`` that they are then divided by.
        process: scikit-learn's, fitted.
    """

    encoding: Encoding
    costs: tuple[Metric, ...]
    shift: Floats
    scale: Floats
    process: Any
    name = "predicted_loss"
    unit = "nats"

    def moments(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """``(n, n_genes) -> (n,), (n,)``: mean and standard deviation of the log loss, without the labels' noise."""
        if len(genomes) == 0:
            return np.zeros(0), np.zeros(0)
        features = (ordinal_features(self.encoding, genomes, self.costs) - self.shift) / self.scale
        mean, std = self.process.predict(features, return_std=True)
        noise = self.process.kernel_.k2.noise_level * self.process._y_train_std**2
        return mean, np.sqrt(np.maximum(std**2 - noise, 0))

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats."""
        return np.exp(self.moments(genomes)[0])

    def lower_bound(self, genomes: Genomes, kappa: float) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats, ``kappa`` standard deviations below the mean."""
        mean, std = self.moments(genomes)
        return np.asarray(np.exp(mean - kappa * std))


def fit_gaussian(
    encoding: Encoding, pairs: Pairs, costs: Sequence[Metric], before: GaussianPredictor | None = None
) -> GaussianPredictor:
    """Fit a linear trend, a smooth function and noise.

    Args:
        encoding: of the space.
        pairs: to learn from.
        costs: positive metrics whose logarithms are features.
        before: whose hyperparameters to keep; ``None`` chooses those of the greatest marginal likelihood.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    features = ordinal_features(encoding, pairs.genomes, costs)
    shift, spread = features.mean(axis=0), features.std(axis=0)
    varies = spread > 1e-9 * (1 + np.abs(shift))
    scale = np.where(varies, spread, 1.0) * np.sqrt(max(1, varies.sum()))
    if before is None:
        linear = ConstantKernel(1.0, (1e-4, 1e3)) * DotProduct(1.0, "fixed")
        smooth = ConstantKernel(1.0, (1e-4, 1e3)) * RBF(1.0, (0.2, 20.0))
        kernel, optimizer = linear + smooth + WhiteKernel(0.05, NOISE), "fmin_l_bfgs_b"
    else:
        kernel, optimizer = before.process.kernel_, None
    process = GaussianProcessRegressor(kernel, normalize_y=True, optimizer=optimizer, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hyperparameter at its bound is an answer
        process.fit((features - shift) / scale, np.log(pairs.target))
    return GaussianPredictor(encoding, tuple(costs), shift, scale, process)
