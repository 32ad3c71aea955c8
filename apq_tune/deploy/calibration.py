"""Correction of measured operations by measured networks.

The latency of a network is not the sum of those of its operations: runtimes fuse operations, tensors are in the cache
or not, and every operation has an overhead. Each family of operations gets a factor and an offset per operation, which
keeps the table additive. They are fitted to networks by least squares of the relative error, with priors at 1 and 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr
from sklearn.model_selection import KFold

from apq_tune.deploy.profile_ops import ProfileOp

FEWEST = 10
"""Smallest number of measured networks to which a correction is fitted."""

FOLDS = 5

NOISE, FACTOR_SPREAD, OFFSET_SPREAD = 0.03, 0.3, 0.5
"""Expected relative noise of a network's latency, and standard deviations of the priors of factors and offsets; those
of offsets are relative to the mean latency of an operation of the family."""

FACTORS, LOWEST_OFFSET = (0.1, 10.0), -0.5
"""Range of factors, and smallest offset relative to the mean latency of the family."""


class SumAgreement(NamedTuple):
    """Agreement of summed latencies of operations with measured latencies of networks.

    Attributes:
        spearman: Rank correlation.
        error: Median of the absolute relative error.
    """

    spearman: float
    error: float


class Correction(NamedTuple):
    """Factor and offset of each family of operations.

    Attributes:
        factors: Factor of the latency of an operation, by family.
        offsets: Offset in the unit of the latencies, by family.
        n_networks: Number of measured networks.
        before: Agreement of plain sums with the measured networks.
        after: Agreement of corrected sums on networks that the correction was not fitted to, by cross-validation.
        used: Whether the correction is applied; it is not if it does not reduce the error.
    """

    factors: dict[str, float]
    offsets: dict[str, float]
    n_networks: int
    before: SumAgreement
    after: SumAgreement
    used: bool

    def apply(self, op: ProfileOp, latency: float) -> float:
        """Latency of an operation as part of a network, not negative."""
        if not self.used:
            return latency
        return max(0.0, self.factors.get(op.family, 1.0) * latency + self.offsets.get(op.family, 0.0))


def agreement(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> SumAgreement:
    """Agreement of predicted and measured latencies, both of shape ``(n,)``."""
    flat = np.ptp(predicted) == 0 or np.ptp(measured) == 0
    rank = 0.0 if flat else float(spearmanr(predicted, measured).statistic)
    return SumAgreement(rank, float(np.median(np.abs(predicted / measured - 1))))


def calibrate(
    networks: Sequence[Sequence[ProfileOp]], measured: Sequence[float], latency: Mapping[ProfileOp, float]
) -> Correction | None:
    """Fit the correction.

    Args:
        networks: Operations of each measured network.
        measured: Latency of each network.
        latency: Latency of every operation, in the same unit.

    Returns:
        The correction; ``None`` if fewer than ``FEWEST`` networks were measured.
    """
    if len(networks) < FEWEST:
        return None
    families = sorted({op.family for ops in networks for op in ops})
    sums, counts = np.zeros((2, len(networks), len(families)))
    for row, ops in enumerate(networks):
        for op in ops:
            column = families.index(op.family)
            sums[row, column] += latency[op]
            counts[row, column] += 1
    target = np.asarray(measured, np.float64)
    held_out = np.zeros(len(target))
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(target):
        factors, offsets = _fit(sums[train], counts[train], target[train])
        held_out[test] = sums[test] @ factors + counts[test] @ offsets
    before, after = agreement(sums.sum(axis=1), target), agreement(held_out, target)
    factors, offsets = _fit(sums, counts, target)
    by_family, offset_of = (dict(zip(families, values.tolist(), strict=True)) for values in (factors, offsets))
    return Correction(by_family, offset_of, len(target), before, after, used=after.error < before.error)


def _fit(
    sums: NDArray[np.float64], counts: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors and offsets of the families, each of shape ``(n_families,)``.

    Offsets are fitted relative to the mean latency of the family, so that all unknowns are numbers near 1.
    """
    n = sums.shape[1]
    each = sums.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
    each = np.where(each > 0, each, 1e-3 * target.mean())
    matrix = np.concatenate([sums, counts * each], axis=1) / target[:, None] / NOISE
    prior = np.diag(np.repeat([1 / FACTOR_SPREAD, 1 / OFFSET_SPREAD], n))
    right = np.concatenate([np.full(len(target), 1 / NOISE), np.repeat([1 / FACTOR_SPREAD, 0.0], n)])
    low, high = np.repeat([FACTORS[0], LOWEST_OFFSET], n), np.repeat([FACTORS[1], np.inf], n)
    found = lsq_linear(np.concatenate([matrix, prior]), right, (low, high)).x
    return found[:n], found[n:] * each
