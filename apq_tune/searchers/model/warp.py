"""Values as a Gaussian process likes them: without the long tail of bad ones, standardised."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from apq_tune.problem.pareto import Floats

SHIFTS = (0.5, 1.0, 3.0)
"""How far below the best value, in ranges of what was seen, logarithms may begin. Nearer, they would say that little
better than the best cannot be, and the search would stop to look (``benchmarks/compare_samplers.py``)."""


class Warp(NamedTuple):
    """``standardised = (log(value - low) - mean) / std``, or without the logarithm where ``low`` is infinite."""

    low: float
    mean: float
    std: float

    @classmethod
    def of(cls, values: Floats) -> Warp:
        """The most likely one: that after which the values look most like a normal distribution (Box 1964).

        Args:
            values: ``(n,)``, minimised.
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
        """Values -> standardised."""
        inner = values if np.isinf(self.low) else np.log(values - self.low)
        return np.asarray((inner - self.mean) / self.std)

    def restore(self, standardised: Floats) -> Floats:
        """Inverse."""
        inner = standardised * self.std + self.mean
        return np.asarray(inner if np.isinf(self.low) else np.exp(inner) + self.low)

    def gain(self, mean: Floats, std: Floats, thresholds: Floats) -> Floats:
        """How far a value is expected to stay below each threshold, nothing where it is above.

        Args:
            mean: ``(m,)`` of the standardised value.
            std: ``(m,)``.
            thresholds: ``(t,)`` of values.

        Returns:
            ``(m, t)``: ``E[max(threshold - value, 0)]``.
        """
        center, spread = (mean * self.std + self.mean)[:, None], (std * self.std)[:, None]
        if np.isinf(self.low):
            u = (thresholds - center) / spread
            return np.asarray(spread * (u * ndtr(u) + np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)))
        above = thresholds - self.low
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(above > 0, (np.log(np.maximum(above, 1e-300)) - center) / spread, -np.inf)
        # As a put option is priced (Black 1973).
        return np.asarray(np.maximum(above * ndtr(u) - np.exp(center + 0.5 * spread**2) * ndtr(u - spread), 0.0))
