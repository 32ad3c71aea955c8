"""Latency of operations that were not measured, by a Gaussian process on the logarithms of their shapes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict

from apq_tune.deploy.profile_ops import ProfileOp
from apq_tune.errors import TableError

FEWEST = 20
"""Smallest number of measured operations from which others are predicted."""

MOST_FOR_KERNEL = 300
"""Largest number of operations on which the parameters of the kernel are optimized."""

FOLDS = 5

FAMILIES = (
    "pointwise",
    "depthwise",
    "dense",
    "float conv",
    "linear",
    "pool",
    "max_pool",
    "add",
    "multiply",
    "concat",
    "requantize",
    "clip",
    "image",
)
"""Families of which operations can be predicted from others."""


class RegressionError(NamedTuple):
    """Cross-validated error of the regression, relative to the measured latency.

    Attributes:
        median: Median of the absolute relative error.
        p90: Its 90th percentile.
        n_measured: Number of measured operations.
    """

    median: float
    p90: float
    n_measured: int


def shape_features(ops: Sequence[ProfileOp]) -> NDArray[np.float64]:
    """Logarithms of amounts of work and of lengths, and the family of operations, shape ``(n, n_features)``."""
    rows = [
        [
            *np.log2(
                [
                    1 + op.macs,
                    1 + op.n_weights,
                    op.in_channels * op.in_size**2,
                    op.out_channels * op.out_size**2,
                    op.in_channels,
                    op.out_channels,
                    op.in_size,
                    op.kernel_size,
                    op.stride,
                ]
            ),
            *(4.0 * (op.family == family) for family in FAMILIES),
        ]
        for op in ops
    ]
    return np.array(rows, np.float64).reshape(len(ops), -1)


def fill_in(
    measured: Mapping[ProfileOp, float], missing: Sequence[ProfileOp], what: str
) -> tuple[dict[ProfileOp, float], RegressionError]:
    """Predict the latency of operations that were not measured.

    Args:
        measured: Latency of the measured operations.
        missing: Operations to predict.
        what: What was measured, for messages.

    Returns:
        Latency of the missing operations in the unit of the measured ones, and the cross-validated error.

    Raises:
        TableError: If too few operations were measured, or none of a family that is needed.
    """
    known = [op for op in measured if op.family in FAMILIES]
    families = {op.family for op in known}
    absent = [op for op in missing if op.family not in families]
    if len(known) < FEWEST or absent:
        said = f"none of {absent[0].family}" if absent else f"of {FEWEST} that a regression needs"
        raise TableError(
            f"{what}: {len(known)} operations were measured, {said}; {len(missing)} are missing, measure for longer"
        )
    features, target = shape_features(known), np.log([measured[op] for op in known])
    model = _fitted(features, target)
    fixed = _process(model.kernel_, optimizer=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        held_out = cross_val_predict(fixed, features, target, cv=KFold(FOLDS, shuffle=True, random_state=0))
    errors = np.abs(np.exp(held_out - target) - 1)
    error = RegressionError(float(np.median(errors)), float(np.quantile(errors, 0.9)), len(known))
    predicted = np.exp(model.predict(shape_features(missing)))
    return dict(zip(missing, predicted.tolist(), strict=True)), error


def _fitted(features: NDArray[np.float64], target: NDArray[np.float64]) -> Any:
    some = np.random.default_rng(0).permutation(len(target))[:MOST_FOR_KERNEL]
    kernel = ConstantKernel(0.1) * DotProduct(1.0) + ConstantKernel(1.0) * RBF(4.0) + WhiteKernel(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = _process(kernel).fit(features[some], target[some])
        return model if len(some) == len(target) else _process(model.kernel_, optimizer=None).fit(features, target)


def _process(kernel: Any, **options: Any) -> Any:
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0, **options)
