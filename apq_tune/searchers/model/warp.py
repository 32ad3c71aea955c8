"""Output warping of a Gaussian process: values without their long tail, standardised."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from apq_tune.problem.pareto import Floats

SHIFTS = (0.5, 1.0, 3.0)
"""Offsets of the logarithm below the best value, as multiples of the observed range. Smaller offsets would rule out
values much better than the best, and the search would stop early (``benchmarks/compare_samplers.py``)."""


class Warp(NamedTuple):
    """Warping ``(log(value - low) - mean) / std``, without the logarithm if ``low`` is infinite."""

    low: float
    mean: float
    std: float

    @classmethod
    def of(cls, values: Floats) -> Warp:
        """Fit the warping under which the values are most likely to be normally distributed (Box 1964).

        Args:
            values: Observed values, minimised, shape ``(n,)``.
        """
        span = float(np.ptp(values))
        best = cls(-np.inf, float(values.mean()), float(values.std()) or 1.0)
        if span <= 0 or len(values) < 3:
            return best
        likelihood = -len(values) * np.log(best.std)
        for shift in SHIFTS:
            low = float(values.min()) - shift * span
            logs = np.log(values - low)
            own = -len(values) * np.log(logs.std()) - logs.sum()
            if own > likelihood:
                best, likelihood = cls(low, float(logs.mean()), float(logs.std())), own
        return best

    def __call__(self, values: Floats) -> Floats:
        """Warp values."""
        inner = values if np.isinf(self.low) else np.log(values - self.low)
        return np.asarray((inner - self.mean) / self.std)

    def restore(self, standardised: Floats) -> Floats:
        """Map warped values back to values."""
        inner = standardised * self.std + self.mean
        return np.asarray(inner if np.isinf(self.low) else np.exp(inner) + self.low)

    def gain(self, mean: Floats, std: Floats, thresholds: Floats) -> Floats:
        """Expected improvement ``E[max(threshold - value, 0)]`` over thresholds.

        Args:
            mean: Means of the warped values, shape ``(m,)``.
            std: Standard deviations of the warped values, shape ``(m,)``.
            thresholds: Thresholds in units of the values, shape ``(t,)``.

        Returns:
            Expected improvement in units of the values, shape ``(m, t)``.
        """
        center, spread = (mean * self.std + self.mean)[:, None], (std * self.std)[:, None]
        if np.isinf(self.low):
            u = (thresholds - center) / spread
            return np.asarray(spread * (u * ndtr(u) + np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)))
        above = thresholds - self.low
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(above > 0, (np.log(np.maximum(above, 1e-300)) - center) / spread, -np.inf)
        # Closed form of the expectation for a log-normal variable, as in the pricing of put options (Black 1973).
        return np.asarray(np.maximum(above * ndtr(u) - np.exp(center + 0.5 * spread**2) * ndtr(u - spread), 0.0))
